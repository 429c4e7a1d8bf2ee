# What an operator would write for the same instances without this project: the same units, with a
# sandbox that is no larger, and the accounts.
{
  count,
  units ? true,
}:
{ lib, pkgs, ... }:
let
  names = map (number: "project-${toString number}") (lib.range 1 count);
  instances = lib.imap0 (index: name: {
    inherit name;
    port = 4096 + index;
  }) names;
  each = make: lib.listToAttrs (map make instances);

  hardening = {
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateIPC = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = "tmpfs";
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = [
      "AF_UNIX"
      "AF_INET"
      "AF_INET6"
    ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service"
      "~@privileged"
    ];
    UMask = "0077";
  };
  state = name: "/var/lib/opencode/instance-state/${name}";

  accounts = {
    users.users = each (
      { name, ... }:
      lib.nameValuePair "opencode-${name}" {
        isSystemUser = true;
        group = "opencode-${name}";
        home = state name;
        description = "opencode ${name}";
      }
    );
    users.groups = each ({ name, ... }: lib.nameValuePair "opencode-${name}" { });
  };

  services = {
    systemd.sockets = each (
      { name, port }:
      lib.nameValuePair "opencode-listen@${name}" {
        wantedBy = [ "sockets.target" ];
        listenStreams = [ "127.0.0.1:${toString port}" ];
      }
    );

    systemd.services = lib.mkMerge [
      (each (
        { name, port }:
        lib.nameValuePair "opencode-${name}" {
          description = "opencode server of ${name}";
          wantedBy = [ "multi-user.target" ];
          requires = [ "opencode-net@${name}.service" ];
          after = [ "opencode-net@${name}.service" ];
          path = [
            pkgs.bash
            pkgs.git
          ];
          environment = {
            HOME = state name;
            SHELL = "${pkgs.bash}/bin/bash";
          };
          serviceConfig = hardening // {
            Type = "simple";
            ExecStartPre = "${pkgs.coreutils}/bin/mkdir -p ${state name}/.config/opencode";
            ExecStart = "${pkgs.opencode}/bin/opencode serve --hostname 127.0.0.1 --port ${toString port}";
            User = "opencode-${name}";
            Group = "opencode-${name}";
            WorkingDirectory = "/srv/${name}";
            StateDirectory = "opencode/instance-state/${name}";
            StateDirectoryMode = "0700";
            BindPaths = [
              "/srv/${name}"
              (state name)
            ];
            NetworkNamespacePath = "/run/netns/opencode-${name}";
            LoadCredential = "password:/var/lib/opencode/${name}/password";
            Restart = "always";
            RestartSec = "250ms";
          };
        }
      ))
      (each (
        { name, ... }:
        lib.nameValuePair "opencode-net@${name}" {
          description = "Network of ${name}";
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = "${pkgs.nftables}/bin/nft -f /etc/opencode/${name}.nft";
            ExecStop = "${pkgs.coreutils}/bin/rm -f /run/netns/opencode-${name}";
          };
        }
      ))
      (each (
        { name, port }:
        lib.nameValuePair "opencode-listen@${name}" {
          description = "Listener of ${name}";
          serviceConfig = hardening // {
            ExecStart = "${pkgs.systemd}/lib/systemd/systemd-socket-proxyd 127.0.0.1:${toString port}";
            DynamicUser = true;
            NetworkNamespacePath = "/run/netns/opencode-${name}";
          };
        }
      ))
    ];
  };
in
{
  imports = [ accounts ] ++ lib.optional units services;
}
