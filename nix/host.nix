# What the engine has to know of a NixOS host: where its programs are, and what it has in the place of
# `/usr` and `/etc`.
{
  config,
  lib,
  pkgs,
}:
let
  inherit (lib) filterAttrs optional optionalAttrs;
  inherit (config.time) timeZone;

  # What an agent and its tools take for granted on any host, without a compiler or a language: those
  # are the operator's to add with `path`.
  programs = [
    pkgs.bash
    pkgs.coreutils
    pkgs.curl
    pkgs.diffutils
    pkgs.file
    pkgs.findutils
    pkgs.gawk
    pkgs.git
    pkgs.gnugrep
    pkgs.gnupatch
    pkgs.gnused
    pkgs.gnutar
    pkgs.gzip
    pkgs.less
    pkgs.procps
    # opencode searches with it, and would otherwise try to download it.
    pkgs.ripgrep
    pkgs.unzip
    pkgs.which
    pkgs.xz
  ];

  certificates = "/etc/ssl/certs/ca-certificates.crt";
  zoneInfo = "${pkgs.tzdata}/share/zoneinfo";

  bind = target: source: { inherit source target; };

  # Leaves by their store paths: at these places `/etc` has links to `/etc/static`, which the sandbox
  # does not show.
  binds = [
    (bind certificates config.security.pki.caBundle)
    (bind "/etc/ssl/certs/ca-bundle.crt" config.security.pki.caBundle)
    (bind "/etc/pki/tls/certs/ca-bundle.crt" config.security.pki.caBundle)
    (bind "/bin/sh" config.environment.binsh)
    (bind "/etc/protocols" "${pkgs.iana-etc}/etc/protocols")
    (bind "/etc/services" "${pkgs.iana-etc}/etc/services")
    (bind "/etc/zoneinfo" zoneInfo)
    (bind "/etc/terminfo" "${pkgs.ncurses}/share/terminfo")
  ]
  ++ optional (config.environment.usrbinenv != null) (
    bind "/usr/bin/env" config.environment.usrbinenv
  )
  ++ optional (timeZone != null) (bind "/etc/localtime" "${zoneInfo}/${timeZone}");

  # NixOS gives these to what has an entry in `systemd.services`, and to login shells.
  environment = lib.mapAttrs (_: toString) (
    filterAttrs (_: value: value != null) (
      config.systemd.globalEnvironment
      // {
        GIT_SSL_CAINFO = certificates;
        LANG = config.i18n.defaultLocale;
        NIX_SSL_CERT_FILE = certificates;
        SSL_CERT_FILE = certificates;
        TZ = timeZone;
        TZDIR = "/etc/zoneinfo";
      }
      // config.i18n.extraLocaleSettings
      // config.networking.proxy.envVars
    )
  );

  loader = pkgs.stdenv.cc.bintools.dynamicLinker;
  loaderName = baseNameOf (builtins.unsafeDiscardStringContext loader);

  # The host's list of libraries is empty where the host itself does without nix-ld: then those that
  # most downloaded programs want.
  libraries =
    config.programs.nix-ld.libraries
    ++ lib.optionals (!config.programs.nix-ld.enable) [
      pkgs.openssl
      pkgs.stdenv.cc.cc
      pkgs.zlib
    ];

  facts = {
    systemd = lib.toInt (lib.versions.major config.systemd.package.version);
    engine = lib.getExe config.services.opencode.package;
    nft = lib.getExe' pkgs.nftables "nft";
    shell = lib.getExe pkgs.bash;
    getent = lib.getExe' pkgs.getent "getent";
    systemctl = "${config.systemd.package}/bin/systemctl";
  };

  of =
    {
      nix ? false,
      nixLd ? false,
    }:
    let
      nixos = {
        inherit binds environment;
        path = map (package: "${lib.getBin package}") programs;
      }
      // optionalAttrs nix { nix = "${config.nix.package}"; }
      // optionalAttrs nixLd {
        nixLd = {
          binds = [
            (bind "/${pkgs.stdenv.hostPlatform.libDir}/${loaderName}" "${config.programs.nix-ld.package}/libexec/nix-ld")
          ];
          environment = {
            NIX_LD = loader;
            NIX_LD_LIBRARY_PATH = lib.makeLibraryPath libraries;
          };
        };
      };
    in
    {
      facts = facts // {
        inherit nixos;
      };
      # A file whose closure is whatever those strings name. An agent sees that closure and no more, so
      # only who opts in is shown what they opt into.
      closure = pkgs.writeText "opencode-sandbox.json" (builtins.toJSON nixos);
    };

  # Each of them once, however many instances there are.
  plain = of { };
  withNix = of { nix = true; };
  withNixLd = of { nixLd = true; };
  withBoth = of {
    nix = true;
    nixLd = true;
  };
in
# The facts for an instance, or for a fleet, with these opt-ins.
{ nix, nixLd }:
if nix && nixLd then
  withBoth
else if nix then
  withNix
else if nixLd then
  withNixLd
else
  plain
