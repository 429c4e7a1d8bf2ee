# There is no `flake.lock` beside this file yet: the first `nix` command that reads it in a checkout
# writes one. A host that has this flake as an input pins everything in a lock of its own.
{
  description = "Many isolated opencode servers on one Linux host";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEachSystem =
        perSystem:
        lib.genAttrs [ "aarch64-linux" "x86_64-linux" ] (
          system: perSystem nixpkgs.legacyPackages.${system}
        );
      packageOf = pkgs: pkgs.callPackage ./nix/package.nix { };
    in
    {
      overlays.default = import ./nix/overlay.nix;

      # Both names are the same module; importing both is importing it once.
      nixosModules.opencode-instances.imports = [ ./nix/nixos.nix ];
      nixosModules.default = self.nixosModules.opencode-instances;

      packages = forEachSystem (pkgs: rec {
        opencode-instances = packageOf pkgs;
        default = opencode-instances;
      });

      # The package with its unit tests, the module's evaluation, and one virtual machine for each
      # file of nix/tests. More is in `cargo xtask test`, which needs no Nix.
      checks = forEachSystem (
        pkgs:
        import ./nix/checks.nix {
          inherit pkgs;
          package = packageOf pkgs;
        }
      );

      devShells = forEachSystem (pkgs: {
        default = pkgs.callPackage ./nix/shell.nix { };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);

      templates.default = {
        path = ./templates/default;
        description = "A NixOS host with two projects";
      };
    };
}
