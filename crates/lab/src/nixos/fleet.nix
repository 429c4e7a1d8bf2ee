# A fleet as a NixOS host builds it: one derivation for each instance and one for all of them, with
# the engine as the builder of each. `module.nix` has the same from the module itself.
{
  generation ? 1,
  more ? { },
}:
let
  store = import ./store.nix;
  tools = [
    store.bash
    store.busybox
    store.git
    store.ripgrep
  ];
  common = {
    package = "${store.opencode}";
    nixLd.enable = true;
  };

  spec.instances = {
    website = common // {
      directory = "/srv/website";
      listen.port = 4101;
      path = [
        "${store.python3}"
        "${store.tools}"
      ];
    };
    billing = common // {
      directory = "/srv/billing";
      listen.port = if generation == 1 then 4102 else 4112;
      path = if generation == 1 then [ ] else [ "${store.nix}" ];
    };
    builder = common // {
      directory = "/srv/builder";
      listen.port = 4103;
      nix.enable = true;
    };
  }
  // more;

  bind = target: source: { inherit source target; };
  facts = {
    systemd = 257;
    engine = "${store.opencode-instances}/bin/opencode-instances";
    nft = "${store.nftables}/bin/nft";
    shell = "${store.bash}/bin/bash";
    getent = "${store.getent}/bin/getent";
    nixos = {
      binds = [
        (bind "/bin/sh" "${store.bash}/bin/sh")
        (bind "/usr/bin/env" "${store.busybox}/bin/env")
        (bind "/etc/ssl/certs/ca-certificates.crt" "${store.cacert}/etc/ssl/certs/ca-bundle.crt")
      ];
      environment = {
        SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt";
        TZ = "Europe/Berlin";
        TZDIR = "${store.tzdata}/share/zoneinfo";
      };
      path = map toString tools;
      nix = "${store.nix}";
      nixLd = {
        binds = [
          (bind "/lib64/ld-linux-x86-64.so.2" "${store.glibc}/lib/ld-linux-x86-64.so.2")
        ];
        environment.LD_LIBRARY_PATH = "${store.glibc}/lib";
      };
    };
  };

  render =
    attributes:
    derivation (
      {
        system = builtins.currentSystem;
        builder = facts.engine;
        args = [ "nixos" ];
        __structuredAttrs = true;
        inherit facts;
      }
      // attributes
    );

  units = builtins.mapAttrs (
    name: instance:
    render {
      name = "opencode-instance-${name}";
      instance = name;
      spec.instances.${name} = instance;
      exportReferencesGraph = {
        agent =
          tools
          ++ [
            store.cacert
            store.glibc
            store.opencode
            store.opencode-instances
            store.tzdata
          ]
          ++ instance.path or [ ];
        proxy = [ store.opencode-instances ];
      };
    }
  ) spec.instances;
in
render {
  name = "opencode-instances-fleet";
  inherit spec;
  units = builtins.mapAttrs (_: toString) units;
}
