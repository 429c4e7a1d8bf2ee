# What an evaluation can say more kindly than a failed build: what the options of two instances, or of
# an instance and the rest of the system, say about each other. The engine judges all of it again, and
# everything else.
#
# A problem is a finding and the smallest change that mends it. Texts are made for what is wrong alone,
# and each instance is looked up and never compared with each other one, so that a thousand of them cost
# little.
{
  config,
  lib,
  # Of opencode, by the instances' names.
  versions,
}:
let
  inherit (lib)
    any
    attrNames
    attrValues
    concatMap
    elemAt
    filter
    groupBy
    hasPrefix
    length
    ;

  cfg = config.services.opencode;
  inherit (cfg) instances;

  # Without a legal name an instance has no legal user either, nor a place for its state.
  isLegalName = name: builtins.match "[a-z]([a-z0-9-]{0,20}[a-z0-9])?" name != null;
  named = filter isLegalName (attrNames instances);
  enabled = filter (name: instances.${name}.enable) named;

  option = name: key: "services.opencode.instances.${lib.strings.escapeNixIdentifier name}.${key}";

  # The names by what they say of an option, where two or more say the same.
  twice =
    key: names:
    filter (group: length group > 1) (attrValues (groupBy (name: key instances.${name}) names));

  # Rare spellings of it among them.
  isLoopback =
    address: hasPrefix "127." address || builtins.match "[0:]*:0*1|::ffff:127\\..*" address != null;
  isWildcard = address: address == "0.0.0.0" || address == "::";

  illegalNames = map (name: ''
    services.opencode.instances: "${name}" cannot be the name of an instance, because "opencode-${name}" would not be a legal user.
    Rename it: a lower-case letter, then lower-case letters, digits and hyphens, at most 22 characters, with no hyphen at the end.
  '') (filter (name: !isLegalName name) (attrNames instances));

  port = name: toString instances.${name}.listen.port;
  address = name: instances.${name}.listen.address;

  # A wildcard takes the port on every address.
  endpoints =
    map
      (
        group:
        let
          one = elemAt group 0;
          other = elemAt group 1;
          taken = groupBy port enabled;
          free = lib.findFirst (port: !taken ? ${toString port}) 65535 (lib.range 4096 65535);
        in
        ''
          ${option one "listen"} and ${option other "listen"} are the same: ${address one} and ${address other}, port ${port one}.
          Give one of them another port, for example `${option other "listen.port"} = ${toString free};`.
        ''
      )
      (
        concatMap (
          group:
          if any (name: isWildcard (address name)) group then
            [ group ]
          else
            twice (instance: instance.listen.address) group
        ) (twice (instance: toString instance.listen.port) enabled)
      );

  users = map (
    group:
    let
      one = elemAt group 0;
      other = elemAt group 1;
    in
    ''
      ${option one "user"} and ${option other "user"} are both "${instances.${one}.user}", so that each agent could read what the other one writes.
      Remove one of the two lines to have a user made for that instance.
    ''
  ) (twice (instance: instance.user) named);

  # What belongs to a person is not the agent's to use.
  people =
    map
      (name: ''
        users.users.${instances.${name}.user} is a person's account (isNormalUser), and also the user of the instance ${name}.
        Remove `isNormalUser`, or rename the instance.
      '')
      (
        filter (
          name:
          instances.${name}.user == "opencode-${name}"
          && config.users.users.${instances.${name}.user}.isNormalUser
        ) named
      );

  # Another name service may know them, which no evaluation can see.
  unknownUsers =
    map
      (
        name:
        "${option name "user"} is \"${instances.${name}.user}\", which is not in `users.users`, and users.mutableUsers is false: unless another name service knows it, the instance cannot start."
      )
      (
        filter (name: !config.users.mutableUsers && !config.users.users ? ${instances.${name}.user}) named
      );
  unknownGroups = concatMap (
    name:
    let
      instance = instances.${name};
      unknown = filter (group: !config.users.groups ? ${group}) (
        [ instance.group ] ++ instance.extraGroups
      );
    in
    map (
      group:
      "${option name "group"} or ${option name "extraGroups"} names \"${group}\", which is not in `users.groups`, and users.mutableUsers is false: unless another name service knows it, the instance cannot start."
    ) unknown
  ) (filter (_: !config.users.mutableUsers) named);

  # As long as all are at their usual places, none is inside another one.
  stateDirs = groupBy (name: instances.${name}.stateDir) named;
  areUsual = lib.all (
    name: instances.${name}.stateDir == "/var/lib/opencode/instance-state/${name}"
  ) named;
  # From the nearest directory above a path to the root.
  above = path: if path == "/" || path == "." then [ ] else [ (dirOf path) ] ++ above (dirOf path);
  around = name: lib.findFirst (path: stateDirs ? ${path}) null (above instances.${name}.stateDir);
  sharedStates = map (
    group:
    let
      one = elemAt group 0;
      other = elemAt group 1;
    in
    ''
      ${option one "stateDir"} and ${option other "stateDir"} are both ${instances.${one}.stateDir}.
      Remove one of the two lines to have a directory made for that instance.
    ''
  ) (filter (group: length group > 1) (attrValues stateDirs));
  nestedStates = map (name: ''
    ${option name "stateDir"}, ${instances.${name}.stateDir}, lies inside ${
      option (elemAt stateDirs.${around name} 0) "stateDir"
    }, ${around name}, which another agent may write to.
    Move one of them, so that neither is inside the other.
  '') (filter (name: around name != null) named);

  uselessPorts = map (name: ''
    ${option name "openFirewall"} would open port ${port name} for nothing, because the instance listens on ${address name} alone.
    Remove it, or set `${option name "listen.address"}` to an address of the host.
  '') (filter (name: instances.${name}.openFirewall && isLoopback (address name)) enabled);

  unprotected = filter (name: !instances.${name}.auth.enable) enabled;
  openServers = map (name: ''
    ${option name "listen.address"} is ${address name}, and whoever reaches it runs commands, because ${option name "auth.enable"} is false.
    Remove one of the two lines.
  '') (filter (name: !isLoopback (address name)) unprotected);

  # The type refuses what looks like a store path; this is about the rest of the store.
  passwordsInStore =
    map
      (name: ''
        ${option name "auth.passwordFile"} is in the store, where everybody can read it: ${
          instances.${name}.auth.passwordFile
        }
        Name a file outside it, for example "/run/secrets/${name}".
      '')
      (
        filter (
          name:
          let
            file = instances.${name}.auth.passwordFile;
          in
          file != null && hasPrefix "${builtins.storeDir}/" file
        ) named
      );

  # Whatever the daemon does for an agent, it does outside the agent's sandbox.
  builders = filter (name: instances.${name}.nix.enable) enabled;
  noDaemon = map (name: ''
    ${option name "nix.enable"} needs the daemon that this system does not have, because `nix.enable` is false.
    Remove one of the two lines.
  '') (filter (_: !config.nix.enable) builders);
  openBuilds = map (name: ''
    ${option name "nix.enable"} lets the agent build, and `nix.settings.sandbox` is ${builtins.toJSON config.nix.settings.sandbox}, so that a build reads the host's files and reaches its network.
    Remove one of the two lines.
  '') (filter (_: config.nix.settings.sandbox != true) builders);
  isTrusted =
    name:
    let
      instance = instances.${name};
      groups = [
        instance.group
      ]
      ++ instance.extraGroups
      ++ config.users.users.${instance.user}.extraGroups or [ ];
    in
    any (who: builtins.elem who config.nix.settings.trusted-users) (
      [
        "*"
        instance.user
      ]
      ++ map (group: "@${group}") groups
    );
  trusted = map (name: ''
    ${option name "nix.enable"} lets the agent speak to Nix's daemon, and `nix.settings.trusted-users` names ${instances.${name}.user}, a group of it, or everybody; whoever the daemon trusts can become root.
    Remove one of the two.
  '') (filter isTrusted builders);

  # Each is explained by its code.
  weakened =
    name:
    let
      inherit (instances.${name}) sandbox;
    in
    lib.optional (sandbox.relax != [ ]) "relax = ${toString sandbox.relax} (W0420)"
    ++ lib.optional sandbox.allowNestedSandbox "allowNestedSandbox (W0421)"
    ++ lib.optional (sandbox.devices != [ ]) "devices = ${toString sandbox.devices} (W0422)"
    ++ lib.optional (sandbox.nixStore == "full") "nixStore = full (W0423)";

  unusedIdle =
    name:
    let
      instance = instances.${name};
      isOwn = key: instance.${key} != cfg.defaults.${key};
    in
    lib.optionals (instance.activation == "boot") (
      filter isOwn [
        "idleTimeout"
        "idleClients"
        "idleChildren"
      ]
    );

  hasTwo = name: instances.${name}.configFile != null && instances.${name}.settings != { };
  twoConfigurations = map (name: ''
    ${option name "configFile"} would be the whole configuration, and ${option name "settings"} is set beside it.
    Remove one of the two; `configFile = null;` or `settings = { };` takes back what services.opencode.defaults says.
  '') (filter hasTwo named);

  # One for all who run it: hosts have many instances and one opencode.
  untested = groupBy (name: versions.${name}) (
    filter (name: lib.versionAtLeast versions.${name} or "" "2") enabled
  );
  newOpencode = lib.mapAttrsToList (
    version: names:
    "services.opencode: the package of ${lib.concatStringsSep ", " names} is opencode ${version}, which was not tested and is said to rewrite the database of 1.x in place (W0411). Keep a copy of the state directory, or pin a package of 1.x."
  ) untested;
