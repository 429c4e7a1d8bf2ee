# `systemd.services`, `systemd.sockets`, `users.users` and `users.groups` as large as NixOS has them: as
# many options of the same kinds, and the same work behind them. An `attrsOf anything` would hide what
# an entry costs. A unit is made into a plain derivation here, which is cheaper than NixOS's.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkIf
    mkMerge
    mkOption
    types
    ;

  option =
    type: default:
    mkOption {
      inherit type default;
      description = "One of the options of this size.";
    };
  many = names: make: lib.genAttrs names (_: make);

  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  unitNames = option (types.listOf unitName) [ ];
  directive = lib.mkOptionType {
    name = "systemd option";
    merge =
      loc: defs:
      if lib.any (def: lib.isList def.value) defs then
        lib.concatMap (def: lib.toList def.value) defs
      else
        lib.mergeEqualOption loc defs;
  };
  section = option (types.attrsOf directive) { };
  lines = option types.lines "";
  flag = option types.bool;

  # 25 options of every unit.
  unitOptions = {
    options = {
      enable = flag true;
      name = option types.str "";
      overrideStrategy = option (types.enum [
        "asDropinIfExists"
        "asDropin"
      ]) "asDropinIfExists";
      description = option types.singleLineStr "";
      documentation = option (types.listOf types.str) [ ];
      unitConfig = section;
      restartTriggers = option (types.listOf types.unspecified) [ ];
      reloadTriggers = option (types.listOf directive) [ ];
    }
    // many [
      "startLimitBurst"
      "startLimitIntervalSec"
    ] (option (types.nullOr types.int) null)
    // many [
      "after"
      "aliases"
      "before"
      "bindsTo"
      "conflicts"
      "onFailure"
      "onSuccess"
      "partOf"
      "requiredBy"
      "requires"
      "requisite"
      "upheldBy"
      "upholds"
      "wantedBy"
      "wants"
    ] unitNames;
  };

  # What those options are in the unit.
  unitConfig =
    { config, ... }:
    {
      config.unitConfig =
        lib.mapAttrs (_: toString) (
          lib.filterAttrs (_: names: names != [ ]) {
            Requires = config.requires;
            Wants = config.wants;
            Upholds = config.upholds;
            After = config.after;
            Before = config.before;
            BindsTo = config.bindsTo;
            PartOf = config.partOf;
            Conflicts = config.conflicts;
            Requisite = config.requisite;
            OnFailure = config.onFailure;
            OnSuccess = config.onSuccess;
            Documentation = config.documentation;
          }
        )
        // lib.optionalAttrs (config.restartTriggers != [ ]) {
          X-Restart-Triggers = toString config.restartTriggers;
        }
        // lib.optionalAttrs (config.reloadTriggers != [ ]) {
          X-Reload-Triggers = toString config.reloadTriggers;
        }
        // lib.optionalAttrs (config.description != "") { Description = config.description; }
        // lib.optionalAttrs (config.startLimitBurst != null) {
          StartLimitBurst = toString config.startLimitBurst;
        }
        // lib.optionalAttrs (config.startLimitIntervalSec != null) {
          StartLimitIntervalSec = toString config.startLimitIntervalSec;
        };
    };

  # 23 further ones of a service.
  serviceOptions =
    { config, ... }:
    {
      options = {
        environment = option (types.attrsOf (
          types.nullOr (
            types.oneOf [
              types.str
              types.path
              types.package
            ]
          )
        )) { };
        path = option (types.listOf (
          types.oneOf [
            types.package
            types.str
          ]
        )) [ ];
        serviceConfig = mkOption {
          type = types.addCheck (types.attrsOf directive) (
            one: !one ? Type || builtins.isAttrs one.Type || one.Type != "unknown"
          );
          default = { };
          description = "Directives of the service.";
        };
        scriptArgs = option types.str "";
        jobScripts = option (types.coercedTo types.path lib.singleton (types.listOf types.path)) [ ];
        startAt = mkOption {
          type = types.either types.str (types.listOf types.str);
          default = [ ];
          apply = lib.toList;
          description = "When.";
        };
        confinement = {
          enable = flag false;
          fullUnit = flag false;
          packages = option (types.listOf types.package) [ ];
          binSh = option (types.nullOr types.path) null;
          mode = option (types.enum [
            "full-apivfs"
            "chroot-only"
          ]) "full-apivfs";
        };
      }
      // many [
        "enableDefaultPath"
        "restartIfChanged"
        "stopIfChanged"
      ] (flag true)
      // many [
        "enableStrictShellChecks"
        "notSocketActivated"
        "reloadIfChanged"
      ] (flag false)
      // many [
        "postStart"
        "postStop"
        "preStart"
        "preStop"
        "reload"
        "script"
      ] lines;

      config = mkMerge (
        [
          {
            path = mkIf config.enableDefaultPath (
              lib.mkAfter [
                pkgs.coreutils
                pkgs.findutils
                pkgs.gnugrep
                pkgs.gnused
                pkgs.systemd
              ]
            );
            environment.PATH = mkIf (config.path != [ ]) (
              "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}"
            );
          }
          (mkIf config.confinement.enable { serviceConfig.RootDirectory = "/run/confinement"; })
        ]
        ++
          map
            (
              name:
              mkIf (config.${name} != "") {
                serviceConfig.${"Exec${name}"} = toString (pkgs.writeText name config.${name});
              }
            )
            [
              "postStart"
              "postStop"
              "preStart"
              "preStop"
              "reload"
              "script"
            ]
      );
    };

  socketOptions.options =
    many [
      "listenDatagrams"
      "listenStreams"
    ] (option (types.listOf types.str) [ ])
    // {
      socketConfig = section;
    };

  toSection =
    attributes:
    lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList (
          name: value: map (one: "${name}=${toString one}\n") (lib.toList value)
        ) attributes
      )
    );
  escape = text: builtins.toJSON (toString text);
  serviceText =
    service:
    let
      variables = config.systemd.globalEnvironment // service.environment;
    in
    ''
      [Unit]
      ${toSection service.unitConfig}
      [Service]
    ''
    + lib.concatMapStrings (
      name:
      lib.optionalString (
        variables.${name} != null
      ) "Environment=${escape "${name}=${variables.${name}}"}\n"
    ) (lib.attrNames variables)
    + lib.optionalString service.reloadIfChanged "X-ReloadIfChanged=true\n"
    + lib.optionalString (!service.restartIfChanged) "X-RestartIfChanged=false\n"
    + lib.optionalString (!service.stopIfChanged) "X-StopIfChanged=false\n"
    + lib.optionalString service.notSocketActivated "X-NotSocketActivated=true\n"
    + toSection service.serviceConfig;
  socketText = socket: ''
    [Unit]
    ${toSection socket.unitConfig}
    [Socket]
    ${toSection socket.socketConfig}
    ${lib.concatMapStrings (address: "ListenStream=${address}\n") socket.listenStreams}
    ${lib.concatMapStrings (address: "ListenDatagram=${address}\n") socket.listenDatagrams}
  '';

  idRange = types.submodule {
    options = {
      start = option types.int 1000;
      count = option types.int 1;
    };
  };

  # 28 options of an account.
  user =
    { name, config, ... }:
    {
      options = {
        enable = flag true;
        name = mkOption {
          type = types.passwdEntry types.str;
          apply =
            name: if builtins.stringLength name < 32 then name else abort "The name ${name} is too long.";
          description = "The name.";
        };
        uid = option (types.nullOr types.int) null;
        extraGroups = option (types.listOf types.str) [ ];
        group = mkOption {
          type = types.str;
          default = "";
          apply =
            name: if builtins.stringLength name < 32 then name else abort "The name ${name} is too long.";
          description = "The group.";
        };
        homeMode = option (types.strMatching "[0-7]{1,5}") "700";
        home = option (types.passwdEntry types.path) "/var/empty";
        description = option (types.passwdEntry types.str) "";
        pamMount = option (types.attrsOf types.str) { };
        packages = option (types.listOf types.package) [ ];
        shell = option (types.nullOr (types.either types.package (types.passwdEntry types.path))) pkgs.bash;
        expires = option (types.nullOr (types.strMatching "[[:digit:]]{4}-[[:digit:]]{2}-[[:digit:]]{2}")) null;
      }
      // many [
        "autoSubUidGidRange"
        "createHome"
        "ignoreShellProgramCheck"
        "isNormalUser"
        "isSystemUser"
        "linger"
        "useDefaultShell"
      ] (flag false)
      // many [
        "subGidRanges"
        "subUidRanges"
      ] (option (types.listOf idRange) [ ])
      // many [
        "cryptHomeLuks"
        "hashedPasswordFile"
        "initialPassword"
        "password"
        "passwordFile"
      ] (option (types.nullOr types.str) null)
      // many [
        "hashedPassword"
        "initialHashedPassword"
      ] (option (types.nullOr (types.passwdEntry types.str)) null);

      config = mkMerge [
        {
          name = lib.mkDefault name;
          shell = mkIf config.useDefaultShell (lib.mkDefault pkgs.bash);
        }
        (mkIf config.isNormalUser {
          group = lib.mkDefault "users";
          home = lib.mkDefault "/home/${name}";
          isSystemUser = lib.mkDefault false;
        })
        (mkIf (config.initialPassword != null) { password = lib.mkDefault config.initialPassword; })
        (mkIf (config.initialHashedPassword != null) {
          hashedPassword = lib.mkDefault config.initialHashedPassword;
        })
        (mkIf (config.isNormalUser && config.subUidRanges == [ ] && config.subGidRanges == [ ]) {
          autoSubUidGidRange = lib.mkDefault true;
        })
      ];
    };

  # With a look at every account for each group, as in NixOS.
  group =
    { name, ... }:
    {
      config.members = map (user: user.name) (
        lib.filter (user: lib.elem name user.extraGroups) (lib.attrValues config.users.users)
      );
      options = {
        name = option (types.passwdEntry types.str) name;
        gid = option (types.nullOr types.int) null;
        members = option (types.listOf (types.passwdEntry types.str)) [ ];
      };
    };
in
{
  options = {
    systemd.services = option (types.attrsOf (
      types.submodule [
        unitOptions
        unitConfig
        serviceOptions
      ]
    )) { };
    systemd.sockets = option (types.attrsOf (
      types.submodule [
        unitOptions
        unitConfig
        socketOptions
      ]
    )) { };
    users.users = option (types.attrsOf (types.submodule user)) { };
    users.groups = option (types.attrsOf (types.submodule group)) { };

    # The derivations of all units.
    units = mkOption {
      type = types.listOf types.package;
      description = "What is built.";
    };
  };

  config.units =
    lib.mapAttrsToList (
      name: one: pkgs.writeText "${lib.replaceStrings [ "@" ] [ "-" ] name}.service" (serviceText one)
    ) config.systemd.services
    ++ lib.mapAttrsToList (
      name: one: pkgs.writeText "${lib.replaceStrings [ "@" ] [ "-" ] name}.socket" (socketText one)
    ) config.systemd.sockets;
}
