//! The places on the host that this project owns; one constant each, used by every crate.

/// Configuration that `apply` (or NixOS) installs; one directory per instance below it.
pub const CONFIG_DIR: &str = "/etc/opencode-instances";
/// The whole specification of a NixOS host, as its configuration wrote it.
pub const NIXOS_SPEC: &str = "/etc/opencode-instances/instances.json";
/// What a NixOS host is, as its configuration says it; where this file is, NixOS installs units.
pub const NIXOS_FACTS: &str = "/etc/opencode-instances/facts.json";
/// Volatile files: one directory per instance, the apply journal and the lock.
pub const RUNTIME_DIR: &str = "/run/opencode-instances";
/// The default parent of state directories. The leaf is the instance's HOME.
pub const STATE_ROOT: &str = "/var/lib/opencode/instance-state";
/// Where each instance's generated password lies, readable by root alone.
pub const AUTH_ROOT: &str = "/var/lib/opencode/instance-auth";
/// Which addresses each instance's link has; readable by root alone.
pub const NETWORK_ROOT: &str = "/var/lib/opencode/network";
/// The specification and the program of the last `apply` that was not stopped; readable by root alone.
pub const APPLIED_DIR: &str = "/var/lib/opencode/applied";
/// Where named network namespaces are pinned, as `ip netns` does.
pub const NETNS_DIR: &str = "/run/netns";
/// Where names are resolved inside a namespace, over UDP and TCP.
pub const RESOLVER: &str = "127.0.0.53:53";
/// Where every server listens on 127.0.0.1, inside its own network namespace: what clients connect
/// to on the host can change without touching it.
pub const SERVER_PORT: u16 = 4096;
/// The nft table inside each instance's namespace: `table inet opencode`.
pub const NFT_TABLE: &str = "opencode";
/// The nft table on the host that all links share: `table inet opencode_host`.
pub const NFT_HOST_TABLE: &str = "opencode_host";
/// Whom a server asks for unless `auth.username` names another.
pub const DEFAULT_USERNAME: &str = "opencode";
