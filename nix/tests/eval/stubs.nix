# The options of NixOS that the module reads and writes, with NixOS's types and none of its effects.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;

  option = type: default: mkOption { inherit type default; };
  list = type: option (types.listOf type) [ ];
  flag = option types.bool false;

  unit.options = {
    wantedBy = list types.str;
    wants = list types.str;
  };
in
{
  imports = [ ./small.nix ];

  options = {
    assertions = list types.unspecified;
    warnings = list types.str;

    environment = {
      binsh = option types.path "${pkgs.bash}/bin/sh";
      usrbinenv = option (types.nullOr types.path) "${pkgs.coreutils}/bin/env";
      etc = option (types.attrsOf (types.submodule { options.source = option types.path null; })) { };
      systemPackages = list types.package;
    };

    i18n = {
      defaultLocale = option types.str "en_US.UTF-8";
      extraLocaleSettings = option (types.attrsOf types.str) { };
    };

    networking = {
      dhcpcd.denyInterfaces = list types.str;
      firewall.allowedTCPPorts = mkOption {
        type = types.listOf types.port;
        default = [ ];
        apply = ports: lib.unique (builtins.sort builtins.lessThan ports);
      };
      networkmanager.unmanaged = list types.str;
      nftables.enable = flag;
      proxy.envVars = option (types.attrsOf types.str) { };
    };

    nix = {
      enable = option types.bool true;
      package = option types.package pkgs.nix;
      settings = {
        sandbox = option (types.either types.bool (types.enum [ "relaxed" ])) true;
        trusted-users = list types.str;
      };
    };

    programs.nix-ld = {
      enable = flag;
      package = option types.package pkgs.nix-ld;
      libraries = list types.package;
    };

    security.pki.caBundle = option types.path "${pkgs.package "nss-cacert" "3.114"}/etc/ssl/certs/ca-bundle.crt";

    system.checks = list types.package;

    systemd = {
      package = option types.package pkgs.systemd;
      packages = list types.package;
      globalEnvironment = option (types.attrsOf (
        types.nullOr (
          types.oneOf [
            types.str
            types.path
            types.package
          ]
        )
      )) { };
      targets = option (types.attrsOf (types.submodule unit)) { };
      tmpfiles.packages = list types.package;
      network.networks = option (types.attrsOf (
        types.submodule {
          options = {
            matchConfig = option (types.attrsOf types.anything) { };
            linkConfig = option (types.attrsOf types.anything) { };
          };
        }
      )) { };
    };

    time.timeZone = option (types.nullOr types.str) null;

    users.mutableUsers = option types.bool true;
  };

  config = {
    # As NixOS defines it for every unit.
    systemd.globalEnvironment = {
      LOCALE_ARCHIVE = "${pkgs.package "glibc-locales" "2.42"}/lib/locale/locale-archive";
      TZDIR = "${pkgs.tzdata}/share/zoneinfo";
    };
    nix.settings.trusted-users = [ "root" ];
    users.users.root = {
      uid = 0;
      group = "root";
      isSystemUser = true;
    };
    users.groups.root.gid = 0;
    _module.args.pkgs = lib.mkDefault (import ./pkgs.nix { inherit lib; });
  };
}
