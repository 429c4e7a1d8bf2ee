# One evaluation with `count` instances, written `by` this module or by hand (or their accounts alone), down to the derivations
# that NixOS would build of it. The value is only its size.
{
  nixpkgsLib,
  count,
  by,
}:
let
  lib = import nixpkgsLib;
  number = lib.toInt count;

  ours.services.opencode = {
    enable = true;
    defaults.logLevel = "WARN";
    instances = lib.listToAttrs (
      map (
        index:
        lib.nameValuePair "project-${toString index}" {
          directory = "/srv/project-${toString index}";
          listen.port = 4095 + index;
        }
      ) (lib.range 1 number)
    );
  };

  inherit
    (lib.evalModules {
      modules = [
        ./stubs.nix
        { disabledModules = [ ./small.nix ]; }
        ./real-size.nix
        ../../module.nix
        (
          {
            module = ours;
            hand = import ./by-hand.nix { count = number; };
            accounts = import ./by-hand.nix {
              count = number;
              units = false;
            };
          }
          .${by}
        )
      ];
    })
    config
    ;
in
builtins.stringLength (
  builtins.toJSON [
    config.assertions
    config.warnings
    config.users
    config.networking.firewall.allowedTCPPorts
    (map (one: one.drvPath) (config.units ++ config.systemd.packages))
  ]
)
