# What `nix flake check` builds. The checks that need no Nix are those of `cargo xtask test`.
{ pkgs, package }:
let
  inherit (pkgs) lib;

  # A whole NixOS from the template, in a container, so that it asks for no boot loader or disk.
  # Building it runs the engine on the declaration, as every switch does.
  host = pkgs.nixos {
    imports = [
      ./nixos.nix
      ../templates/default/configuration.nix
    ];
    boot.isContainer = true;
    services.opencode = { inherit package; };
  };

  # An option without a description, or one whose default cannot be shown, fails.
  manual = pkgs.nixosOptionsDoc {
    options = { inherit (host.options.services) opencode; };
    warningsAsErrors = true;
  };

  sources = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ../.;
  };
in
{
  inherit package;
  host = host.config.system.build.toplevel;
  manual = manual.optionsCommonMark;
  format = pkgs.runCommand "nixfmt-check" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    find ${sources} -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';
}
# Virtual machines, one for each test.
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") package.tests
