# For those who use no flakes: `(import ./opencode-instances { }).nixosModule` is the module.
{
  pkgs ? import <nixpkgs> { },
}:
rec {
  opencode-instances = pkgs.callPackage ./nix/package.nix { };
  package = opencode-instances;
  overlay = import ./nix/overlay.nix;
  nixosModule = ./nix/nixos.nix;

  # VM tests, one attribute each: nix-build --attr tests.multi-instance
  inherit (opencode-instances) tests;
}
