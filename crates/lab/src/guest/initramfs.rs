//! What the kernel starts with: as little as mounts the host's root file system.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;

/// PID 1 until the root is mounted.
const EARLY: &str = include_str!("early.sh");
/// What the root and the command's port need.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Packs it: a shell, the modules in the order in which they are loaded, and the script.
pub(super) fn build(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive::default();
    for directory in ["bin", "modules"] {
        archive.add(directory, 0o040_755, b"");
    }
    archive.add("bin/busybox", 0o100_755, &read(busybox)?);
    archive.add("init", 0o100_755, EARLY.as_bytes());
    let mut order = String::new();
    for file in kernel.needed(MODULES)? {
        let name =
            file.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        order += &format!("{name}\n");
        archive.add(&format!("modules/{name}"), 0o100_644, &read(&file)?);
    }
    archive.add("modules/order", 0o100_644, order.as_bytes());
    Ok(archive.finish())
}

/// An archive of cpio's format `newc`, which the kernel unpacks.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    count: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.count += 1;
        self.bytes.extend(b"070701");
        // Inode, mode, owner, group, links, time, size, four of devices, length of the name, checksum.
        let size = contents.len();
        for field in [self.count, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() + 1, 0] {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.add("init", 0o100_755, b"#!");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let head = "07070100000001000081ED000000000000000000000001000000000000000200000000000000000000000000000000\
            0000000500000000init\0";
        assert!(text.starts_with(head), "{text}");
        // The name ends at a multiple of four, and so does the file.
        assert_eq!(bytes.get(116..120), Some(b"#!\0\0".as_slice()));
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("TRAILER!!!"));
    }
}
