# Beside Docker and libvirt, which keep rules of their own in the host's tables: starting, reloading and
# stopping instances changes no rule of the host, and containers go on being reachable.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-beside-docker";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ host ];
      virtualisation.docker.enable = true;
      virtualisation.libvirtd.enable = true;
      virtualisation.diskSize = 4096;
      services.opencode.instances.website = {
        listen.address = "0.0.0.0";
        openFirewall = true;
      };
      environment.systemPackages = [ pkgs.iptables ];
    };

  testScript = prelude + ''
    def rules():
        """Every rule of the host, without counters."""
        return machine.succeed(
            "iptables-save | grep --invert-match '^[#:]'; ip6tables-save | grep --invert-match '^[#:]';"
            " nft --stateless list ruleset"
        )


    machine.wait_for_unit("multi-user.target")
    machine.wait_for_unit("docker.service")
    machine.wait_for_unit("libvirtd.service")
    wait_healthy("website", "billing")
    before = rules()

    with subtest("the host keeps its firewall, and Docker its rules"):
        assert "DOCKER" in before, before
        assert "--dport 4101" in before, before
        machine.fail("systemctl is-active nftables.service")

    with subtest("nothing that instances do changes a rule"):
        machine.succeed("opencode-instances stop --all")
        assert rules() == before
        machine.succeed("opencode-instances start --all")
        wait_healthy("website", "billing")
        machine.succeed("systemctl reload opencode-net@website.service")
        assert rules() == before

    with subtest("and nothing that the host's firewall does changes the policy of an instance"):
        inside = f"nsenter --target {pid('website')} --net nft --stateless list ruleset"
        policy = machine.succeed(inside)
        machine.succeed("systemctl restart firewall.service docker.service")
        assert machine.succeed(inside) == policy
        wait_healthy("website", "billing")
  '';
}