in
{
  inherit isLegalName;

  problems = map lib.trim (
    illegalNames
    ++ endpoints
    ++ users
    ++ people
    ++ lib.optionals (!areUsual) (sharedStates ++ nestedStates)
    ++ uselessPorts
    ++ openServers
    ++ passwordsInStore
    ++ noDaemon
    ++ openBuilds
    ++ trusted
    ++ twoConfigurations
  );

  warnings =
    map (
      name:
      "${option name "auth.enable"} is false: every local user can run commands as ${instances.${name}.user} through ${address name}:${port name}."
    ) (filter (name: isLoopback (address name)) unprotected)
    ++ map (
      name:
      "${option name "nix.enable"}: the Nix daemon runs the agent's programs in the host's network, where they reach every listener of the host (W0406)."
    ) builders
    ++ map (
      name:
      "${option name "sandbox"} gives up a part of the sandbox: ${lib.concatStringsSep ", " (weakened name)}. `opencode-instances explain CODE` says what goes with it."
    ) (filter (name: weakened name != [ ]) enabled)
    ++ concatMap (
      name:
      map (
        key:
        "${option name key} has no effect, because the instance starts at boot and stays (W0424). Remove it, or set `activation = \"on-demand\";`."
      ) (unusedIdle name)
    ) enabled
    ++ unknownUsers
    ++ unknownGroups
    ++ newOpencode;
}
