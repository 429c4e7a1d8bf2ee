# What the types refuse, so that nothing is built of it, and the words that say so.
{ lib, pkgs }:
let
  instance = says: options: {
    inherit says;
    module.services.opencode = {
      enable = true;
      instances.website = {
        directory = lib.mkDefault "/srv/website";
      }
      // options;
    };
  };
in
{
  missing-directory = {
    says = "services.opencode.instances.website.directory' was accessed but has no value defined";
    module.services.opencode = {
      enable = true;
      instances.website = { };
    };
  };
  relative-directory = instance "is not of type `absolute path not in the Nix store'" {
    directory = "srv/website";
  };
  directory-in-store = instance "is not of type `absolute path not in the Nix store'" {
    directory = "${pkgs.git}/share";
  };
  directory-literal = instance "is not of type `absolute path not in the Nix store'" {
    directory = ./.;
  };
  lower-case-level = instance "is not of type `one of \"DEBUG\", \"INFO\", \"WARN\", \"ERROR\"'" {
    logLevel = "debug";
  };
  port-too-large =
    instance "is not of type `16 bit unsigned integer; between 0 and 65535 (both inclusive)'"
      {
        listen.port = 65536;
      };
  port-in-quotes =
    instance "is not of type `16 bit unsigned integer; between 0 and 65535 (both inclusive)'"
      {
        listen.port = "4096";
      };
  host-name = instance "is not of type `IPv4 or IPv6 address'" { listen.address = "localhost"; };
  address-with-port = instance "is not of type `IPv4 or IPv6 address'" {
    listen.address = "127.0.0.1:4096";
  };
  rule-in-address = instance "is not of type `IPv4 or IPv6 address'" {
    listen.address = "127.0.0.1; drop";
  };
  user-number = instance "is not of type `account name'" { user = "1000"; };
  long-user = instance "is not of type `account name'" {
    user = "a-user-whose-name-has-more-than-31";
  };
  password-literal = instance "is not of type `null or absolute path not in the Nix store'" {
    auth.passwordFile = ./default.nix;
  };
  password-of-package = instance "is not of type `null or absolute path not in the Nix store'" {
    auth.passwordFile = "${pkgs.git}/password";
  };
  password-in-default = {
    says = "services.opencode.defaults.auth.passwordFile' is not of type";
    module.services.opencode = {
      enable = true;
      defaults.auth.passwordFile = ./default.nix;
      instances.website.directory = "/srv/website";
    };
  };
  unknown-option = instance "The option `services.opencode.instances.website.model' does not exist" {
    model = "some/model";
  };
  package-by-name = instance "is not of type `package'" { package = "opencode"; };
  path-by-name = instance "is not of type `package or absolute path not in the Nix store'" {
    path = [ "nodejs" ];
  };
  directive-of-attributes =
    instance
      "is not of type `boolean or signed integer or string or list of (boolean or signed integer or string)'"
      {
        unitOverrides.main.MemoryMax.value = "4G";
      };
  quoted-flag = instance "is not of type `boolean'" { openFirewall = "yes"; };
}
