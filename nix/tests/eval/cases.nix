# Configurations, each with the file `expected/NAME.json` that says what becomes of it.
{ lib, pkgs }:
let
  on = instances: {
    services.opencode = {
      enable = true;
      inherit instances;
    };
  };
  # One instance with these options.
  one =
    options:
    on {
      website = {
        directory = "/srv/website";
      }
      // options;
    };
  # Two, that differ in their ports unless they say otherwise.
  two =
    first: second:
    on {
      api = {
        directory = "/srv/api";
      }
      // first;
      website = {
        directory = "/srv/website";
        listen.port = 4097;
      }
      // second;
    };
  with' = module: options: {
    imports = [
      (one options)
      module
    ];
  };
in
{
  # What is installed.
  off.services.opencode.instances.website.directory = "/srv/website";
  no-instance = on { };
  minimal = one { };
  two = two { } { };
  two-with-one-changed = two { logLevel = "DEBUG"; } { };
  disabled = two { enable = false; } { };
  disabled-on-a-taken-port = two { enable = false; } { listen.port = 4096; };
  all-disabled = one { enable = false; };
  name-of-another-unit = on {
    foo.directory = "/srv/foo";
    foo-setup = {
      directory = "/srv/foo-setup";
      listen.port = 4097;
    };
  };
  longest-name = on { a-name-of-22-character.directory = "/srv/long"; };
  every-option = one {
    enable = true;
    stateDir = "/data/website";
    user = "web";
    group = "web";
    extraGroups = [ "www-data" ];
    package = pkgs.package "opencode" "1.19.0";
    path = [
      pkgs.nodejs
      "/opt/tools"
    ];
    listen = {
      address = "192.0.2.1";
      port = 8080;
    };
    openFirewall = true;
    logLevel = "WARN";
    extraArgs = [ "--pure" ];
    autoStart = false;
    activation = "on-demand";
    idleTimeout = 3600;
    idleClients = "active";
    idleChildren = false;
    restartOnSwitch = false;
    auth = {
      enable = true;
      passwordFile = "/run/secrets/website";
    };
    nix.enable = true;
    nixLd.enable = true;
    network = {
      outbound = {
        policy = "allow-list";
        allowCidrs = [
          "192.168.1.20/32"
          {
            cidr = "2001:db8::/32";
            ports = [ 443 ];
          }
        ];
      };
      dns = {
        policy = "names";
        allowNames = [ "*.example.org" ];
      };
      hostPorts = [ 11434 ];
      pool = "172.30.0.0/16";
    };
    sandbox = {
      readWritePaths = [ "/data/cache" ];
      readOnlyPaths = [ "-/srv/handbook:/handbook" ];
      relax = [
        "debug-calls"
        "umask"
      ];
      allowNestedSandbox = true;
      devices = [ "-/dev/dri" ];
      nixStore = "full";
      unixSockets = [ "/run/postgresql/.s.PGSQL.5432" ];
    };
    resources = {
      memoryMax = "8G";
      memoryHigh = "6G";
      cpuQuota = "150%";
      cpuWeight = 50;
      tasksMax = 1024;
      ioWeight = 50;
      diskQuota = "20G";
    };
    unitOverrides = {
      main.MemoryMax = "8G";
      setup.TimeoutStartSec = 300;
      net.TimeoutStartSec = 60;
    };
  };
  # The one that starts at boot says in vain what is its own, and not what it has from `defaults`.
  idle-at-boot = {
    imports = [
      (two { idleChildren = false; } {
        activation = "on-demand";
        idleTimeout = 60;
      })
    ];
    services.opencode.defaults = {
      idleTimeout = 3600;
      idleClients = "active";
    };
  };
  overrides-of-every-kind = one {
    unitOverrides.main = {
      MemoryMax = "8G";
      TasksMax = 100;
      PrivateDevices = false;
      SystemCallFilter = [
        "@system-service"
        "~@privileged"
      ];
      ExecStartPre = [ ];
    };
  };
  merged-from-two-modules = {
    imports = [
      (one { unitOverrides.main.MemoryMax = "8G"; })
      (one {
        extraArgs = lib.mkForce [ "--pure" ];
        unitOverrides.main.TasksMax = 100;
      })
    ];
  };
  from-defaults = {
    imports = [ (on { website = { }; }) ];
    services.opencode.defaults = {
      directory = "/srv/only";
      logLevel = "WARN";
      listen.address = "::1";
      unitOverrides.main.MemoryMax = "8G";
    };
  };
  instance-outranks-defaults = {
    imports = [
      (one {
        logLevel = "ERROR";
        unitOverrides.main.TasksMax = 100;
      })
    ];
    services.opencode.defaults = {
      directory = "/srv/only";
      logLevel = "WARN";
      unitOverrides.main.MemoryMax = "8G";
    };
  };

  # Addresses and the firewall.
  any-address = one { listen.address = "0.0.0.0"; };
  ipv6 = one { listen.address = "2001:db8::1"; };
  open-firewall = one {
    listen.address = "192.0.2.1";
    openFirewall = true;
  };
  open-firewall-of-two =
    two
      {
        listen.address = "192.0.2.1";
        openFirewall = true;
      }
      {
        listen.address = "192.0.2.2";
        listen.port = 4096;
        openFirewall = true;
      };
  open-firewall-beside-others = with' { networking.firewall.allowedTCPPorts = [ 22 ]; } {
    listen.address = "192.0.2.1";
    openFirewall = true;
  };
  disabled-opens-nothing = one {
    enable = false;
    listen.address = "192.0.2.1";
    openFirewall = true;
  };
  one-port-on-two-addresses = two { } {
    listen.address = "::1";
    listen.port = 4096;
  };
  nftables-stays-on = with' { networking.nftables.enable = true; } { };

  # Accounts.
  user-of-the-operator =
    with'
      {
        users.users.web = {
          isSystemUser = true;
          group = "web";
        };
        users.groups.web = { };
      }
      {
        user = "web";
        group = "web";
      };
  user-alone = one { user = "web"; };
  group-alone = one { group = "projects"; };
  user-extended-by-the-operator = with' {
    users.users.opencode-website = {
      uid = 990;
      home = "/home/website";
      extraGroups = [ "media" ];
    };
  } { };
  user-that-is-named-as-usual = one { user = "opencode-website"; };
  user-with-immutable-accounts = with' { users.mutableUsers = false; } { };

  # The host.
  time-zone = with' { time.timeZone = "Europe/Rome"; } { };
  locale = with' {
    i18n.defaultLocale = "it_IT.UTF-8";
    i18n.extraLocaleSettings.LC_TIME = "C.UTF-8";
  } { };
  proxy = with' { networking.proxy.envVars.https_proxy = "http://192.0.2.8:3128"; } { };
  no-usr-bin-env = with' { environment.usrbinenv = null; } { };
  variables-of-all-units = with' {
    systemd.globalEnvironment = {
      EDITOR = "${pkgs.less}/bin/less";
      LOCALE_ARCHIVE = lib.mkForce null;
    };
  } { };
  other-programs = with' {
    services.opencode.package = pkgs.package "opencode-instances" "0.2.0";
    systemd.package = pkgs.package "systemd" "260.2";
    environment.binsh = "${pkgs.package "dash" "0.5"}/bin/dash";
    security.pki.caBundle = "${pkgs.package "own-cacert" "1"}/bundle.crt";
  } { };
  nix = with' { nix.package = pkgs.package "lix" "2.94"; } { nix.enable = true; };
  for-another-platform = with' {
    _module.args.pkgs = pkgs // {
      stdenv = pkgs.stdenv // {
        buildPlatform = lib.systems.elaborate "aarch64-linux";
      };
      buildPackages.opencode-instances = pkgs.package "opencode-instances" "0.1.0-of-the-builder";
    };
  } { };
  nix-ld = one { nixLd.enable = true; };
  nix-ld-of-the-host = with' {
    programs.nix-ld = {
      enable = true;
      libraries = [ pkgs.zlib ];
    };
  } { nixLd.enable = true; };
  opted-in-beside-others = two { nixLd.enable = true; } { };

  # Passwords.
  password-file = one { auth.passwordFile = "/run/secrets/website"; };
  no-password = one { auth.enable = false; };
  no-password-for-two = two { auth.enable = false; } { auth.enable = false; };

  # Configuration.
  settings-of-two-modules = {
    imports = [
      (one {
        settings = {
          model = lib.mkDefault "a/default";
          share = "manual";
          provider.local.options.timeout = 1.5;
          instructions = [ "docs/one.md" ];
        };
      })
    ];
    services.opencode.instances.website.settings = {
      model = "a/b";
      share = lib.mkForce "disabled";
      provider.local.models.small.limit.context = 8192;
      instructions = lib.mkAfter [ "docs/two.md" ];
      theme = null;
    };
  };
  settings-in-order = one {
    settings.permission = [
      { "*" = "ask"; }
      {
        bash = [
          { "*" = "ask"; }
          { "git *" = "allow"; }
        ];
      }
      { edit = "deny"; }
    ];
    enforcedSettings = {
      share = "disabled";
      autoupdate = false;
    };
    trustProject = false;
  };
  settings-of-the-store = two {
    settings = {
      mcp.search.command = [
        "${pkgs.python3}/bin/python3"
        ./bench.nix
      ];
      formatter.nix.command = [ pkgs.nodejs ];
    };
  } { };
  settings-of-defaults-replaced = {
    imports = [ (two { settings.permission.edit = "deny"; } { }) ];
    services.opencode.defaults.settings = {
      model = "a/b";
      permission.bash = "ask";
    };
  };
  file-in-the-place-of-settings-of-defaults = {
    imports = [
      (one {
        configFile = "/etc/opencode/website.json";
        settings = { };
      })
    ];
    services.opencode.defaults.settings.model = "a/b";
  };
  config-file-of-string = one { configFile = "/etc/opencode/website.json"; };
  config-file-of-literal = one { configFile = ./bench.nix; };
  config-file-of-package = one { configFile = pkgs.writeText "opencode.json" "{}"; };
  config-file-in-package = one { configFile = "${pkgs.git}/share/opencode.json"; };
  content-of-every-kind = one {
    agents = {
      text = "one";
      literal = ./bench.nix;
      package = pkgs.writeText "package.md" "two";
      in-package = "${pkgs.git}/share/agent.md";
      file.file = "/etc/opencode/agent.md";
      file-of-literal.file = ./bench.nix;
      about-a-package = "${pkgs.git}\nThis is where git is.";
    };
    commands.lint = "Run the linter.";
    skills.release = pkgs.package "release-skill" "1";
    # As flakes are.
    skills.review.outPath = "${pkgs.package "review-skill" "1"}";
    plugins."notify.js" = ./bench.nix;
    instructions = ./bench.nix;
  };
  instructions-of-two-modules = {
    imports = [ (one { instructions = "Answer in English."; }) ];
    services.opencode.instances.website.instructions = lib.mkAfter "Be brief.";
  };

  # Environment, secrets and scripts.
  environment-of-every-kind = one {
    environment = {
      EDITOR = "${pkgs.git}/bin/editor";
      COUNT = 3;
      FLAG = true;
      FILE = ./bench.nix;
      PACKAGE = pkgs.nodejs;
      NOTHING = null;
    };
  };
  environment-file = one { environmentFile = "/run/secrets/website.env"; };
  environment-files-of-two-modules = {
    imports = [ (one { environmentFile = "/run/secrets/one.env"; }) ];
    services.opencode.instances.website.environmentFile = [
      "/run/secrets/two.env"
      "/run/secrets/three.env"
    ];
  };
  credentials = one {
    credentials.anthropic = "/run/secrets/anthropic";
    settings.provider.anthropic.options.apiKey = "{credential:anthropic}";
    restartOnSecretChange = true;
    auth.username = "team";
  };
  scripts-of-two-modules = {
    imports = [
      (one {
        preInitScript = "git config --global user.name website";
        postInitScript = "mkdir notes\n";
      })
    ];
    services.opencode.instances.website = {
      preInitScript = "git config --global user.email website@example.org";
      postInitScript = lib.mkBefore "${pkgs.git}/bin/git init notes";
    };
  };
  arguments-of-the-store = one { extraArgs = [ "--words=${pkgs.git}/words" ]; };

  # Versions.
  opencode-2 = one { package = pkgs.package "opencode" "2.0.12"; };
  opencode-2-in-defaults = {
    imports = [ (two { } { }) ];
    services.opencode.defaults.package = pkgs.package "opencode" "2.0.12";
  };
  opencode-of-two-versions = two { package = pkgs.package "opencode" "1.17.0"; } { };
  opencode-of-no-version = one {
    package = removeAttrs pkgs.opencode [ "version" ] // {
      name = "opencode";
    };
  };

  # What evaluation refuses.
  refused-same-endpoint = two { } { listen.port = 4096; };
  refused-three-on-a-port = {
    imports = [
      (two { } { listen.port = 4096; })
      (on {
        docs = {
          directory = "/srv/docs";
          listen.address = "::1";
        };
      })
    ];
    services.opencode.instances.docs.listen.port = 4096;
  };
  refused-below-any-address = two { listen.address = "0.0.0.0"; } { listen.port = 4096; };
  refused-below-any-ipv6 = two { } {
    listen.address = "::";
    listen.port = 4096;
  };
  refused-same-user = two { user = "web"; } { user = "web"; };
  refused-user-of-another = two { user = "opencode-website"; } { };
  refused-user-of-a-disabled-one = two {
    user = "web";
    enable = false;
  } { user = "web"; };
  refused-person = with' {
    users.users.opencode-website = {
      isNormalUser = true;
      description = "Somebody";
    };
  } { };
  accounts-of-another-name-service = with' { users.mutableUsers = false; } {
    user = "web";
    extraGroups = [ "webteam" ];
  };
  path-of-strings = one { path = [ "${pkgs.nodejs}" ]; };
  rare-spelling-of-loopback = one {
    listen.address = "0:0:0:0:0:0:0:1";
    auth.enable = false;
  };
  refused-same-state = two { stateDir = "/data/x"; } { stateDir = "/data/x"; };
  refused-nested-state = two { stateDir = "/data"; } { stateDir = "/data/x/y"; };
  refused-state-around-the-usual = two { stateDir = "/var/lib/opencode"; } { };
  refused-state-in-the-usual = two { } { stateDir = "/var/lib/opencode/instance-state/api/deep"; };
  refused-long-name = on { a-name-of-23-characters.directory = "/srv/long"; };
  refused-very-long-name = on {
    a-name-that-is-longer-than-any-user-of-linux-can-be.directory = "/srv/long";
  };
  refused-capital-name = on { Website.directory = "/srv/website"; };
  refused-dotted-name = on { "web.site".directory = "/srv/website"; };
  refused-hyphen-at-end = on { website-.directory = "/srv/website"; };
  refused-firewall-on-loopback = one { openFirewall = true; };
  refused-firewall-on-loopback-ipv6 = one {
    openFirewall = true;
    listen.address = "::1";
  };
  refused-open-to-all = one {
    listen.address = "0.0.0.0";
    auth.enable = false;
  };
  fleet-of-the-operator = {
    imports = [ (one { }) ];
    services.opencode.fleet = {
      maxConcurrentStarts = 3;
      memoryPressure = "10%";
      resources = {
        memoryMax = "64G";
        cpuQuota = "800%";
      };
    };
  };
  refused-password-in-store = one { auth.passwordFile = "/nix/store/password"; };
  refused-no-daemon = with' { nix.enable = false; } { nix.enable = true; };
  refused-builds-outside-a-sandbox = with' { nix.settings.sandbox = false; } { nix.enable = true; };
  refused-builds-that-may-leave-it = with' { nix.settings.sandbox = "relaxed"; } {
    nix.enable = true;
  };
  refused-trusted-user = with' {
    nix.settings.trusted-users = [ "opencode-website" ];
  } { nix.enable = true; };
  refused-trusted-group = with' { nix.settings.trusted-users = [ "@dev" ]; } {
    nix.enable = true;
    extraGroups = [ "dev" ];
  };
  refused-trusted-by-the-operators-group = with' {
    nix.settings.trusted-users = [ "@dev" ];
    users.users.opencode-website.extraGroups = [ "dev" ];
  } { nix.enable = true; };
  daemon-of-others = with' {
    nix.enable = false;
    nix.settings.trusted-users = [ "*" ];
  } { };
  refused-two-configurations = one {
    configFile = "/etc/opencode/website.json";
    settings.model = "a/b";
  };
  refused-configuration-beside-that-of-defaults = {
    imports = [ (one { configFile = "/etc/opencode/website.json"; }) ];
    services.opencode.defaults.settings.model = "a/b";
  };
  refused-for-many-reasons =
    two
      {
        openFirewall = true;
        user = "web";
      }
      {
        listen.port = 4096;
        user = "web";
        auth.passwordFile = "/nix/store/password";
      };
}
