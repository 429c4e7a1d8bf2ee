//! `sandbox.devices`: the listed device is there and works, no other one is, and no disk passes for one.

use instances_lab::fleet::SPEC;
use instances_lab::{Image, Machine, Options, Release, fleet, unavailable};

use crate::{apply, said};

/// Devices of the machine's own: those behind `full` and `zero`, under names that no sandbox has by itself.
const PREPARE: &str = "
mkdir -p /srv/website /dev/dri
mknod -m 666 /dev/given c 1 7
mknod -m 600 /dev/closed c 1 5
mknod -m 666 /dev/other c 1 5
mknod -m 666 /dev/dri/renderD128 c 226 128
rm -f /dev/fuse
mknod -m 666 /dev/fuse c 10 229
";

fn spec(devices: &str) -> String {
    format!(
        "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
         sandbox.devices = [{devices}]\n"
    )
}

const DEVICES: &str =
    "\"/dev/given\", \"/dev/closed\", \"/dev/dri\", \"/dev/fuse\", \"-/dev/missing\"";

const TRY: &str = "
echo x 2>/dev/null >/dev/given || echo full
head -c 1 /dev/given | wc -c
cat /dev/closed
ls /dev/dri
python3 -c \"import os; os.open('/dev/fuse', os.O_RDWR)\" && echo opened fuse
ls /dev/other /dev/missing
mknod /tmp/other c 1 5
touch /dev/new
";
const SAID: &[&str] = &[
    "full",
    "1",
    "cat: /dev/closed: Permission denied",
    "renderD128",
    "opened fuse",
    "ls: cannot access '/dev/other': No such file or directory",
    "ls: cannot access '/dev/missing': No such file or directory",
    "mknod: /tmp/other: Operation not permitted",
    "touch: cannot touch '/dev/new': Read-only file system",
];

fn listed(release: Release, name: &str) {
    if unavailable() {
        return;
    }
    let image = Image::ensure(release).unwrap();
    let machine = Machine::boot(&image, &Options::new().name(name).engine()).unwrap();
    machine.sh(PREPARE).unwrap().ok().unwrap();
    machine.put(SPEC, spec(DEVICES), 0o644).unwrap();
    apply(&machine);
    assert_eq!(said(&machine, "website", TRY), SAID);
}

#[test]
fn a_listed_device_works_and_no_other_is_there() {
    listed(Release::Trixie, "devices");
}

#[test]
fn a_listed_device_works_on_systemd_252() {
    listed(Release::Bookworm, "devices-252");
}

#[test]
fn what_is_no_device_or_too_much_of_one_is_refused() {
    if unavailable() {
        return;
    }
    let machine =
        fleet::boot("devices-refused", &spec("\"/dev/given\""), &["/srv/website"]).unwrap();
    let refused = || {
        let applied = machine.run(["opencode-instances", "apply"]).unwrap();
        assert!(!applied.success(), "{applied}");
        applied.stderr
    };
    assert!(refused().contains("write `-` in front where it may be missing"));
    for (make, why) in [
        ("mknod /dev/given b 7 0", "is a disk"),
        ("mknod /dev/given c 1 1", "memory of the host"),
        ("ln -s /dev/mem /dev/given", "leads to /dev/mem"),
        ("ln -s /srv /dev/given", "leads to /srv"),
        ("touch /dev/given", "is no device"),
        ("mkdir /dev/given", "is no device"),
    ] {
        let make = format!("rm -rf /dev/given; [ -e /dev/mem ] || mknod /dev/mem c 1 1; {make}");
        machine.sh(&make).unwrap().ok().unwrap();
        let said = refused();
        assert!(said.contains(why), "{make}: {said}");
    }
}
