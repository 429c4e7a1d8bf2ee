//! What one program of an agent's writes into several files is kept as it was at one moment.

use instances_lab::{Machine, fleet};

use crate::view::{assert_healthy, done, http, pid, property, sh, status, wait_for};
use crate::{STATES, beside, is_frozen, own, with_stand_in};

/// Counts in the first file and then in the last one, as a journal and what it is about; both are far apart
/// for who copies. In the server's own group, and as its user.
const WRITER: &str = r"
import os, sys
group = sys.argv[1]
open(f'/sys/fs/cgroup{group}/cgroup.procs', 'w').write(str(os.getpid()))
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
os.chdir(sys.argv[4])
first, last = (os.open(name, os.O_CREAT | os.O_WRONLY, 0o600) for name in ('1', '9'))
count = 0
while True:
    count += 1
    for file in (first, last):
        os.pwrite(file, b'%012d' % count, 0)
";

fn start_writer(machine: &Machine) {
    machine.put("/root/writer.py", WRITER, 0o644).unwrap();
    own(machine, "mkdir many; i=0; while [ $i -lt 3000 ]; do : >many/$i; i=$((i + 1)); done");
    own(machine, "dd if=/dev/urandom of=5 bs=1M count=20 status=none");
    let group = property(machine, "opencode-web.service", "ControlGroup");
    sh(
        machine,
        &format!(
            "setsid python3 /root/writer.py {group} $(id -u opencode-web) $(id -g opencode-web) \
             {STATES}/web >/dev/null 2>&1 & while ! [ -s {STATES}/web/9 ]; do sleep 0.01; done"
        ),
    );
}

#[test]
fn files_are_consistent_with_each_other_and_nobody_is_woken() {
    let more = "[instances.other]\ndirectory = \"/srv/other\"\nlisten.port = 4102\n\
                activation = \"on-demand\"\n";
    let Some(machine) = with_stand_in("backup-consistent", more) else { return };
    let machine = &machine;
    one_moment(machine);
    a_limit_is_kept(machine);
    what_is_idle_stays_so(machine);
    a_pipe_that_nobody_reads_holds_up_nobody(machine);
    how_far_it_is_is_said_on_a_terminal(machine);
}

fn one_moment(machine: &Machine) {
    start_writer(machine);
    let before = pid(machine, "web");
    for round in 0..5 {
        done(machine, "backup web /root/b --force");
        let read = |name: &str| -> u64 {
            let script = format!("zstd -dc /root/b | tar -xO state/{name}");
            sh(machine, &script).trim_start_matches('0').parse().unwrap()
        };
        let (first, last) = (read("1"), read("9"));
        assert!(first == last || first == last + 1, "round {round}: {first} and {last}");
        assert!(!is_frozen(machine));
    }
    assert_eq!(pid(machine, "web"), before);
    assert_healthy(machine, "web");
    // A database that is written to comes out whole.
    own(
        machine,
        "sqlite3 db 'pragma journal_mode=wal; create table t(a); create index i on t(a)' >/dev/null",
    );
    let group = property(machine, "opencode-web.service", "ControlGroup");
    let insert = "with recursive n(x) as (select 1 union all select x + 1 from n limit 500) \
                  insert into t select hex(randomblob(50)) from n;";
    let writer = format!("while :; do echo \"{insert}\"; done | sqlite3 {STATES}/web/db");
    machine.put("/srv/db.sh", &writer, 0o644).unwrap();
    sh(
        machine,
        &format!(
            "(echo 0 >/sys/fs/cgroup{group}/cgroup.procs; \
             exec setsid setpriv --reuid=opencode-web --regid=opencode-web --clear-groups sh /srv/db.sh) \
             >/dev/null 2>&1 & while [ $(stat -c %s {STATES}/web/db) -lt 500000 ]; do sleep 0.05; done"
        ),
    );
    for _ in 0..3 {
        done(machine, "backup web /root/b --force");
        let check = "rm -rf /root/x; mkdir /root/x; zstd -dc /root/b | tar -x -C /root/x; cd /root/x/state; \
                     sqlite3 db 'pragma integrity_check; select count(*) % 500 from t'";
        assert_eq!(sh(machine, check), "ok\n0");
    }
    sh(machine, "pkill -KILL -u opencode-web python3; pkill -KILL -u opencode-web -f db.sh; true");
}

