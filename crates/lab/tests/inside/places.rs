//! A list of places that is too long for systemd to mount: another unit does it.

use instances_lab::fleet::{PATIENCE, SPEC};
use instances_lab::{Agent, fleet, unavailable};

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

#[test]
fn a_long_list_is_there_and_nothing_else() {
    if unavailable() {
        return;
    }
    let machine = fleet::boot("places", &spec(""), &["/srv/website", "/data"]).unwrap();
    machine.sh(PREPARE).unwrap().ok().unwrap();
    machine.put("/srv/website/try.sh", TRY, 0o644).unwrap();
    let apply = || machine.run_for(PATIENCE, ["opencode-instances", "apply"]).unwrap();
    apply().ok().unwrap();
    let tried = || Agent::connect(&machine, "website").unwrap().shell("sh try.sh").unwrap();
    assert_eq!(tried().trim_end(), SAID);
    let audit = machine.run_for(PATIENCE, ["opencode-instances", "audit", "website"]).unwrap();
    let findings = audit.stdout.lines().filter(|line| line.starts_with("finding: "));
    let mut findings = findings.filter(|line| !line.starts_with("finding: website: limits: "));
    assert!(findings.next().is_none(), "{audit}");

    // The host has no mount of it, and a restart is the same again.
    let mounts = machine.get("/proc/1/mountinfo").unwrap();
    assert!(!mounts.contains("/root/data"), "{mounts}");
    machine.run_for(PATIENCE, ["systemctl", "restart", "opencode-website"]).unwrap().ok().unwrap();
    assert_eq!(tried().trim_end(), SAID);

    // A changed list is a restart with the new one.
    machine.put(SPEC, spec(", \"/data/hidden\""), 0o644).unwrap();
    let applied = apply();
    assert!(applied.success() && applied.stderr.contains("restart opencode-website"), "{applied}");
    assert!(tried().contains("hidden"));

    // One that may not be missing ends the start, and says so.
    machine.sh("mv /data/7 /data/seven").unwrap().ok().unwrap();
    let restarted =
        machine.run_for(PATIENCE, ["systemctl", "restart", "opencode-website"]).unwrap();
    // The setup that began with it may still run.
    machine.run(["systemctl", "stop", "opencode-setup@website"]).unwrap().ok().unwrap();
    let status = machine.run(["opencode-instances", "status"]).unwrap();
    assert!(status.stdout.contains("/data/7 is not there"), "{status}");
    let journal = ["journalctl", "--no-pager", "--unit=opencode-places@website.service"];
    let journal = machine.run(journal).unwrap();
    assert!(!restarted.success() && journal.stdout.contains("/data/7 is not there"), "{journal}");
}
