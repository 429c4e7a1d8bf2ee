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
  activation-by-another-word = instance "is not of type `one of \"boot\", \"on-demand\"'" {
    activation = "socket";
  };
  no-idle-timeout = instance "is not of type `integer between 1 and 604800 (both inclusive)'" {
    idleTimeout = 0;
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

  # Configuration and content.
  function-in-settings = instance "settings.model' is not of type `JSON value'" {
    settings.model = _: "some/model";
  };
  two-models = {
    says = "services.opencode.instances.website.settings.model' has conflicting definition values";
    module = {
      imports = [ (instance "" { settings.model = "a/b"; }).module ];
      services.opencode.instances.website.settings.model = "c/d";
    };
  };
  relative-file = instance "configFile' is not of type `null or absolute path'" {
    configFile = "opencode.json";
  };
  content-of-another-key = instance "agents.review.text' does not exist" {
    agents.review.text = "one";
  };
  content-twice = {
    says = "services.opencode.instances.website.instructions";
    module = {
      imports = [ (instance "" { instructions = "one"; }).module ];
      services.opencode.instances.website.instructions.file = "/etc/opencode/two.md";
    };
  };
  content-of-number = instance "agents.review' is not of type `text or file'" {
    agents.review = 1;
  };
  list-of-variables = instance "environment.EDITOR' is not of type" {
    environment.EDITOR = [ "vim" ];
  };
  script-of-path = instance "preInitScript' is not of type `null or strings concatenated with" {
    preInitScript = ./default.nix;
  };

  # Secrets.
  environment-literal = instance "environmentFile' is not of type" {
    environmentFile = ./default.nix;
  };
  environment-of-package = instance "environmentFile' is not of type" {
    environmentFile = "${pkgs.git}/environment";
  };
  environment-literal-in-list = instance "is not of type `absolute path not in the Nix store'" {
    environmentFile = [
      "/run/secrets/website.env"
      ./default.nix
    ];
  };
  credential-literal = instance "is not of type `absolute path not in the Nix store'" {
    credentials.anthropic = ./default.nix;
  };
  credential-of-package = instance "is not of type `absolute path not in the Nix store'" {
    credentials.anthropic = "${pkgs.git}/key";
  };
}
