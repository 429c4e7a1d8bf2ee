# Everything in Nix that is not the module itself, as far as it can be evaluated without nixpkgs. As
# data: `nix-instantiate --eval --strict --json`.
#
# The tests for virtual machines: each node and each of its specialisations goes through the module, so
# that none names an option that is not there, or declares what is refused. The samples of the documents,
# given as files: the same for each, beside the template's two projects. The flake, the overlay and
# `default.nix`: what they offer.
{
  nixpkgsLib,
  samples ? [ ],
}:
let
  lib = import nixpkgsLib;
  inherit (lib) mkOption types;

  stubs = import ./pkgs.nix { inherit lib; };
  pkgs =
    stubs
    // lib.genAttrs [
      "cargo"
      "clippy"
      "cowsay"
      "curl"
      "hello"
      "installShellFiles"
      "iptables"
      "mcp-server-filesystem"
      "nixfmt"
      "nixfmt-tree"
      "patchelf"
      "pnpm"
      "rustc"
      "rustfmt"
      "versionCheckHook"
    ] (name: stubs.package name "1.0")
    // {
      callPackage =
        file: arguments:
        let
          function = import file;
        in
        function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // arguments);
      inherit lib;
      extend = overlay: pkgs // overlay pkgs pkgs;
      fetchFromGitHub = { repo, ... }: stubs.package repo "source";
      glibc = stubs.glibc // {
        static = stubs.package "glibc-static" "2.42";
      };
      mkShell = _: stubs.package "shell" "1.0";
      nixos = module: {
        options.services.opencode = { };
        config.system.build.toplevel = evaluated [ module ];
      };
      nixosOptionsDoc = _: { optionsCommonMark = stubs.package "manual" "1.0"; };
      runCommand =
        name: _: _:
        stubs.package name "1.0";
      runCommandCC = pkgs.runCommand;
      rustPlatform.buildRustPackage =
        attributes:
        lib.fix (
          self:
          let
            made = attributes (self // { finalPackage = self; });
          in
          stubs.package made.pname made.version // made.passthru // { inherit (made) meta src; }
        );
      stdenv = stubs.stdenv;
      testers.runNixOSTest = evaluatedTest;
      writeShellScriptBin = pkgs.writeText;
      writeTextFile =
        {
          name,
          text,
          meta,
          ...
        }:
        pkgs.writeText name text // { inherit meta; };
    };

  anything = mkOption {
    type = types.anything;
    default = { };
  };
  attributesOf =
    options:
    mkOption {
      type = types.attrsOf (types.submodule { inherit options; });
      default = { };
    };

  # What nodes and samples say beyond what the module reads.
  machine = {
    options = {
      age.secrets = attributesOf {
        file = anything;
        path = mkOption { default = "/run/agenix/website"; };
      };
      boot = anything;
      environment.etc = attributesOf { text = anything; };
      networking = {
        firewall.enable = anything;
        firewall.interfaces = anything;
        hostName = anything;
      };
      security.acme = anything;
      services = {
        caddy = anything;
        nginx = anything;
        userborn = anything;
      };
      sops.secrets = attributesOf {
        path = mkOption { default = "/run/secrets/opencode/website"; };
        restartUnits = anything;
      };
      specialisation = attributesOf { configuration = mkOption { type = types.deferredModule; }; };
      system = {
        stateVersion = anything;
        switch.enable = anything;
      };
      systemd = {
        services = attributesOf (
          lib.genAttrs [
            "before"
            "environment"
            "path"
            "reloadTriggers"
            "restartTriggers"
            "script"
            "serviceConfig"
          ] (_: anything)
        );
        tmpfiles.settings = anything;
      };
      virtualisation = anything;
    };
    config._module.args = {
      inherit pkgs;
      inputs.nixpkgs-with-opencode-1.legacyPackages.x86_64-linux = pkgs;
    };
  };

  evaluated =
    modules:
    let
      inherit
        (lib.evalModules {
          modules = [
            ./stubs.nix
            machine
          ]
          ++ modules;
        })
        config
        ;
    in
    {
      inherit (config) specialisation warnings;
      problems = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
      ports = config.networking.firewall.allowedTCPPorts;
      instances = lib.attrNames (config.services.opencode.instances or { });
      # Forces each option of each instance.
      fleet = map (check: builtins.unsafeDiscardStringContext check.drvPath) config.system.checks;
    };

  shown = result: removeAttrs result [ "specialisation" ];

  evaluatedTest =
    module:
    let
      inherit
        (lib.evalModules {
          modules = [
            module
            {
              options = {
                name = mkOption { type = types.str; };
                nodes = mkOption { type = types.lazyAttrsOf types.deferredModule; };
                testScript = mkOption { type = types.str; };
                globalTimeout = mkOption { type = types.int; };
              };
              config._module.args = { inherit lib; };
            }
          ];
        })
        config
        ;
    in
    {
      inherit (config) name testScript globalTimeout;
      nodes = lib.mapAttrs (
        _: node:
        let
          result = evaluated [ node ];
        in
        shown result
        // {
          specialisations = lib.mapAttrs (
            _: one:
            shown (evaluated [
              node
              one.configuration
            ])
          ) result.specialisation;
        }
      ) config.nodes;
    };

  module = ../../nixos.nix;
  template = ../../../templates/default;

  flake = import ../../../flake.nix;
  outputs = flake.outputs {
    self = outputs;
    nixpkgs = {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "aarch64-linux"
        "x86_64-linux"
      ] (_: pkgs);
    };
  };
  plain = import ../../../default.nix { inherit pkgs; };
  # What a host gets that does not say which engine it wants.
  hostWith =
    pkgs:
    (lib.evalModules {
      modules = [
        ./stubs.nix
        module
        (template + "/configuration.nix")
        machine
        {
          _module.args = {
            pkgs = lib.mkForce pkgs;
          };
        }
      ];
    }).config;
  other = stubs.package "another-opencode-instances" "1.0";
  engineWith = pkgs: (hostWith pkgs).services.opencode.package.pname;
  builderWith = pkgs: (lib.head (hostWith pkgs).system.checks).builder;
in
{
  machines = plain.tests;

  samples = map (
    sample:
    shown (evaluated [
      module
      (template + "/configuration.nix")
      sample
    ])
  ) samples;

  flake = {
    inputs = lib.attrNames flake.inputs;
    outputs = lib.attrNames outputs;
    overlay = lib.attrNames (outputs.overlays.default pkgs { });
    modules = lib.mapAttrs (_: one: map toString one.imports) outputs.nixosModules;
    packages = lib.mapAttrs (_: lib.mapAttrs (_: package: package.name)) outputs.packages;
    checks = lib.mapAttrs (_: lib.attrNames) outputs.checks;
    host = shown outputs.checks.x86_64-linux.host;
    formatter = outputs.formatter.x86_64-linux.name;
    shells = lib.attrNames outputs.devShells.x86_64-linux;
    template = builtins.pathExists (outputs.templates.default.path + "/flake.nix");
  };

  engine = {
    ofOverlay = engineWith (pkgs // { opencode-instances = other; });
    ofCheckout = engineWith (removeAttrs pkgs [ "opencode-instances" ]);
    ofBuilder = builderWith pkgs;
    # For a host whose programs the building machine cannot run.
    ofBuilderForAnother = builderWith (
      pkgs
      // {
        buildPackages.opencode-instances = other;
        stdenv = pkgs.stdenv // {
          buildPlatform = pkgs.stdenv.buildPlatform // {
            canExecute = _: false;
          };
        };
      }
    );
  };

  plain = lib.attrNames plain;
}
