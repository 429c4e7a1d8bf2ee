# The module with this checkout's engine in it: the one of an overlay where there is one, so that a
# host can patch it or build it for another platform.
{ lib, pkgs, ... }:
{
  imports = [ ./module.nix ];

  services.opencode.package = lib.mkDefault (
    pkgs.opencode-instances or (pkgs.callPackage ./package.nix { })
  );
}
