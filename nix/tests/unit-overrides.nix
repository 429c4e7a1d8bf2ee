# What an operator changes in a unit: `unitOverrides` replaces a directive, lists included, and
# NixOS's own options add to it.
#
# Uses the stand-in. Not run yet by the project.
{
  host,
  lib,
  prelude,
  ...
}:
{
  name = "opencode-instances-unit-overrides";

  nodes.machine = {
    imports = [ host ];
    services.opencode.instances = {
      website.unitOverrides = {
        main = {
          MemoryMax = "600M";
          LimitNOFILE = 4096;
        };
        net.TimeoutStartSec = 60;
      };
      billing = { };
    };
    systemd.services.opencode-website.serviceConfig = {
      MemoryHigh = "500M";
      Nice = 5;
    };
    systemd.services.opencode-billing.serviceConfig.OOMPolicy = lib.mkForce "stop";
  };

  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")

    with subtest("the engine's own text carries the override"):
        unit = machine.succeed("cat /etc/systemd/system/opencode-website.service")
        assert "MemoryMax=600M" in unit, unit
        assert show("opencode-website.service", "MemoryMax") == str(600 * 1024 * 1024)
        assert show("opencode-website.service", "LimitNOFILE") == "4096"
        assert show("opencode-net@website.service", "TimeoutStartUSec") == "1min"

    with subtest("a drop-in of NixOS's composes with it"):
        drop_in = machine.succeed("cat /etc/systemd/system/opencode-website.service.d/overrides.conf")
        assert "MemoryHigh=500M" in drop_in, drop_in
        assert show("opencode-website.service", "MemoryHigh") == str(500 * 1024 * 1024)
        assert show("opencode-website.service", "Nice") == "5"
        assert show("opencode-billing.service", "OOMPolicy") == "stop"

    with subtest("the PATH that the drop-in brings does not hide the sandbox's tools"):
        assert "PATH=" in drop_in, drop_in
        says("website", "git --version", "git version")

    with subtest("the other instance is as it was"):
        assert show("opencode-billing.service", "MemoryMax") == "infinity"
  '';
}
