# What the tests have in common: `host`, a machine with two projects, and `prelude`, the functions
# that their scripts use.
{ package }:
{
  _module.args = {
    host = {
      imports = [
        ../../nixos.nix
        ./host.nix
      ];
      services.opencode = { inherit package; };
    };
    prelude = builtins.readFile ./prelude.py;
  };

  # Seconds for the whole test, so that a hang ends.
  globalTimeout = 20 * 60;
}
