# The accounts and units of NixOS with few of their options; `real-size.nix` has them in full size.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  option = type: default: mkOption { inherit type default; };
  list = type: option (types.listOf type) [ ];
  flag = option types.bool false;

  user =
    { name, config, ... }:
    {
      config = lib.mkIf config.isNormalUser {
        group = lib.mkDefault "users";
        home = lib.mkDefault "/home/${name}";
        createHome = lib.mkDefault true;
        isSystemUser = lib.mkDefault false;
      };

      options = {
        # NixOS aborts here, and nothing catches that.
        name = mkOption {
          type = types.passwdEntry types.str;
          default =
            if builtins.stringLength name > 31 then abort "Username '${name}' is longer than 31" else name;
        };
        description = option (types.passwdEntry types.str) "";
        isNormalUser = flag;
        isSystemUser = flag;
        group = option types.str "";
        extraGroups = list types.str;
        home = option (types.passwdEntry types.path) "/var/empty";
        createHome = flag;
        uid = option (types.nullOr types.int) null;
      };
    };

  group.options = {
    gid = option (types.nullOr types.int) null;
    members = list (types.passwdEntry types.str);
  };

  unit.options.wantedBy = list types.str;
in
{
  options = {
    systemd.services = option (types.attrsOf (types.submodule unit)) { };
    systemd.sockets = option (types.attrsOf (types.submodule unit)) { };
    users.users = option (types.attrsOf (types.submodule user)) { };
    users.groups = option (types.attrsOf (types.submodule group)) { };
  };
}
