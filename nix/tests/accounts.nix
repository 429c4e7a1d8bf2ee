# Accounts: those that the module makes, one that the operator declares, and what else the operator says
# of them; made by NixOS's script while it activates, and by userborn in a unit. What an
# agent makes is its own user's, and a further group opens what belongs to that group.
#
# Uses the stand-in. Not run yet by the project.
{ host, prelude, ... }:
let
  machine = {
    imports = [ host ];
    services.opencode.instances = {
      website = {
        user = "web";
        group = "projects";
      };
      billing.extraGroups = [ "projects" ];
    };
    users = {
      users.web = {
        isSystemUser = true;
        group = "projects";
        uid = 4101;
      };
      users.opencode-billing.uid = 4102;
      groups.projects.gid = 4100;
    };
  };
in
{
  name = "opencode-instances-accounts";

  nodes = {
    inherit machine;
    userborn = {
      imports = [ machine ];
      services.userborn.enable = true;
    };
  };

  testScript = prelude + ''
    start_all()
    for one in [machine, userborn]:
        # What the functions above speak to.
        machine = one
        machine.wait_for_unit("multi-user.target")
        wait_healthy("website", "billing")

        with subtest(f"{machine.name}: servers run as who was declared"):
            for name, number in {"website": "4101", "billing": "4102"}.items():
                assert machine.succeed(f"stat --format=%u /proc/{pid(name)}").strip() == number
            machine.fail("getent passwd opencode-website")
            machine.succeed("getent group opencode-billing")

        with subtest(f"{machine.name}: names inside are those of the instance, and no others"):
            says("website", "id --user --name", "web")
            says("website", "id opencode-billing 2>&1", "no such user")

        with subtest(f"{machine.name}: what an agent makes is its user's"):
            says("website", "touch made && echo done", "done")
            owner = machine.succeed("stat --format=%U:%G /srv/website/made").strip()
            assert owner == "web:projects", owner

        with subtest(f"{machine.name}: a further group opens what belongs to it"):
            machine.succeed("echo shared > /srv/billing/shared")
            machine.succeed("chown root:projects /srv/billing/shared; chmod 0640 /srv/billing/shared")
            says("billing", "cat shared", "shared")
            says("billing", "echo more >> shared || echo refused", "refused")
  '';
}
