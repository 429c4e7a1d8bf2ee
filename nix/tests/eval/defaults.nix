# For each option a value for `defaults`, and another one for an instance that says it itself.
{ lib, pkgs }:
lib.mapAttrs (key: values: { inherit key; } // values) {
  "activation" = {
    value = "on-demand";
    other = "boot";
  };
  "agents" = {
    value.review = "one";
    other.review.file = "/etc/opencode/review.md";
  };
  "auth.enable" = {
    value = false;
    other = true;
  };
  "auth.passwordFile" = {
    value = "/run/secrets/common";
    other = "/run/secrets/own";
  };
  "auth.username" = {
    value = "common";
    other = "own";
  };
  "autoStart" = {
    value = false;
    other = true;
  };
  "commands" = {
    value.lint = "one";
    other.lint = "two";
  };
  "configFile" = {
    value = "/etc/opencode/common.json";
    other = "/etc/opencode/own.json";
  };
  "credentials" = {
    value.anthropic = "/run/secrets/common";
    other.openai = "/run/secrets/own";
  };
  "directory" = {
    value = "/srv/common";
    other = "/srv/own";
  };
  "enable" = {
    value = false;
    other = true;
  };
  "enforcedSettings" = {
    value.share = "disabled";
    other.autoupdate = false;
  };
  "environment" = {
    value.EDITOR = "vim";
    other.PAGER = "cat";
  };
  "environmentFile" = {
    value = [ "/run/secrets/common.env" ];
    other = [ ];
  };
  "extraArgs" = {
    value = [ "--pure" ];
    other = [ ];
  };
  "extraGroups" = {
    value = [ "www-data" ];
    other = [ "media" ];
  };
  "group" = {
    value = "projects";
    other = "website";
  };
  "idleChildren" = {
    value = false;
    other = true;
  };
  "idleClients" = {
    value = "active";
    other = "connected";
  };
  "idleTimeout" = {
    value = 3600;
    other = 60;
  };
  "instructions" = {
    value = "Answer in English.";
    other = "Answer in German.";
  };
  "listen.address" = {
    value = "192.0.2.1";
    other = "::1";
  };
  "listen.port" = {
    value = 5000;
    other = 5001;
  };
  "logLevel" = {
    value = "ERROR";
    other = "DEBUG";
  };
  "network.dns.allowNames" = {
    value = [ "example.org" ];
    other = [ ];
  };
  "network.dns.policy" = {
    value = "names";
    other = "open";
  };
  "network.hostPorts" = {
    value = [ 11434 ];
    other = [ ];
  };
  "network.outbound.allowCidrs" = {
    value = [ "192.168.1.20/32" ];
    other = [
      {
        cidr = "192.168.1.0/24";
        ports = [
          443
          "8000-8100"
        ];
        protocol = "tcp";
      }
    ];
  };
  "network.outbound.policy" = {
    value = "allow-list";
    other = "none";
  };
  "network.pool" = {
    value = "172.30.0.0/16";
    other = "10.9.0.0/16";
  };
  "nix.enable" = {
    value = true;
    other = false;
  };
  "nixLd.enable" = {
    value = true;
    other = false;
  };
  "openFirewall" = {
    value = true;
    other = false;
  };
  "package" = {
    value = pkgs.package "opencode" "1.19.0";
    other = pkgs.package "opencode" "1.20.0";
  };
  "path" = {
    value = [ pkgs.nodejs ];
    other = [ "/opt/tools" ];
  };
  "plugins" = {
    value."a.js" = "one";
    other."b.js" = "two";
  };
  "postInitScript" = {
    value = "mkdir common";
    other = "mkdir own";
  };
  "preInitScript" = {
    value = "mkdir common";
    other = null;
  };
  "resources.cpuQuota" = {
    value = "150%";
    other = "50%";
  };
  "resources.cpuWeight" = {
    value = 50;
    other = 200;
  };
  "resources.diskQuota" = {
    value = "20G";
    other = "1G";
  };
  "resources.ioWeight" = {
    value = 50;
    other = 200;
  };
  "resources.memoryHigh" = {
    value = "1G";
    other = "2G";
  };
  "resources.memoryMax" = {
    value = "8G";
    other = "infinity";
  };
  "resources.tasksMax" = {
    value = 512;
    other = 1024;
  };
  "restartOnSecretChange" = {
    value = true;
    other = false;
  };
  "restartOnSwitch" = {
    value = false;
    other = true;
  };
  "sandbox.allowNestedSandbox" = {
    value = true;
    other = false;
  };
  "sandbox.devices" = {
    value = [ "/dev/kvm" ];
    other = [ "-/dev/dri" ];
  };
  "sandbox.nixStore" = {
    value = "full";
    other = "closure";
  };
  "sandbox.readOnlyPaths" = {
    value = [ "/data/common" ];
    other = [ "-/data/own:/own" ];
  };
  "sandbox.readWritePaths" = {
    value = [ "/data/common" ];
    other = [ ];
  };
  "sandbox.relax" = {
    value = [ "umask" ];
    other = [ "debug-calls" ];
  };
  "sandbox.unixSockets" = {
    value = [ "/run/postgresql/.s.PGSQL.5432" ];
    other = [ "-/run/redis/redis.sock" ];
  };
  "settings" = {
    value = {
      model = "a/b";
      permission.bash = "ask";
    };
    other.permission.edit = "deny";
  };
  "skills" = {
    value.release = "one";
    other.release.file = "/etc/opencode/release";
  };
  "stateDir" = {
    value = "/data/common";
    other = "/data/own";
  };
  "trustProject" = {
    value = false;
    other = true;
  };
  "unitOverrides.main" = {
    value.MemoryMax = "8G";
    other.TasksMax = 100;
  };
  "unitOverrides.net" = {
    value.TimeoutStartSec = 60;
    other.TimeoutStartSec = 90;
  };
  "unitOverrides.setup" = {
    value.TimeoutStartSec = 300;
    other.Nice = 5;
  };
  "user" = {
    value = "common";
    other = "own";
  };
}
