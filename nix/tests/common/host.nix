# Two projects, `website` and `billing`, each owned by its instance's user.
{
  config,
  lib,
  pkgs,
  ...
}:
{
  services.opencode = {
    enable = true;
    # Light, and no agent is needed to run a command where an agent's tools would run.
    defaults.package = lib.mkDefault (pkgs.callPackage ./stand-in.nix { });
    instances = {
      website = {
        directory = "/srv/website";
        listen.port = lib.mkDefault 4101;
      };
      billing = {
        directory = "/srv/billing";
        listen.port = lib.mkDefault 4102;
      };
    };
  };

  systemd.tmpfiles.settings.projects = lib.mapAttrs' (
    _: instance:
    lib.nameValuePair instance.directory {
      d = {
        inherit (instance) user group;
        mode = "0750";
      };
    }
  ) config.services.opencode.instances;

  environment.systemPackages = [
    pkgs.curl
    pkgs.nftables
  ];
  virtualisation.memorySize = 2048;
}
