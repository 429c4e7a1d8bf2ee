# The NixOS front end. It says what only an evaluation knows, such as store paths, accounts and firewall
# ports; the engine decides everything else, and renders the units while the system is built.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    any
    attrValues
    filter
    filterAttrs
    mapAttrs'
    mapAttrs
    mkEnableOption
    mkIf
    mkOption
    mkOverride
    mkPackageOption
    nameValuePair
    optional
    types
    ;

  cfg = config.services.opencode;
  enabled = filterAttrs (_: instance: instance.enable) cfg.instances;

  hostFor = import ./host.nix { inherit config lib pkgs; };
  inherit (import ./problems.nix { inherit config lib versions; }) isLegalName problems warnings;

  # The program runs where the system is built: for another machine's system that is not `package`
  # itself, unless this machine can execute it.
  builder = lib.getExe (
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      cfg.package
    else
      pkgs.buildPackages.opencode-instances or (pkgs.buildPackages.callPackage ./package.nix { })
  );

  # The engine is the builder itself: what it refuses fails the build in its own words.
  render =
    attributes:
    derivation (
      {
        inherit builder;
        inherit (pkgs.stdenv.buildPlatform) system;
        args = [ "nixos" ];
        __structuredAttrs = true;
        # Done sooner than asked for elsewhere.
        preferLocalBuild = true;
        allowSubstitutes = false;
      }
      // attributes
    );

  # Where the programs of a package are, or of a directory that is none.
  prefixOf = entry: if lib.isDerivation entry then "${lib.getBin entry}" else entry;

  # A package may be given as the string of its store path.
  inStore = lib.hasPrefix "${builtins.storeDir}/";

  # The instances as the engine reads them, which knows no null.
  specs = mapAttrs (
    _: instance:
    instance
    // {
      package = prefixOf instance.package;
      path = map prefixOf instance.path;
      auth = filterAttrs (_: value: value != null) instance.auth;
    }
    # Of what counts on demand alone, an instance that starts with the host says what is its own: the
    # engine warns of that.
    // lib.optionalAttrs (instance.activation == "boot") (
      mapAttrs (key: value: if value == cfg.defaults.${key} then null else value) {
        inherit (instance) idleChildren idleClients idleTimeout;
      }
    )
  ) cfg.instances;

  # Of opencode, by which the engine knows how to call it. A wrapper may hide it.
  versions = filterAttrs (_: version: version != "") (
    mapAttrs (_: instance: lib.getVersion instance.package) cfg.instances
  );

  # A file whose closure is whatever an instance's configuration names of the store: most name nothing.
  namedOf =
    name: instance:
    let
      text = builtins.toJSON {
        inherit (instance)
          agents
          commands
          configFile
          enforcedSettings
          environment
          extraArgs
          instructions
          plugins
          postInitScript
          preInitScript
          sandbox
          settings
          skills
          ;
      };
    in
    optional (builtins.hasContext text) (
      toString (pkgs.writeText "opencode-configuration-${name}.json" text)
    );

  # One derivation for each instance, from its own options alone: a change of another one leaves its
  # store paths, and with them its units, as they are.
  unitsOf =
    name: instance:
    let
      host = hostFor {
        nix = instance.nix.enable;
        nixLd = instance.nixLd.enable;
      };
    in
    render {
      name = "opencode-instance-${name}";
      instance = name;
      spec.instances.${name} = specs.${name};
      inherit (host) facts;
      versions = builtins.intersectAttrs { ${name} = null; } versions;
      # What the two sandboxes show of the store; that of the proxy has no tools.
      exportReferencesGraph = {
        agent = [
          "${host.closure}"
          "${cfg.package}"
          (prefixOf instance.package)
        ]
        ++ filter inStore (map prefixOf instance.path)
        ++ namedOf name instance;
        proxy = [ "${cfg.package}" ];
      };
    };
  units = mapAttrs unitsOf enabled;

  # One for all of them: it judges the instances against each other, and renders what they share.
  fleet = render {
    name = "opencode-instances-fleet";
    spec = {
      inherit (cfg) fleet;
      instances = specs;
    };
    inherit versions;
    inherit
      (hostFor {
        nix = any (instance: instance.nix.enable) (attrValues enabled);
        nixLd = any (instance: instance.nixLd.enable) (attrValues enabled);
      })
      facts
      ;
    units = mapAttrs (_: toString) units;
  };

  # The accounts that are ours to make, those of disabled instances among them: their files stay
  # somebody's. NixOS would abort at a name that is too long before an assertion could speak of it.
  ownAccounts =
    kind:
    filterAttrs (
      name: instance: isLegalName name && instance.${kind} == "opencode-${name}"
    ) cfg.instances;

  # Above an option's own default and below everything else.
  fallback = mkOverride 1400;

  instanceOptions =
    whose: lib.modules.importApply ./instance-options.nix ({ inherit lib pkgs; } // whose);
in
{
  _class = "nixos";

  options.services.opencode = {
    enable = mkEnableOption "isolated opencode servers, one for each project";

    package = mkPackageOption pkgs "opencode-instances" { };

    defaults = mkOption {
      type = types.submodule (instanceOptions { });
      default = { };
      example = {
        logLevel = "WARN";
        resources.memoryMax = "8G";
      };
      description = ''
        What an instance takes where it says nothing itself. A list or an attribute set of an
        instance replaces the one here; it does not add to it.
      '';
    };

    fleet = import ./fleet-options.nix { inherit lib; };

    instances = mkOption {
      type = types.attrsOf (
        types.submodule (instanceOptions {
          inherit (cfg) defaults;
          isDefaults = false;
        })
      );
      default = { };
      example = {
        website.directory = "/srv/website";
        billing = {
          directory = "/srv/billing";
          listen.port = 4097;
        };
      };
      description = ''
        The instances by their names. Each is an opencode server for one project, with a user, a file
        system and a network of its own.

        A name is a lower-case letter followed by lower-case letters, digits and hyphens, at most 22
        characters, without a hyphen at the end.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = map (message: {
      assertion = false;
      inherit message;
    }) problems;
    inherit warnings;

    # No entry of an instance's is in `systemd.services`: each would cost an evaluation of all its
    # options, and NixOS would put its own PATH into it.
    systemd.packages = [ fleet ] ++ attrValues units;
    # The engine renders the target, with what it wants; `.wants` directories of packages are ignored.
    systemd.targets.opencode.wantedBy = [ "multi-user.target" ];
    systemd.tmpfiles.packages = [ fleet ];
    # Nothing is built of a fleet that is refused, even if nothing else of it were used.
    system.checks = [ fleet ];

    environment.etc."opencode-instances".source = "${fleet}/etc/opencode-instances";
    environment.systemPackages = [ cfg.package ];

    # Whatever else is said of these accounts outranks it, NixOS's own `mkDefault` among it.
    users.users = mapAttrs' (
      name: instance:
      nameValuePair "opencode-${name}" {
        isSystemUser = fallback true;
        group = fallback instance.group;
        home = fallback instance.stateDir;
        description = fallback "opencode instance ${name}";
      }
    ) (ownAccounts "user");
    users.groups = mapAttrs' (name: _: nameValuePair "opencode-${name}" { }) (ownAccounts "group");

    networking.firewall.allowedTCPPorts = lib.mapAttrsToList (_: instance: instance.listen.port) (
      filterAttrs (_: instance: instance.openFirewall) enabled
    );

    # The links of instances are configured when they are made; whatever configures a host's links
    # would give them addresses and routes of its own.
    networking.dhcpcd.denyInterfaces = [ "oc-*" ];
    networking.networkmanager.unmanaged = [ "interface-name:oc-*" ];
    systemd.network.networks."05-opencode" = {
      matchConfig.Name = "oc-*";
      linkConfig.Unmanaged = true;
    };
  };
}
