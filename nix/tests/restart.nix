# What `switch-to-configuration` does with a change of the declaration: it touches what changed and
# nothing else. Modelled on nixpkgs' own test of switching; each specialisation is one change.
#
# Uses the stand-in. Not run yet by the project.
{
  host,
  lib,
  prelude,
  ...
}:
{
  name = "opencode-instances-restart";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ host ];
      system.switch.enable = true;

      # No option changes a policy yet; the trigger of a reload is all that differs.
      systemd.services."opencode-net@website".reloadTriggers = [ "one" ];

      specialisation =
        lib.mapAttrs
          (_: configuration: {
            inherit configuration;
          })
          {
            unrelated.environment.systemPackages = [ pkgs.hello ];
            changed.services.opencode.instances.billing.logLevel = "DEBUG";
            moved.services.opencode.instances.website.listen.port = 4111;
            policy.systemd.services."opencode-net@website".reloadTriggers = lib.mkForce [ "two" ];
            held.services.opencode.instances.website = {
              logLevel = "DEBUG";
              restartOnSwitch = false;
            };
            removed.services.opencode.instances.billing.enable = false;
            added.services.opencode.instances.extra = {
              directory = "/srv/extra";
              listen.port = 4103;
            };
          };
    };

  testScript = prelude + ''
    def switch(name, action="test"):
        """Returns what it said. The specialisations are those of the system that was booted."""
        system = "/run/booted-system" + (f"/specialisation/{name}" if name else "")
        said = machine.succeed(f"{system}/bin/switch-to-configuration {action} 2>&1")
        machine.log(said)
        return said


    def pids():
        return {name: pid(name) for name in ["website", "billing"]}


    def back():
        switch(None)
        wait_healthy("website", "billing")
        return pids()


    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")
    before = pids()

    with subtest("an unrelated change touches nothing"):
        said = switch("unrelated")
        assert "opencode" not in said, said
        assert pids() == before

    before = back()
    with subtest("a dry run says what would be done, and does nothing"):
        said = switch("changed", "dry-activate")
        assert "opencode-billing.service" in said, said
        assert "opencode-website" not in said, said
        assert pids() == before

    with subtest("a changed instance restarts, and only that one"):
        switch("changed")
        wait_healthy("website", "billing")
        now = pids()
        assert now["website"] == before["website"], "website was restarted"
        assert now["billing"] != before["billing"], "billing was not restarted"

    before = back()
    with subtest("a listener moves at the switch, although sockets that changed are passed over"):
        switch("moved")
        wait_healthy("website", "billing")
        assert http("http://127.0.0.1:4111/config") == "401"
        assert http("http://127.0.0.1:4101/config") == "000"
        assert pids() == before, "a server was restarted for its listener"

    before = back()
    assert http("http://127.0.0.1:4101/config") == "401"
    with subtest("a changed policy is loaded anew, and the agent goes on"):
        said = switch("policy")
        assert "reloading the following units" in said, said
        assert "opencode-net@website.service" in said, said
        assert pids() == before
        leader = before["website"]
        rules = machine.succeed(f"nsenter --target {leader} --net nft list ruleset")
        assert "table inet opencode" in rules, rules

    before = back()
    with subtest("restartOnSwitch = false: the agent goes on, and status says what is pending"):
        switch("held")
        assert pids() == before
        said = machine.execute("opencode-instances status website")[1]
        assert "pending restart" in said, said
        machine.succeed("opencode-instances restart website")
        wait_healthy("website")
        assert pid("website") != before["website"]
        said = machine.execute("opencode-instances status website")[1]
        assert "pending restart" not in said, said

    before = back()
    with subtest("a new instance is there after the switch, and disturbs no other"):
        switch("added")
        wait_healthy("extra")
        assert pids() == before

    before = back()
    with subtest("what is removed is gone: server, listener, namespace; state and project stay"):
        machine.fail("test -e /run/netns/opencode-extra")
        switch("removed")
        assert http("http://127.0.0.1:4102/config") == "000"
        machine.wait_until_fails("test -e /run/netns/opencode-billing", timeout=SOON)
        machine.fail("systemctl cat opencode-billing.service")
        machine.succeed("test -d /var/lib/opencode/instance-state/billing -a -d /srv/billing")
        assert pid("website") == before["website"]

    with subtest("and back again"):
        back()
  '';
}
