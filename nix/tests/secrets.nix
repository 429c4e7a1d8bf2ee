# `auth.passwordFile`: a secret that another unit writes to a tmpfs before the server starts. It is
# used, it is in no unit, store path, command line or log, it can be exchanged, and without it the
# server does not start.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
{
  name = "opencode-instances-secrets";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ host ];
      services.opencode.instances.website.auth.passwordFile = "/run/secrets/website";

      # In the place of sops-nix or agenix.
      systemd.services.secrets = {
        wantedBy = [ "multi-user.target" ];
        before = [ "opencode-website.service" ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          RuntimeDirectory = "secrets";
          RuntimeDirectoryMode = "0700";
          UMask = "0077";
        };
        script = ''
          ${pkgs.coreutils}/bin/tr 0-9 a-j <<< 'pass-1234' > /run/secrets/website
        '';
      };
    };

  testScript = prelude + ''
    SECRET = "pass-bcde"

    machine.wait_for_unit("multi-user.target")
    wait_healthy("website", "billing")

    with subtest("the server asks for the secret"):
        assert f":{SECRET}@" in url("website"), "another password"
        machine.succeed(f"curl --fail --silent --user opencode:{SECRET} http://127.0.0.1:4101/config")
        assert http("http://127.0.0.1:4101/config") == "401"
        assert SECRET not in url("billing")

    with subtest("it is nowhere that others can read"):
        machine.fail(f"grep --recursive {SECRET} /etc/systemd/system/ /etc/opencode-instances/")
        machine.fail(f"journalctl --output=cat --unit='opencode-*' | grep {SECRET}")
        processes = machine.succeed(
            "cat $(systemctl show --value --property=ControlGroup opencode-website.service"
            " | sed 's,.*,/sys/fs/cgroup&/cgroup.procs,')"
        )
        for process in processes.split():
            assert SECRET not in machine.succeed(f"tr '\\0' ' ' < /proc/{process}/cmdline")
        machine.fail("test -e /var/lib/opencode/instance-auth/website/password")
        says("website", "cat /run/secrets/website 2>&1", "No such file")

    with subtest("a new secret comes with a restart of the server, and only of that one"):
        other = pid("billing")
        machine.succeed("echo another > /run/secrets/website")
        machine.succeed("opencode-instances restart website")
        wait_healthy("website")
        assert ":another@" in url("website")
        assert pid("billing") == other

    with subtest("without the secret there is no server, and not one without a password"):
        machine.succeed("rm /run/secrets/website")
        machine.fail("opencode-instances restart website")
        assert status("website")["state"] in ["failed", "restarting"]
        assert http("http://127.0.0.1:4101/config") == "000"
  '';
}
