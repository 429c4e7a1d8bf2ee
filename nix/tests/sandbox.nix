# What an agent can reach, tried by commands that the server itself runs inside the sandbox. Each
# attack is first seen to succeed as root outside it, so that a typing error does not pass for a wall.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-sandbox";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ host ];
      # On the host, and in no closure of an instance's.
      environment.systemPackages = [ pkgs.cowsay ];
      environment.etc."canary".text = "the-canary";
      time.timeZone = "Europe/Vienna";
      users.users.alice.isNormalUser = true;
    };

  testScript = prelude + ''
    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")
    machine.succeed(
        "for directory in /srv/billing /var/lib/opencode/instance-state/billing /home/alice /root"
        " /tmp /var/tmp /run /dev/shm /var/lib; do echo the-canary > $directory/canary; done"
    )
    cowsay = machine.succeed("readlink --canonicalize $(command -v cowsay)").strip()
    store = int(machine.succeed("ls /nix/store | wc -l"))

    STOLEN = {
        "the other project": ("cat /srv/billing/canary", "the-canary"),
        "the other state": ("cat /var/lib/opencode/instance-state/billing/canary", "the-canary"),
        "the other password": (
            "test -s /var/lib/opencode/instance-auth/billing/password && echo BREACH",
            "BREACH",
        ),
        "the own password where it is kept": (
            "test -s /var/lib/opencode/instance-auth/website/password && echo BREACH",
            "BREACH",
        ),
        "a human's home": ("cat /home/alice/canary", "the-canary"),
        "root's home": ("cat /root/canary", "the-canary"),
        "/etc": ("cat /etc/canary", "the-canary"),
        "/tmp": ("cat /tmp/canary", "the-canary"),
        "/var/tmp": ("cat /var/tmp/canary", "the-canary"),
        "/var/lib": ("cat /var/lib/canary", "the-canary"),
        "/run": ("cat /run/canary", "the-canary"),
        "/dev/shm": ("cat /dev/shm/canary", "the-canary"),
        "the shadow file": ("cat /etc/shadow", "root:"),
        "the host's accounts": ("cat /etc/passwd", "alice"),
        "the specification": ("cat /etc/opencode-instances/billing/spec.json", "4102"),
        "the units": ("cat /etc/systemd/system/opencode-billing.service", "ExecStart"),
        "the running system": ("ls /run/current-system/sw/bin", "cowsay"),
        "a store path of the host": (f"test -e {cowsay} && echo BREACH", "BREACH"),
        "the Nix daemon": ("test -S /nix/var/nix/daemon-socket/socket && echo BREACH", "BREACH"),
        "systemd": ("test -S /run/systemd/private && echo BREACH", "BREACH"),
        "D-Bus": ("test -S /run/dbus/system_bus_socket && echo BREACH", "BREACH"),
        "the other listener": (
            "(exec 3<>/dev/tcp/127.0.0.1/4102) 2>/dev/null && echo BREACH",
            "BREACH",
        ),
        "the host's processes": ("cat /proc/[0-9]*/comm", "systemd-journal"),
    }

    for what, (command, loot) in STOLEN.items():
        with subtest(f"an agent cannot reach {what}"):
            _, outside = machine.execute(f"bash -c {shlex.quote(command)} 2>&1")
            assert loot in outside, f"as root outside: {outside!r}"
            inside = agent("website", command)
            assert loot not in inside, f"the agent got {inside!r}"

    with subtest("it sees the store paths that it needs, and no others"):
        seen = int(agent("website", "ls /nix/store | wc -l"))
        assert 0 < seen < store, f"{seen} of {store}"
        says("website", "touch /nix/store/x 2>&1", "Read-only")

    with subtest("names are not resolved through the host's daemons"):
        for socket in ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"]:
            says("website", f"test -e {socket} || echo absent", "absent")
        says("website", "cat /etc/nsswitch.conf", "hosts: files dns")

    with subtest("what programs look for is there"):
        says("website", "test -x /bin/sh -a -x /usr/bin/env && echo there", "there")
        says("website", "/usr/bin/env bash -c 'echo works'", "works")
        says("website", "grep -q BEGIN /etc/ssl/certs/ca-certificates.crt && echo read", "read")
        says("website", "grep -q BEGIN $SSL_CERT_FILE && echo read", "read")
        says("website", "date +%Z", machine.succeed("TZ=Europe/Vienna date +%Z").strip())
        says("website", "id --user --name", "opencode-website")
        says("website", "git --version", "git version")

    with subtest("what its own namespaces say, entered from outside"):
        leader = pid("website")
        inside = machine.succeed(f"nsenter --target {leader} --net ss --listening --tcp --no-header")
        assert "4102" not in inside, inside
        links = machine.succeed(f"nsenter --target {leader} --net ip -json link")
        assert [link["ifname"] for link in json.loads(links)] == ["lo"], links
        rules = machine.succeed(f"nsenter --target {leader} --net nft list ruleset")
        assert "table inet opencode" in rules, rules

    with subtest("systemd's own judgement"):
        machine.succeed("systemd-analyze security --threshold=10 opencode-website.service >&2")
  '';
}
