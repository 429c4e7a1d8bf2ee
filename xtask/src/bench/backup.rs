//! A backup of a server that runs, beside `tar | zstd` of the same state while nobody writes, and `SQLite`'s own
//! copy of the database.

use std::time::Instant;

use anyhow::{Context as _, Result};
use instances_lab::progress::say;
use instances_lab::{Agent, Machine, fleet, install};
use serde_json::{Value, json};

use super::{Part, human_seconds, turns};
use crate::engine;

const SPEC: &str = "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\n";
/// HOME, and opencode's database in it.
const HOME: &str = "/var/lib/opencode/instance-state/web";
const DATABASE: &str = "/var/lib/opencode/instance-state/web/.local/share/opencode/opencode.db";
/// How large the database is made, in MiB.
const SIZE: u32 = 100;

/// Fills opencode's own database by a table more, from outside as the instance's user, and goes on
/// writing to it every 20 ms.
const WRITER: &str = r"
import os, sqlite3, sys, time
path, size, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
open(f'/sys/fs/cgroup{sys.argv[5]}/cgroup.procs', 'w').write(str(os.getpid()))
os.setgroups([]); os.setgid(gid); os.setuid(uid)
db = sqlite3.connect(path, timeout=30, isolation_level=None)
db.execute('create table bench (data blob)')
for _ in range(size):
    db.execute('insert into bench values (randomblob(1000000))')
print('filled', flush=True)
os.dup2(os.open('/dev/null', os.O_WRONLY), 1)
while True:
    db.execute('insert into bench values (randomblob(2000))')
    time.sleep(0.02)
";

/// What is measured, the baseline first.
const WAYS: [&str; 4] = [
    "`tar \\| zstd -3`, stopped",
    "`backup`, in all",
    "`backup`, the server stands still",
    "SQLite's `VACUUM INTO` of the database alone",
];

pub(super) fn measure(rounds: usize) -> Result<Part> {
    install::missing()?;
    engine::build()?;
    let machine = fleet::boot("bench-backup", SPEC, &["/srv/web"])?;
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    Agent::connect(&machine, "web")?.shell("true")?;
    machine.put("/root/writer.py", WRITER, 0o644)?;
    let mut all: [Vec<f64>; WAYS.len()] = Default::default();
    for round in 0..=rounds {
        start_writer(&machine, round == 0)?;
        let (total, frozen) = backup(&machine)?;
        let copy = format!(
            "rm -f /root/copy.db; sqlite3 {DATABASE} '.timeout 30000' \"VACUUM INTO '/root/copy.db'\""
        );
        let online = timed(&machine, &copy)?;
        machine.sh("opencode-instances stop web; pkill -KILL -f [w]riter.py || true")?.ok()?;
        let archive = format!(
            "tar -C {HOME} --exclude=./.cache --exclude=./.npm --exclude=node_modules \
             -cf - . | zstd -q -3 -f -o /root/plain"
        );
        let plain = timed(&machine, &archive)?;
        machine.run_for(fleet::PATIENCE, ["opencode-instances", "start", "web"])?.ok()?;
        let one = [plain, total, frozen, online];
        say(&format!("round {round}: {}", one.map(human_seconds).join(", ")));
        if round > 0 {
            all.iter_mut().zip(one).for_each(|(all, one)| all.push(one));
        }
    }
    report(rounds, &all)
}

/// Starts it in the server's own group, and waits until the database has its size.
fn start_writer(machine: &Machine, fills: bool) -> Result<()> {
    let size = if fills { SIZE } else { 0 };
    let script = format!(
        "group=$(systemctl show -P ControlGroup opencode-web.service); \
         sed -i 's/create table bench/create table if not exists bench/' /root/writer.py; \
         setsid python3 /root/writer.py {DATABASE} {size} $(id -u opencode-web) $(id -g opencode-web) $group \
         >/run/filled 2>/run/complaint & \
         until grep -q filled /run/filled; do sleep 0.1; done"
    );
    machine.run_for(fleet::PATIENCE, ["sh", "-euc", &script])?.ok()?;
    Ok(())
}

fn timed(machine: &Machine, script: &str) -> Result<f64> {
    let start = Instant::now();
    machine.run_for(fleet::PATIENCE, ["sh", "-euc", script])?.ok()?;
    Ok(start.elapsed().as_secs_f64())
}

/// How long a backup took, and how long the server stood still.
fn backup(machine: &Machine) -> Result<(f64, f64)> {
    let start = Instant::now();
    let command = ["opencode-instances", "backup", "web", "/root/kept", "--force", "--json"];
    let said = machine.run_for(fleet::PATIENCE, command)?.ok()?;
    let total = start.elapsed().as_secs_f64();
    let said: Value = serde_json::from_str(&said)?;
    let frozen = said.pointer("/frozenSeconds").and_then(Value::as_f64);
    Ok((total, frozen.context("the server did not stand still")?))
}

fn report(rounds: usize, all: &[Vec<f64>; WAYS.len()]) -> Result<Part> {
    let mut text = format!(
        "## Backup of a server that runs\n\n\
         The state of a real server whose database has {SIZE} MiB of bytes that do not compress, and to which 2 kB are written \
         every 20 ms. `backup` copies it twice and writes its archive; the baseline is `tar | zstd -3` of the stopped \
         server's state; SQLite's copy is of the database alone, without an archive. {rounds} rounds, \
         after a round that is not counted. All is in memory. The ratio is the median of those within a round.\n\n\
         | what | median | ratio |\n|---|---|---|\n"
    );
    let [baseline, ..] = all;
    let mut data = serde_json::Map::new();
    for (way, times) in WAYS.iter().zip(all) {
        let (median, ratio) = (turns::median(times)?, turns::ratio(baseline, times)?);
        text.push_str(&format!("| {way} | {} | {ratio:.3} |\n", human_seconds(median)));
        data.insert((*way).to_owned(), json!({ "seconds": median, "ratio": ratio }));
    }
    Ok(Part { name: "backup", text, data: Value::Object(data), charts: Vec::new() })
}
