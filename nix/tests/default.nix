# Tests in virtual machines, one for each file. Those of `cargo xtask test` are more, and run without
# Nix; these prove what only NixOS can: activation, switching, the store, the firewall.
{
  lib,
  testers,
  package,
}:
lib.genAttrs
  [
    "accounts"
    "beside-docker"
    "multi-instance"
    "nix-enable"
    "open-firewall"
    "restart"
    "sandbox"
    "secrets"
    "tools"
    "unit-overrides"
  ]
  (
    name:
    testers.runNixOSTest {
      imports = [
        (./. + "/${name}.nix")
        (import ./common { inherit package; })
      ];
    }
  )
