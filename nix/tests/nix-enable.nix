# `nix.enable`: the agent uses the host's Nix daemon, sees what it builds, and still cannot write to
# the store; another instance has neither daemon nor store.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-nix-enable";

  nodes.machine = {
    imports = [ host ];
    services.opencode.instances.website.nix.enable = true;
    virtualisation.writableStore = true;
  };

  testScript = prelude + ''
    DERIVATION = """
      derivation {
        name = "made-by-the-agent";
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [ "-c" "echo made > $out" ];
      }
    """

    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")

    with subtest("the agent builds, and reads what was built"):
        says("website", f"cat $(nix-build --no-out-link -E '{DERIVATION}' 2>/dev/null)", "made")
        says("website", "nix --extra-experimental-features nix-command store info 2>&1", "daemon")

    with subtest("the daemon knows it as the instance's user, who is not trusted"):
        says("website", "nix --extra-experimental-features nix-command store info 2>&1", "Trusted: 0")

    with subtest("the store is read-only all the same"):
        says("website", "touch /nix/store/x 2>&1", "Read-only")

    with subtest("an instance that did not ask has no daemon"):
        says("billing", "command -v nix || echo none", "none")
        says("billing", "test -e /nix/var/nix/daemon-socket || echo none", "none")

    with subtest("it is said aloud"):
        says("website", "echo $NIX_REMOTE", "daemon")
        machine.succeed("opencode-instances explain W0406 >&2")
  '';
}
