# For each option a value for `defaults`, and another one for an instance that says it itself.
{ lib, pkgs }:
lib.mapAttrs (key: values: { inherit key; } // values) {
  "auth.enable" = {
    value = false;
    other = true;
  };
  "auth.passwordFile" = {
    value = "/run/secrets/common";
    other = "/run/secrets/own";
  };
  "autoStart" = {
    value = false;
    other = true;
  };
  "directory" = {
    value = "/srv/common";
    other = "/srv/own";
  };
  "enable" = {
    value = false;
    other = true;
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
  "restartOnSwitch" = {
    value = false;
    other = true;
  };
  "stateDir" = {
    value = "/data/common";
    other = "/data/own";
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
