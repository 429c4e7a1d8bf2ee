//! A list of places that is too long for systemd to mount: another unit does it.

use std::time::Duration;

use instances_lab::fleet::{BEGIN, PATIENCE, SPEC};
use instances_lab::{Agent, Machine, Release, fleet, unavailable};

/// Enough for the unit of the places.
const COUNT: usize = 20;

fn spec(more: &str) -> String {
    let listed = (0..COUNT).map(|number| format!("\"/data/{number}\", "));
    format!(
        "[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
         sandbox.readWritePaths = [\"/data/0/cache\"]\n\
         sandbox.readOnlyPaths = [{}\"/data/link:/mnt/linked\", \"/data/page:/mnt/a page 100%\", \
         \"-/data/none\"{more}]\n",
        listed.collect::<String>()
    )
}

const PREPARE: &str = "
cd /data
mkdir -p $(seq 0 19) 0/cache real hidden 1/below
for i in $(seq 0 19); do echo page >$i/file; done
echo real >real/file; echo secret >hidden/file; echo single >page
ln -s real link
mount -t tmpfs below 1/below && echo below >1/below/file
mknod 2/null c 1 3; cp /bin/true 2/suid; chmod 4755 2/suid
chmod -R a+rwX .
chmod u+s 2/suid
";

/// What the agent tries. Every mode on the host would let it write.
const TRY: &str = "
cat /data/0/file /data/19/file /data/1/below/file '/mnt/a page 100%' /mnt/linked/file
ls /data | grep -v '^[0-9]*$'
ls /mnt
for place in /data/1 /data/1/below /data/19 /mnt/linked /data; do
    (echo x >$place/new) 2>/dev/null && echo wrote $place
    mount -o remount,bind,rw $place 2>/dev/null && echo remounted $place
    umount $place 2>/dev/null && echo unmounted $place
done
(echo x >'/mnt/a page 100%') 2>/dev/null && echo wrote the page
(echo x >/data/2/null) 2>/dev/null && echo used a device
(echo x >/data/0/cache/new) && echo wrote the cache
grep -E ' (/data/[0-9]+|/mnt/[^ ]*)( |/)' /proc/self/mountinfo | grep -v ' /data/0' | grep -v ' ro,nosuid,nodev'
";

const SAID: &str = "page\npage\nbelow\nsingle\nreal\na page 100%\nlinked\nwrote the cache";

/// Whether the unit of the places runs, which it must not beside a server.
const STATE: &[&str] = &["systemctl", "show", "--property=ActiveState", "--value", PLACES];
const SOON: Duration = Duration::from_secs(5);
const PLACES: &str = "opencode-places@website.service";

fn boot(release: Release, name: &str) -> Machine {
    let machine = fleet::boot_on(release, name, &spec(""), &["/srv/website", "/data"]).unwrap();
    machine.sh(PREPARE).unwrap().ok().unwrap();
    machine.put("/srv/website/try.sh", TRY, 0o644).unwrap();
    apply(&machine);
    machine
}

fn apply(machine: &Machine) -> String {
    let applied = machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap();
    assert!(applied.success(), "{applied}");
    applied.stderr
}

fn systemctl(machine: &Machine, words: &[&str]) -> bool {
    machine.run_for(PATIENCE, ["systemctl"].iter().chain(words)).unwrap().success()
}

/// What the agent finds.
fn tried(machine: &Machine) -> String {
    Agent::connect(machine, "website").unwrap().shell("sh try.sh").unwrap()
}

fn journal(machine: &Machine) -> String {
    let unit = format!("--unit={PLACES}");
    machine.run(["journalctl", "--no-pager", unit.as_str()]).unwrap().stdout
}

/// What is true on each systemd: the places are there, the host has no mount of them, and a server that
/// runs is nothing to mount into.
fn is_there_and_nothing_else(machine: &Machine) {
    assert_eq!(tried(machine).trim_end(), SAID);
    let mounts = machine.get("/proc/1/mountinfo").unwrap();
    assert!(!mounts.contains("/root/data"), "{mounts}");

    // A job that finds the server started starts what the server requires; a client is one such.
    for words in [
        &["start", "opencode-website"][..],
        &["start", "opencode.target"],
        &["stop", "opencode-listen@website.service"],
        &["start", PLACES],
        &["restart", PLACES],
    ] {
        assert!(systemctl(machine, words), "{words:?}: {}", journal(machine));
        let inactive = |machine: &Machine| Ok(machine.run(STATE)?.stdout.trim() == "inactive");
        machine.wait_until("the unit of the places ends", SOON, inactive).unwrap();
        assert_eq!(tried(machine).trim_end(), SAID, "{words:?}");
    }
    machine.sh(&format!("{BEGIN} begin opencode-website")).unwrap().ok().unwrap();
    assert_eq!(tried(machine).trim_end(), SAID);
}

#[test]
fn a_long_list_is_there_and_nothing_else() {
    if unavailable() {
        return;
    }
    let machine = boot(Release::Trixie, "places");
    is_there_and_nothing_else(&machine);
    let audit = machine.run_for(PATIENCE, ["opencode-instances", "audit", "website"]).unwrap();
    let findings = audit.stdout.lines().filter(|line| line.starts_with("finding: "));
    let mut findings = findings.filter(|line| !line.starts_with("finding: website: limits: "));
    assert!(findings.next().is_none(), "{audit}");

    // A changed list is a restart with the new one.
    machine.put(SPEC, spec(", \"/data/hidden\""), 0o644).unwrap();
    let applied = apply(&machine);
    assert!(applied.contains("restart opencode-website"), "{applied}");
    let hidden = || {
        let agent = Agent::connect(&machine, "website").unwrap();
        agent.shell("cat /data/hidden/file 2>&1").unwrap()
    };
    assert_eq!(hidden().trim_end(), "secret");

    // What waits for a server that cannot start, and is started again and again, mounts nothing that is no
    // longer listed. A start that finds the other list there fails, and the next one does not.
    assert!(systemctl(&machine, &["stop", "opencode-website"]));
    machine.sh("mv /srv/website /srv/elsewhere").unwrap().ok().unwrap();
    assert!(!systemctl(&machine, &["start", "opencode-website"]));
    machine.put(SPEC, spec(""), 0o644).unwrap();
    machine.sh("mv /srv/elsewhere /srv/website").unwrap().ok().unwrap();
    let _ = machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap();
    let starts = |machine: &Machine| Ok(systemctl(machine, &["start", "opencode-website"]));
    machine.wait_until("it starts", Duration::from_mins(1), starts).unwrap();
    // The mount point stays, with nothing in it.
    assert!(hidden().contains("No such file"), "{}", hidden());

    // One that may not be missing ends the start, and says so.
    machine.sh("mv /data/7 /data/seven").unwrap().ok().unwrap();
    assert!(!systemctl(&machine, &["restart", "opencode-website"]));
    let status = machine.run(["opencode-instances", "status"]).unwrap();
    assert!(status.stdout.contains("/data/7 is not there"), "{status}");
    let said = journal(&machine);
    assert!(said.contains("/data/7 is not there"), "{said}");
}

#[test]
fn a_long_list_is_there_on_systemd_252() {
    if unavailable() {
        return;
    }
    is_there_and_nothing_else(&boot(Release::Bookworm, "places-252"));
}

/// A drop-in by which the supervisor runs in namespaces that an agent could have made.
const OF_ANOTHER: &str = "
mkdir -p /etc/systemd/system/opencode-website.service.d
line=$(grep -m1 ^ExecStart= /etc/systemd/system/opencode-website.service)
cat >/etc/systemd/system/opencode-website.service.d/own.conf <<END
[Service]
RestrictNamespaces=no
ExecStart=
ExecStart=/usr/bin/unshare --user --map-current-user --mount --propagation unchanged ${line#ExecStart=}
END
systemctl daemon-reload
";
/// One that hides something of a place.
const BELOW: &str = "
printf '[Service]\\nTemporaryFileSystem=/data/3/secret\\n' >/etc/systemd/system/opencode-website.service.d/own.conf
systemctl daemon-reload
";
/// One by which the mount points are in another mount.
const COVERED: &str = "
printf '[Service]\\nBindPaths=/data\\n' >/etc/systemd/system/opencode-website.service.d/own.conf
systemctl daemon-reload
";

#[test]
fn nothing_is_mounted_where_somebody_else_has_mounted() {
    if unavailable() {
        return;
    }
    let machine = boot(Release::Trixie, "places-foreign");
    for (drop_in, said) in
        [(OF_ANOTHER, ""), (BELOW, "has /data/3 in it"), (COVERED, "has /data/1 in it")]
    {
        machine.sh(drop_in).unwrap().ok().unwrap();
        assert!(systemctl(&machine, &["reset-failed", "opencode-website"]));
        assert!(!systemctl(&machine, &["restart", "opencode-website"]));
        // Where systemd lost that start, the next one says it.
        let says = |machine: &Machine| Ok(journal(machine).contains(said));
        let waited = machine.wait_until("it says why", PATIENCE, says);
        assert!(waited.is_ok(), "{}", journal(&machine));
        // It would try again.
        assert!(systemctl(&machine, &["stop", "opencode-website"]));
    }
    let removed = format!(
        "{BEGIN} rm -r /etc/systemd/system/opencode-website.service.d; systemctl daemon-reload; \
         systemctl reset-failed opencode-website; begin opencode-website"
    );
    machine.sh(&removed).unwrap().ok().unwrap();
    assert_eq!(tried(&machine).trim_end(), SAID);
}
