//! What else of the host an instance may be given: devices, and the whole Nix store.

use serde::Serialize;

use crate::code::Code;
use crate::text::{AbsPath, Refusal};

/// What the sandbox shows of `/nix/store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NixStore {
    /// What the instance uses.
    #[default]
    Closure,
    /// All of it.
    Full,
}

impl NixStore {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Closure, Self::Full];
    /// Their words, in the same order.
    pub const WORDS: &'static [&'static str] = &["closure", "full"];
}

/// A device of the host, or a directory with devices of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Below `/dev`.
    pub path: AbsPath,
    /// Whether it may be missing.
    pub optional: bool,
}

/// Directories that hold devices of one driver, and how systemd calls these.
const DIRECTORIES: &[(&str, &str)] = &[
    ("/dev/accel", "char-accel"),
    ("/dev/dri", "char-drm"),
    ("/dev/nvidia-caps", "char-nvidia-caps"),
    ("/dev/snd", "char-alsa"),
];

/// What undoes the sandbox, by the name below `/dev`, and what it is. An entry that ends in `*` stands
/// for every name that begins so.
const NEVER: &[(&str, &str)] = &[
    ("autofs", "it makes mounts"),
    ("bcache*", DISKS),
    ("block", DISKS),
    ("bsg", DISKS),
    ("btrfs-control", DISKS),
    ("bus", "with it every USB device is written to, disks among them"),
    ("char", "links to all devices; name the device itself"),
    ("console", TERMINALS),
    ("core", MEMORY),
    ("cpu*", "the processors' own registers"),
    ("crash", MEMORY),
    ("cuse", "it makes devices"),
    ("dasd*", DISKS),
    ("disk", DISKS),
    ("dm-*", DISKS),
    ("drbd*", DISKS),
    ("fb*", "what the host's screen shows"),
    ("fd*", "files of the process itself, or a disk"),
    ("gpiochip*", HARDWARE),
    ("hd*", DISKS),
    ("hidraw*", INPUT),
    ("hpet", HARDWARE),
    ("hugepages", SHARED),
    ("i2c-*", HARDWARE),
    ("initctl", "it tells the host's first process what to do"),
    ("input", INPUT),
    ("iommu", HARDWARE),
    ("ipmi*", HARDWARE),
    ("kmem", MEMORY),
    ("kmsg", "the kernel's log"),
    ("log", "the host's log, past the journal of this unit"),
    ("loop*", DISKS),
    ("mapper", DISKS),
    ("mcelog", HARDWARE),
    ("md*", DISKS),
    ("mei*", HARDWARE),
    ("mem", MEMORY),
    ("mmcblk*", DISKS),
    ("mqueue", SHARED),
    ("mtd*", DISKS),
    ("nbd*", DISKS),
    ("nst*", DISKS),
    ("nvme*", DISKS),
    ("nvram", HARDWARE),
    ("oldmem", MEMORY),
    ("pmem*", DISKS),
    ("port", "the ports of all hardware"),
    ("ppp", "it makes network links"),
    ("ptmx", TERMINALS),
    ("pts", TERMINALS),
    ("ram*", DISKS),
    ("rbd*", DISKS),
    ("root", DISKS),
    ("rtc*", "the host's clock"),
    ("sd*", DISKS),
    ("sg*", DISKS),
    ("shm", SHARED),
    ("snapshot", MEMORY),
    ("spidev*", HARDWARE),
    ("sr*", DISKS),
    ("st*", DISKS),
    ("tpm*", "keys of the host"),
    ("tty", TERMINALS),
    ("ubi*", DISKS),
    ("ublk*", DISKS),
    ("uhid", INPUT),
    ("uinput", INPUT),
    ("uio*", HARDWARE),
    ("usb", "with it USB devices are written to"),
    ("userfaultfd", "a call that the sandbox refuses"),
    ("vcs*", TERMINALS),
    ("vd*", DISKS),
    ("vfio", HARDWARE),
    ("vga_arbiter", HARDWARE),
    ("vhost*", "a way into the kernel's network and disks, past the instance's policy"),
    ("watchdog*", "it restarts the host"),
    ("xvd*", DISKS),
    ("zd*", DISKS),
    ("zfs", DISKS),
    ("zram*", DISKS),
    ("zvol", DISKS),
];

const DISKS: &str = "disks, and through them all files of the host";
const HARDWARE: &str = "hardware without a driver in between";
const INPUT: &str = "what is typed at the host, or typing there";
const MEMORY: &str = "memory of the host";
const SHARED: &str = "the sandbox has one of its own; the host's is shared";
const TERMINALS: &str = "terminals of the host";

/// Terminals by their number are the host's own; adapters such as `ttyUSB0` are devices like others.
const ADAPTERS: &[&str] = &["ttyACM", "ttyUSB"];

/// The numbers of drivers whose devices undo the sandbox whatever their name, with the second numbers
/// where it is only some of the driver's.
const NUMBERS: &[(u32, &[u32], &str)] = &[
    // Memory, ports, the kernel's log; beside them are `null`, `zero` and the like.
    (1, &[1, 2, 4, 6, 11, 12], MEMORY),
    (4, &[], TERMINALS),
    (5, &[], TERMINALS),
    (7, &[], TERMINALS),
    (9, &[], DISKS),
    // Of the driver for single devices: watchdog, nvram, cuse, uinput, machine checks, snapshot, btrfs,
    // autofs, mapper, loop-control, vhost-net, uhid, userfaultfd, vhost-vsock.
    (
        10,
        &[126, 130, 144, 203, 223, 227, 231, 234, 235, 236, 237, 238, 239, 241],
        "of the host itself",
    ),
    (13, &[], INPUT),
    (21, &[], DISKS),
    (29, &[], "what the host's screen shows"),
    (89, &[], HARDWARE),
    (108, &[], "it makes network links"),
    (136, &[], TERMINALS),
    (162, &[], DISKS),
    (189, &[], "with it every USB device is written to, disks among them"),
    (90, &[], DISKS),
    (202, &[], "the processors' own registers"),
    (203, &[], "the processors' own registers"),
];

