# `instance-options.nix` as data, without nixpkgs: as much of its `lib` as the file uses, with types that
# are words.
let
  join = builtins.concatStringsSep " or ";

  lib = {
    getAttrFromPath = path: set: builtins.foldl' (set: name: set.${name}) set path;
    literalExpression = text: { expression = text; };
    literalMD = text: { markdown = text; };
    mkIf = condition: content: if condition then content else { };
    mkOption = option: option;
    mkOptionDefault = value: value;
    mkPackageOption = _: name: { extraDescription }: {
      type = "package";
      default = "pkgs.${name}";
      description = "The ${name} package to use. ${extraDescription}";
    };
    optionalAttrs = condition: set: if condition then set else { };
    splitString =
      separator: text: builtins.filter builtins.isString (builtins.split "[${separator}]" text);
    types = {
      attrsOf = type: { description = "attributes of ${toString type}"; };
      bool = "bool";
      either = one: other: "(${one} or ${other})";
      enum = words: "one of ${builtins.toJSON words}";
      externalPath = "external path";
      int = "int";
      listOf = type: "list of ${type.description or type}";
      nullOr = type: "null or ${type.description or type}";
      oneOf = types: "(${join types})";
      package = "package";
      port = "port";
      str = "str";
      strMatching = pattern: { description = pattern; };
    };
  };

  isOption = value: value ? type;
  flat =
    prefix: options:
    builtins.concatLists (
      map (
        name:
        if isOption options.${name} then
          [ (data "${prefix}${name}" options.${name}) ]
        else
          flat "${prefix}${name}." options.${name}
      ) (builtins.attrNames options)
    );
  data = key: option: {
    inherit key;
    type = option.type.description or option.type;
    hasDefault = option ? default;
    default = option.default or null;
    defaultText = option.defaultText or null;
    example = option.example or null;
    inherit (option) description;
  };

  module =
    defaults: name:
    import ../../instance-options.nix {
      inherit lib defaults;
      pkgs = { };
    } { inherit name; };
  # `defaults` where the value of each option is its own place.
  marked =
    prefix:
    builtins.mapAttrs (
      name: option: if isOption option then "${prefix}.${name}" else marked "${prefix}.${name}" option
    );
  options = (module null "defaults").options;
  defaults = marked "defaults" options;
in
{
  defaults = flat "" options;
  instances = flat "" (module defaults "website").options;
  # What an instance takes for its own where `defaults` says null.
  own =
    flat ""
      (module (
        defaults
        // {
          stateDir = null;
          user = null;
          group = null;
        }
      ) "website").options;
}
