{ config, lib, ... }:
{
  # Add what nixos-generate-config wrote for this machine, and its boot loader:
  # imports = [ ./hardware-configuration.nix ];
  networking.hostName = "host";
  system.stateVersion = "26.05";

  services.opencode = {
    enable = true;
    instances = {
      website = {
        directory = "/srv/website";
        listen.port = 4101;
      };
      billing = {
        directory = "/srv/billing";
        listen.port = 4102;
      };
    };
  };

  # The projects themselves are yours to make. Here each belongs to its instance; others are in
  # docs/how-to/operating.md, for projects that humans work in as well.
  systemd.tmpfiles.settings.projects = lib.mapAttrs' (
    _: instance:
    lib.nameValuePair instance.directory {
      d = {
        inherit (instance) user group;
        mode = "0750";
      };
    }
  ) config.services.opencode.instances;
}
