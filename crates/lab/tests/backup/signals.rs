//! Where the agent sees processes of its user that are not its server's, on systemd before 257, it cannot stop one
//! that copies or packs its files, or backups of all instances would wait for it.

use instances_lab::{Agent, Release, fleet, stand_in, unavailable};

use crate::view::{assert_healthy, done, sh};
use crate::{WEB, own};

/// Stops whatever it can that came after it and is not its server's; what was there before, as the supervisor, is its own. New processes have numbers near that of the newest one, which begin again at the lowest after the highest.
const STOPPER: &str = r"
import os, signal, time

def may(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False

def group(pid):
    try:
        with open(f'/proc/{pid}/cgroup') as file:
            return file.read()
    except OSError:
        return None

own = group('self')
# The supervisor is not seen in /proc.
before = {pid for pid in range(1, max(1 << 16, os.getpid()) + 1) if may(pid)}
print('ready', flush=True)
until = time.monotonic() + 300
while time.monotonic() < until and not os.path.exists('enough'):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for pid in range(max(2, child - 1000), child + 50):
        if pid not in before and may(pid) and group(pid) != own:
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                continue
            open('found', 'a').write(f'{pid}\n')
";

#[test]
fn a_backup_cannot_be_stopped_by_the_agent() {
    if unavailable() {
        return;
    }
    let spec = format!("{}{WEB}", stand_in::DEFAULTS);
    let machine = fleet::boot_on(Release::Bookworm, "backup-252", &spec, &["/srv/web"]).unwrap();
    let machine = &machine;
    stand_in::put(machine).unwrap();
    done(machine, "apply");
    own(machine, "mkdir many; i=0; while [ $i -lt 3000 ]; do : >many/$i; i=$((i + 1)); done");
    machine.put("/srv/web/stopper.py", STOPPER, 0o644).unwrap();
    sh(machine, "chmod 777 /srv/web");
    let agent = Agent::connect(machine, "web").unwrap();
    // No process of this shell's comes and goes: the stopper would meet one whose control group is gone already.
    let start = "cd /srv/web; setsid python3 stopper.py >said 2>&1 </dev/null & until [ -s said ]; do :; done";
    agent.shell(start).unwrap();
    for round in 0..3 {
        done(machine, &format!("backup web /root/{round}"));
    }
    assert_eq!(sh(machine, "cat /srv/web/found 2>/dev/null || true"), "");
    // It does stop what it may: another process of its user's, in the host's view.
    let victim = "until [ -s /srv/web/found ]; do [ \"$(cat /srv/web/said)\" = ready ]; \
                  timeout -s KILL 1 setpriv --reuid=opencode-web --regid=opencode-web --clear-groups \
                  sleep 1 >/dev/null 2>&1 </dev/null || true; done; touch /srv/web/enough";
    sh(machine, victim);
    assert_eq!(sh(machine, "cat /srv/web/said"), "ready");
    assert_healthy(machine, "web");
}
