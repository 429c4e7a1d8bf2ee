# `instance-options.nix` as data, without nixpkgs: as much of its `lib` as the file uses, with types that
# are words.
let
  join = builtins.concatStringsSep " or ";
  # A type is a word, or has a description.
  words = type: type.description or type;

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
    singleton = value: [ value ];
    splitString =
      separator: text: builtins.filter builtins.isString (builtins.split "[${separator}]" text);
    types = {
      attrsOf = type: { description = "attributes of ${words type}"; };
      bool = "bool";
      coercedTo = from: _: type: { description = "${words type}, or ${words from}"; };
      either = one: other: "(${words one} or ${words other})";
      enum = words: "one of ${builtins.toJSON words}";
      externalPath = "external path";
      float = "float";
      int = "int";
      ints.between = low: high: "integer between ${toString low} and ${toString high}";
      lines = "lines";
      listOf = type: "list of ${words type}";
      mkOptionType = type: type;
      nullOr = type: { description = "null or ${words type}"; };
      oneOf = types: "(${join (map words types)})";
      package = "package";
      path = "path";
      port = "port";
      str = "str";
      strMatching = pattern: { description = pattern; };
      submodule = _: "submodule";
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
  fleet = flat "" (import ../../fleet-options.nix { inherit lib; });
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