fn refuse<T>(reason: impl Into<String>, help: &str) -> Result<T, Refusal> {
    Err(Refusal { code: Code::BadDevice, reason: reason.into(), help: help.to_owned() })
}

/// The directories whose single devices may be named.
const SUBDIRECTORIES: &[&str] =
    &["accel", "dma_heap", "dri", "dvb", "infiniband", "net", "nvidia-caps", "snd", "v4l", "vfio"];

impl Device {
    /// Reads `/dev/NAME`, with `-` in front where it may be missing.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let (optional, path) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let path = AbsPath::new(path)?;
        Self::may_be_used(path.as_str())?;
        Ok(Self { path, optional })
    }

    /// Refuses a place of `/dev` that would undo the sandbox.
    pub fn may_be_used(path: &str) -> Result<(), Refusal> {
        let Some(name) = path.strip_prefix("/dev/") else {
            return refuse("devices are below /dev", "name one, as in `/dev/kvm`");
        };
        // systemd takes other characters apart, or for a pattern.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
        if !name.bytes().all(plain) {
            return refuse(
                "the name of a device has letters, digits, `.`, `_` and `-`",
                "name the device itself",
            );
        }
        let (first, rest) = name.split_once('/').map_or((name, ""), |(first, rest)| (first, rest));
        let adapter = ADAPTERS.iter().any(|adapter| first.starts_with(adapter));
        if first.starts_with("tty") && !adapter {
            return refuse(format!("this is {path}: {TERMINALS}"), "remove it");
        }
        let matches = |pattern: &str| {
            pattern.strip_suffix('*').map_or(first == pattern, |start| first.starts_with(start))
        };
        // `/dev/net/tun` makes links for who is root in a namespace, and nothing for anybody else.
        if first == "net" && rest != "tun" {
            return refuse("of /dev/net only `tun` is a device", "write `/dev/net/tun`");
        }
        match NEVER.iter().find(|(pattern, _)| matches(pattern)) {
            Some((_, what)) => refuse(format!("this is {path}: {what}"), "remove it"),
            // The directory of a group of volumes is called as whoever made it likes.
            None if !rest.is_empty() && !SUBDIRECTORIES.contains(&first) => refuse(
                format!("/dev/{first} is no directory of devices that is known"),
                "name a device of /dev itself",
            ),
            None => Ok(()),
        }
    }

    /// Refuses a character device by its numbers, under whatever name it is.
    pub fn number_may_be_used(major: u32, minor: u32) -> Result<(), Refusal> {
        let listed = |(one, minors, _): &&(u32, &[u32], &str)| {
            *one == major && (minors.is_empty() || minors.contains(&minor))
        };
        match NUMBERS.iter().find(listed) {
            Some((.., what)) => {
                refuse(format!("the device {major}:{minor} is {what}"), "remove it")
            }
            None => Ok(()),
        }
    }

    /// How systemd calls the devices of a directory; `None` for a device.
    pub fn of_directory(&self) -> Option<&'static str> {
        let known = DIRECTORIES.iter().find(|(path, _)| *path == self.path.as_str());
        known.map(|(_, group)| *group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_and_whether_it_may_be_missing() {
        for text in ["/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/nvidia0", "/dev/ttyUSB0"] {
            let device = Device::read(text).unwrap();
            assert_eq!((device.path.as_str(), device.optional), (text, false));
            assert_eq!(device.of_directory(), None);
        }
        let device = Device::read("-/dev/dri").unwrap();
        assert_eq!((device.optional, device.of_directory()), (true, Some("char-drm")));
        assert_eq!(Device::read("/dev/dri/renderD128").unwrap().of_directory(), None);
    }

    #[test]
    fn what_would_undo_the_sandbox_is_refused() {
        for name in [
            "mem",
            "kmem",
            "port",
            "kmsg",
            "console",
            "tty",
            "tty1",
            "ttyS0",
            "pts/0",
            "shm",
            "input/event0",
            "uinput",
            "sda",
            "sda1",
            "rbd0",
            "bcache0",
            "vg0/root",
            "vda",
            "nvme0n1p1",
            "mapper/root",
            "dm-0",
            "loop0",
            "loop-control",
            "disk/by-id/x",
            "block/8:0",
            "char/1:1",
            "vhost-net",
            "mei0",
            "watchdog",
            "net",
            "net/x",
            "fd/3",
            "bus/usb/001/001",
            "a b",
            "a:b",
            "a*",
        ] {
            let refused = Device::read(&format!("/dev/{name}")).unwrap_err();
            assert_eq!(refused.code, Code::BadDevice, "{name}");
        }
        for text in ["/dev", "/srv/kvm", "/dev/../etc", "dev/kvm", "/dev/kvm/"] {
            assert!(Device::read(text).is_err(), "{text}");
        }
        for (major, minor, refused) in
            [(1, 1, true), (1, 7, false), (10, 232, false), (10, 237, true), (226, 128, false)]
        {
            assert_eq!(
                Device::number_may_be_used(major, minor).is_err(),
                refused,
                "{major}:{minor}"
            );
        }
    }
}
