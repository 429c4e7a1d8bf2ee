# A host whose fleet the module declares, as data: what NixOS would take of it. Nothing of NixOS but
# stubs of its options is here, and Debian's programs are in the place of nixpkgs'.
{
  nixpkgs,
  module,
}:
let
  lib = import (nixpkgs + "/lib");
  store = import ./store.nix;

  # Every package that the module's other tests have, though only some are more than a busybox.
  others = lib.mapAttrs (_: _: store.busybox) (
    import (module + "/tests/eval/pkgs.nix") { inherit lib; }
  );

  write =
    name: script:
    derivation {
      inherit name;
      system = builtins.currentSystem;
      builder = "${store.busybox}/bin/sh";
      args = [
        "-euc"
        script
      ];
      PATH = "${store.busybox}/bin";
    };

  platform = lib.systems.elaborate builtins.currentSystem;
  pkgs =
    others
    // store
    // {
      opencode = store.opencode // {
        version = "1.18.33";
      };
      systemd = store.systemd // {
        version = "257";
      };
      iana-etc = write "iana-etc" "mkdir -p $out/etc; touch $out/etc/protocols $out/etc/services";
      ncurses = write "ncurses" "mkdir -p $out/share/terminfo";
      # nixpkgs' own passes on to the loader that NIX_LD names.
      nix-ld = write "nix-ld" "mkdir -p $out/libexec; cp ${store.glibc}/lib/ld-linux-x86-64.so.2 $out/libexec/nix-ld";
      openssl = store.glibc;
      zlib = store.glibc;
      stdenv = {
        buildPlatform = platform;
        hostPlatform = platform;
        cc.bintools.dynamicLinker = "${store.glibc}/lib/ld-linux-x86-64.so.2";
        cc.cc = store.glibc;
      };
      writeText = name: text: write name "printf %s ${lib.escapeShellArg text} >$out";
    };

  rules = write "rules" "mkdir $out; echo rule >$out/rules.md";

  inherit
    (lib.evalModules {
      modules = [
        (module + "/tests/eval/stubs.nix")
        (module + "/module.nix")
        {
          _module.args.pkgs = pkgs;
          environment.usrbinenv = "${store.busybox}/bin/env";
          security.pki.caBundle = "${store.cacert}/etc/ssl/certs/ca-bundle.crt";
          systemd.globalEnvironment = lib.mkForce { LD_LIBRARY_PATH = "${store.glibc}/lib"; };
          time.timeZone = "Europe/Berlin";
          services.opencode = {
            enable = true;
            defaults.nixLd.enable = true;
            instances = {
              website = {
                directory = "/srv/website";
                listen = {
                  address = "0.0.0.0";
                  port = 4101;
                };
                openFirewall = true;
                path = [ store.python3 ];
                settings = {
                  share = "disabled";
                  instructions = [ "${rules}/rules.md" ];
                };
                agents.review = pkgs.writeText "review.md" "Read what changed.";
                commands.lint = "Run the linter.";
                environment.NOTES = pkgs.writeText "notes" "a note";
                postInitScript = "cat ${pkgs.writeText "first" "made once"} >made";
              };
              billing = {
                directory = "/srv/billing";
                listen = {
                  address = "0.0.0.0";
                  port = 4102;
                };
                nix.enable = true;
              };
            };
          };
        }
      ];
    })
    config
    ;
in
pkgs.writeText "host.json" (
  builtins.toJSON {
    problems = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
    fleet = config.environment.etc."opencode-instances".source;
    packages = map toString config.systemd.packages;
    ports = config.networking.firewall.allowedTCPPorts;
    homes = lib.mapAttrs (_: user: user.home) config.users.users;
    programs = map toString config.environment.systemPackages;
  }
)