/// The copier is stopped while the server stands still; the server goes on when the limit is reached.
fn a_limit_is_kept(machine: &Machine) {
    let stopper = "until [ \"$(systemctl show -P FreezerState opencode-web)\" = frozen ]; do :; done; \
                   systemctl kill -s STOP opencode-keep@web.service; echo stopped >/root/stopped";
    machine.put("/root/stopper.sh", stopper, 0o644).unwrap();
    own(machine, "mkdir more; i=0; while [ $i -lt 20000 ]; do : >more/$i; i=$((i + 1)); done");
    let script = "rm -f /root/c; sh /root/stopper.sh & \
                  opencode-instances backup web /root/c --freeze-limit 1 2>&1 && exit 1; wait";
    let said = sh(machine, script);
    sh(machine, "test -e /root/stopped && ! test -e /root/c");
    assert!(said.contains("stood still for 1 s, which is the limit"), "{said}");
    assert!(!is_frozen(machine));
    assert_healthy(machine, "web");
    assert_eq!(beside(machine), "web");
}

fn what_is_idle_stays_so(machine: &Machine) {
    sh(machine, &format!("test -d {STATES}/other || true"));
    let url = "http://127.0.0.1:4102/";
    assert_ne!(http(machine, url, 20), 0);
    sh(machine, "systemctl stop opencode-other.service");
    assert_eq!(status(machine, "other")["state"], "idle");
    let said = done(machine, "backup other /root/other");
    assert!(said.contains("the server did not run"), "{said}");
    assert_eq!(status(machine, "other")["state"], "idle", "it was woken");
    // A client that comes while it is held waits, and then is served.
    let script = format!(
        "systemd-run --quiet --service-type=oneshot --unit=opencode-keep@other \
           --property=Before=opencode-other.service sh -c 'touch /run/held; while [ -e /run/held ]; do sleep 0.05; done' & \
         while ! [ -e /run/held ]; do sleep 0.01; done; \
         curl --silent --output /dev/null --max-time 30 {url} & \
         sleep 0.5; systemctl show -P ActiveState opencode-other; rm /run/held; wait"
    );
    assert_eq!(sh(machine, &script), "inactive");
    wait_for(machine, "opencode-other.service", "active");
}

/// The archive is read slowly, and the server answers meanwhile.
fn a_pipe_that_nobody_reads_holds_up_nobody(machine: &Machine) {
    let script = "opencode-instances backup web - 2>/root/narration | \
                  (head -c 1000 >/dev/null; touch /run/reading; \
                   while [ -e /run/reading ]; do sleep 0.05; done; cat >/dev/null) & \
                  while ! [ -e /run/reading ]; do sleep 0.05; done; \
                  systemctl show -P FreezerState opencode-web; \
                  opencode-instances status web --json | jq .instances[0].healthy; rm /run/reading; wait";
    let output = machine.run_for(fleet::PATIENCE, ["bash", "-euc", script]).unwrap();
    assert_eq!(output.ok().unwrap(), "running\ntrue\n");
}

/// Whoever is at the other end of the pipe takes his time, so that there is something to say.
fn how_far_it_is_is_said_on_a_terminal(machine: &Machine) {
    let keep = "(head -c 1000 >/dev/null; sleep 1; cat >/dev/null)";
    let give = "(head -c 4000000 /root/b; sleep 1; tail -c +4000001 /root/b)";
    for (doing, command) in [
        ("writing", format!("opencode-instances backup web - | {keep}")),
        ("reading", format!("{give} | opencode-instances restore web - --dry-run")),
    ] {
        let script = format!(
            "TERM=xterm script --quiet --flush --return --command '{command}' /dev/null </dev/null"
        );
        let screen = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-c", &script]).unwrap().stdout;
        let mut lines =
            screen.split('\r').filter_map(|line| line.strip_prefix(doing)?.strip_prefix(": "));
        let last = lines.next_back().unwrap_or_else(|| panic!("no word of {doing}: {screen:?}"));
        let counted = last.split_once(" files, ").and_then(|(files, _)| files.parse::<u64>().ok());
        assert!(counted > Some(0) && last.ends_with(" MiB\u{1b}[K"), "{screen:?}");
        // It is taken away again.
        assert!(screen.contains(&format!("{last}\r\u{1b}[K")), "{screen:?}");
    }
    let script = format!("opencode-instances backup web - 2>/root/narration | {keep}");
    assert_eq!(sh(machine, &script), "");
    let narration = machine.get("/root/narration").unwrap();
    assert!(!narration.contains("writing") && !narration.contains('\r'), "{narration:?}");
}
