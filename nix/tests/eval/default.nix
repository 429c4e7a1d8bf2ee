# What the module makes of each case, as data: `nix-instantiate --eval --strict --json`.
{ nixpkgsLib }:
let
  lib = import nixpkgsLib;
  pkgs = import ./pkgs.nix { inherit lib; };

  evaluate =
    module:
    lib.evalModules {
      modules = [
        ./stubs.nix
        ../../module.nix
        module
      ];
    };

  # A package by its store path.
  names = map (package: "${package}");

  # An account without what was never said of it.
  said = lib.mapAttrs (
    _: account:
    lib.filterAttrs (
      _: value:
      !builtins.elem value [
        null
        false
        ""
        [ ]
      ]
    ) account
  );

  result =
    { config, ... }:
    let
      problems = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
      attributes = map (one: one.drvAttrs // { output = "${one}"; }) config.systemd.packages;
      fleet = lib.filter (one: !one ? instance) attributes;
      instances = lib.filter (one: one ? instance) attributes;
    in
    {
      inherit problems;
      inherit (config) warnings;
      users = said (removeAttrs config.users.users [ "root" ]);
      groups = said (removeAttrs config.users.groups [ "root" ]);
    }
    # What the engine would have said instead, unless a type has spoken already.
    // lib.optionalAttrs (problems != [ ]) {
      undisturbed =
        let
          inherit (builtins.head config.systemd.packages) spec;
        in
        (builtins.tryEval (builtins.deepSeq spec { inherit spec; })).value;
    }
    # NixOS goes no further either.
    // lib.optionalAttrs (problems == [ ]) {
      firewall = config.networking.firewall.allowedTCPPorts;
      nftables = config.networking.nftables.enable;
      unmanaged = {
        dhcpcd = config.networking.dhcpcd.denyInterfaces;
        networkmanager = config.networking.networkmanager.unmanaged;
        networkd = config.systemd.network.networks;
      };
      checks = names config.system.checks;
      etc = lib.mapAttrs (_: one: one.source) config.environment.etc;
      programs = names config.environment.systemPackages;
      tmpfiles = names config.systemd.tmpfiles.packages;
      dropIns = {
        inherit (config.systemd) services sockets targets;
      };
      fleet = map (one: {
        inherit (one)
          builder
          output
          spec
          system
          units
          versions
          ;
      }) fleet;
      instances = lib.listToAttrs (
        map (
          one:
          lib.nameValuePair one.instance {
            inherit (one)
              builder
              output
              system
              versions
              ;
            inherit (one.exportReferencesGraph) agent proxy;
          }
        ) instances
      );
      # Beside what is compared with a file: long, and mostly the same everywhere.
      attributes = lib.listToAttrs (
        map (
          one: lib.nameValuePair (one.instance or "fleet of all") { inherit (one) facts spec; }
        ) attributes
      );
    };

  cases = import ./cases.nix { inherit lib pkgs; };
  refused = import ./refused.nix { inherit lib pkgs; };
  defaults = import ./defaults.nix { inherit lib pkgs; };
in
{
  all = {
    cases = lib.mapAttrs (_: module: result (evaluate module)) cases;

    # Each option said in `defaults` alone, and by an instance as well.
    defaults = lib.mapAttrs (
      _:
      {
        key,
        value,
        other,
      }:
      let
        path = lib.splitString "." key;
        inherit
          (evaluate {
            services.opencode = {
              enable = true;
              # What counts on demand alone is handed on there alone.
              defaults = lib.recursiveUpdate { activation = "on-demand"; } (
                lib.setAttrByPath path value
              );
              instances.silent.directory = lib.mkOverride 1600 "/srv/silent";
              instances.outspoken = lib.recursiveUpdate { directory = lib.mkOverride 1600 "/srv/outspoken"; } (
                lib.setAttrByPath path other
              );
            };
          })
          config
          ;
        inherit (builtins.head config.systemd.packages) spec;
        of = name: lib.getAttrFromPath path spec.instances.${name};
      in
      {
        inherit key value other;
        silent = of "silent";
        outspoken = of "outspoken";
      }
    ) defaults;

    # What is refused by a type, and whether that can be caught.
    caught = lib.mapAttrs (
      _: one:
      (builtins.tryEval (
        builtins.deepSeq (builtins.head (evaluate one.module).config.systemd.packages).spec true
      )).success
    ) refused;
    says = lib.mapAttrs (_: one: one.says) refused;

    # The module's own options as NixOS's manual would list them.
    options =
      map
        (one: {
          inherit (one) name;
          description = one.description or null;
          type = one.type or null;
          default = one.default.text or null;
          example = one.example.text or null;
          declared = one.declarations != [ ];
        })
        (
          lib.filter (one: one.visible && !one.internal && lib.hasPrefix "services.opencode." one.name) (
            lib.optionAttrSetToDocList (evaluate { }).options
          )
        );
  };

  # One for each run, since an error ends it.
  refused = lib.mapAttrs (
    _: one: (builtins.head (evaluate one.module).config.systemd.packages).spec
  ) refused;
}
