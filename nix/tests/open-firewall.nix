# `openFirewall` admits a listener from another machine, with both of NixOS's firewalls; a listener
# without it, and one on loopback, are not reached. Neither firewall is swapped for the other.
#
# Uses the stand-in. Not run yet by the project.
{
  host,
  lib,
  prelude,
  ...
}:
let
  server = nftables: {
    imports = [ host ];
    networking.firewall.enable = true;
    networking.nftables.enable = lib.mkIf nftables true;
    services.opencode.instances = {
      website = {
        listen.address = "0.0.0.0";
        openFirewall = true;
      };
      billing.listen.address = "0.0.0.0";
      local = {
        directory = "/srv/local";
        listen.port = 4103;
      };
    };
  };
in
{
  name = "opencode-instances-open-firewall";

  nodes = {
    machine = server false;
    other = server true;
    client =
      { pkgs, ... }:
      {
        environment.systemPackages = [ pkgs.curl ];
      };
  };

  testScript = prelude + ''
    start_all()
    for server in [machine, other]:
        server.wait_for_unit("opencode.target")
        server.wait_until_succeeds("opencode-instances status", timeout=SOON)
    client.wait_for_unit("multi-user.target")

    for name, server in {"machine": machine, "other": other}.items():
        with subtest(f"{name}: a client is admitted where that was said"):
            client.wait_until_succeeds(
                f"test $(curl --silent --output /dev/null --write-out '%{{http_code}}' http://{name}:4101/config) = 401",
                timeout=SOON,
            )
            address = server.succeed("opencode-instances url website").strip()
            client.succeed(f"curl --fail --silent {address.replace('127.0.0.1', name)}config >&2")
        with subtest(f"{name}: and nowhere else"):
            for port in [4102, 4103]:
                server.succeed(f"curl --silent --max-time 20 http://127.0.0.1:{port}/config")
                client.fail(f"curl --silent --max-time 5 http://{name}:{port}/config")

    with subtest("the host's firewall is the one it had"):
        machine.succeed("iptables --list-rules nixos-fw | grep -- '--dport 4101'")
        machine.fail("systemctl is-active nftables.service")
        other.succeed("nft list table inet nixos-fw | grep 4101")
  '';
}
