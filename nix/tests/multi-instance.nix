# Two projects with the real server: each has its own user, namespace, listener and password, is
# healthy, and is so again after a reboot, with the same user.
#
# Needs opencode 1.18; the other tests use a stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-multi-instance";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ host ];
      services.opencode.defaults.package = pkgs.opencode;
      virtualisation.memorySize = 4096;
    };

  testScript = prelude + ''
    PORTS = {"website": 4101, "billing": 4102}


    def check():
        machine.wait_for_unit("multi-user.target")
        wait_healthy(*PORTS)
        users = {}
        for name, port in PORTS.items():
            with subtest(f"{name} is a server of its own"):
                users[name] = machine.succeed(f"id --user opencode-{name}").strip()
                leader = pid(name)
                owner = machine.succeed(f"stat --format=%u /proc/{leader}").strip()
                assert owner == users[name], f"{name} runs as {owner}, not {users[name]}"
                assert http(f"http://127.0.0.1:{port}/config") == "401"
                machine.succeed(f"curl --fail --silent {url(name)}config >&2")
        assert len(set(users.values())) == 2, users
        assert len({machine.succeed(f"readlink /proc/{pid(n)}/ns/net") for n in PORTS}) == 2
        assert url("website").split("@")[0] != url("billing").split("@")[0]
        return users


    with subtest("after boot"):
        before = check()

    with subtest("the listeners are those that were declared, and no server is on the host's network"):
        listening = machine.succeed("ss --listening --tcp --numeric --no-header --processes")
        for port in PORTS.values():
            assert f"127.0.0.1:{port}" in listening, listening
        assert "opencode" not in listening.replace("opencode-instances", ""), listening

    with subtest("the agent works in its own project and HOME"):
        says("website", "touch made && ls -l made", "made")
        machine.succeed("test \"$(stat --format=%U /srv/website/made)\" = opencode-website")
        says("website", "echo $HOME", "/var/lib/opencode/instance-state/website")

    with subtest("after a reboot"):
        machine.shutdown()
        machine.start()
        assert check() == before
  '';
}
