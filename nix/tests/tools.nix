# Programs for the agent: `path`, in front of whatever PATH an operator gives the unit, and
# `nixLd.enable` for programs that were not built for NixOS. Another instance has neither.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-tools";

  nodes.machine =
    { pkgs, ... }:
    let
      # A program as others ship it, with the loader where other distributions have it.
      foreign = pkgs.runCommandCC "foreign" { nativeBuildInputs = [ pkgs.patchelf ]; } ''
        loader=$(cat $NIX_CC/nix-support/dynamic-linker)
        directory=/lib
        case $loader in *ld-linux-x86-64*) directory=/lib64 ;; esac
        install -D ${pkgs.hello}/bin/hello $out/bin/foreign
        patchelf --set-interpreter $directory/$(basename $loader) --remove-rpath $out/bin/foreign
      '';
    in
    {
      imports = [ host ];
      services.opencode.instances.website = {
        path = [
          pkgs.hello
          foreign
        ];
        nixLd.enable = true;
      };
      services.opencode.instances.billing.path = [ foreign ];
      # An operator's own drop-in, with a PATH that has another program of the same name.
      systemd.services.opencode-website.path = [
        (pkgs.writeShellScriptBin "hello" "echo the wrong one")
      ];
    };

  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")

    with subtest("path comes first, and is the instance's own"):
        says("website", "hello", "Hello, world!")
        says("billing", "hello 2>&1", "not found")

    with subtest("the operator's PATH is still behind it"):
        environment = agent("website", "echo $PATH")
        assert environment.index("-hello-") < environment.index("-hello/"), environment

    with subtest("a foreign program finds a loader where that was asked for"):
        says("website", "foreign", "Hello, world!")
        assert "Hello, world!" not in agent("billing", "foreign 2>&1")
  '';
}
