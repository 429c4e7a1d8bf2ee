//! The real opencode, which other tests of this crate use too, and where it can listen.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the real server lies, from the workspace's root.
pub(crate) fn real_server() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let lab = std::env::var_os("INSTANCES_LAB_DIR").map_or(here, PathBuf::from);
    lab.join("opencode/node_modules/opencode-linux-x64/bin/opencode")
}

/// Tells whether the tests with the real server can run; their absence is a failure in CI.
pub(crate) fn has_real_server() -> bool {
    let found = real_server().exists();
    if !found {
        println!("SKIP: {} is missing", real_server().display());
        assert!(std::env::var_os("CI").is_none(), "the real server is missing in CI");
    }
    found
}

/// A port of loopback that nobody has, nor is given by the kernel or by this until it is used.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
