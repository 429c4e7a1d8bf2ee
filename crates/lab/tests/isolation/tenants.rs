//! Three tenants whose agents all attack the two others at once, for as long as `TENANTS_SECONDS` says.
//!
//! What only controllers of control groups can bound, memory and tasks without end, is in `guest`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use instances_lab::{Agent, HOST, Internet, Machine, fleet, unavailable};
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const SPEC: &str = r#"
[instances.alpha]
directory = "/srv/alpha"
listen.port = 4101

[instances.beta]
directory = "/srv/beta"
listen.port = 4102

[instances.gamma]
directory = "/srv/gamma"
listen.port = 4103
"#;
const ATTACK: &str = include_str!("tenants.py");
/// How long they attack unless the variable says otherwise.
const SECONDS: &str = "TENANTS_SECONDS";
const USUAL: u64 = 20;
/// What one answer of the server's may take, less what begins and ends an attack.
const AT_ONCE: u64 = 25;
/// Slower than the supervisor is to end a server that does not answer.
const SICK: Duration = Duration::from_secs(20);

/// Numbers for processes that no process of a tenant's own has, which begin at 1: so what is done to one is
/// done to the other tenant's.
const FAR: &str = "far=$(($(cat /proc/sys/kernel/pid_max) / 4 * 3))
unshare --mount sh -euc \"mount -t proc proc /mnt; echo $far >/mnt/sys/kernel/ns_last_pid\"
sleep 0 & test $! -gt $far";

/// What an agent tries against the others, and what it tries to use up.
const KINDS: &[&str] = &[
    "read",
    "list",
    "write",
    "signal",
    "connect",
    "abstract",
    "bus",
    "notify",
    "journal",
    "address",
    "resolver",
    "lookup",
    "watch",
    "forks",
    "memory",
    "descriptors",
    "disk",
    "spin",
    "refusals",
    "names",
    "lines",
];
/// What the same program is seen to do as root outside every sandbox.
const OUTSIDE: &[&str] =
    &["read", "list", "write", "signal", "connect", "bus", "notify", "journal", "resolver"];

#[test]
fn three_tenants_attack_each_other_in_vain() -> Result<()> {
    if unavailable() {
        return Ok(());
    }
    let projects = NAMES.map(|name| format!("/srv/{name}"));
    let machine = fleet::boot("tenants", SPEC, &projects.each_ref().map(String::as_str))?;
    let _internet = Internet::attach(&machine, true)?;
    machine.sh(FAR)?.ok()?;
    machine.run_for(fleet::PATIENCE, ["opencode-instances", "apply"])?.ok()?;
    let stage = prepare(&machine)?;
    let before = state(&machine)?;
    healthy(&machine)?;

    let seconds = env::var(SECONDS).ok().map_or(Ok(USUAL), |text| text.parse())?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tried = BTreeMap::new();
    let (said, sick) = thread::scope(|scope| -> Result<_> {
        let attacks = NAMES.map(|name| scope.spawn(|| attack(&machine, name, end)));
        let mut sick = Vec::new();
        while attacks.iter().any(|attack| !attack.is_finished()) {
            sick.extend(healthy(&machine).err());
            thread::sleep(Duration::from_secs(1));
        }
        let mut said = Vec::new();
        for attack in attacks {
            said.extend(attack.join().map_err(|_| anyhow::anyhow!("an attack panicked"))??);
        }
        Ok((said, sick))
    })?;
    for one in &said {
        ensure!(one.get("breaches") == Some(&json!([])), "an agent got out: {one}");
        ensure!(one.get("failed") == Some(&json!({})), "an attack did not go on to its end: {one}");
        for (kind, count) in one.get("tried").and_then(Value::as_object).into_iter().flatten() {
            *tried.entry(kind.as_str()).or_insert(0) += count.as_u64().unwrap_or_default();
        }
    }
    let untried: Vec<_> = KINDS.iter().filter(|kind| !tried.contains_key(**kind)).collect();
    ensure!(untried.is_empty(), "nobody tried {untried:?}: {tried:?}");
    ensure!(sick.is_empty(), "somebody was ill meanwhile: {sick:?}");
    healthy(&machine)?;
    // A server that was starved may only just say again that it answers; nothing else of it comes back.
    let same = |machine: &Machine| Ok(state(machine)? == before);
    machine
        .wait_until("all are as before", SICK, same)
        .with_context(|| format!("somebody was changed: {:?}, before {before}", state(&machine)))?;
    journal(&machine)?;
    outside(&machine, &stage)
}

/// Gives every tenant something to steal, and the attack with what it must know of the others.
fn prepare(machine: &Machine) -> Result<Value> {
    let mut stage = serde_json::Map::new();
    for (name, port) in NAMES.into_iter().zip(4101..) {
        let script = format!(
            "home=/var/lib/opencode/instance-state/{name}
             chown opencode-{name}: /srv/{name}
             echo canary-{name} | tee /srv/{name}/canary >$home/canary
             chmod 644 /srv/{name}/canary $home/canary
             main=$(systemctl show -P MainPID opencode-{name}); id -u opencode-{name}; echo $main $(pgrep -P $main)
             ip -n opencode-{name} -j address show scope global | jq -r '.[].addr_info[].local'"
        );
        let said = machine.sh(&script)?.ok()?;
        let mut lines = said.lines();
        let uid: u32 = lines.next().context("no user")?.parse()?;
        let pids: Result<Vec<u32>, _> =
            lines.next().context("no process")?.split(' ').map(str::parse).collect();
        let addresses: Vec<&str> = lines.collect();
        ensure!(addresses.len() == 2, "not an address of each kind: {said}");
        stage.insert(
            name.to_owned(),
            json!({ "uid": uid, "pids": pids?, "port": port, "addresses": addresses, "host": HOST }),
        );
    }
    let stage = Value::Object(stage);
    for name in NAMES {
        machine.put(format!("/srv/{name}/tenants.py"), ATTACK, 0o644)?;
        machine.put(format!("/srv/{name}/tenant.json"), stage.to_string(), 0o644)?;
    }
    Ok(stage)
}

/// Has one agent attack until the time is over, and returns what it said after each part of it.
fn attack(machine: &Machine, name: &str, end: Instant) -> Result<Vec<Value>> {
    let agent = Agent::connect(machine, name)?;
    let mut said = Vec::new();
    while said.is_empty() || Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now()).as_secs().clamp(1, AT_ONCE);
        let output = agent.shell(&format!(
            "python3 /srv/{name}/tenants.py {name} /srv/{name}/tenant.json {left}"
        ))?;
        let last = output.trim().lines().last().unwrap_or_default();
        let one = serde_json::from_str(last)
            .with_context(|| format!("the attack of {name} was cut short: {output}"))?;
        said.push(one);
    }
    Ok(said)
}

/// Every tenant answers, and if not at once then before anybody would do something about it.
fn healthy(machine: &Machine) -> Result<()> {
    machine.wait_until("all tenants are healthy", SICK, |machine| {
        let answer = machine.run(["opencode-instances", "status", "--json"])?;
        let answer: Value = serde_json::from_str(&answer.stdout)?;
        let all = answer.get("instances").and_then(Value::as_array).context("no instances")?;
        Ok(all.len() == NAMES.len()
            && all.iter().all(|one| one.get("healthy") == Some(&json!(true))))
    })
}

/// What no attack may change.
fn state(machine: &Machine) -> Result<String> {
    let script = "
for name in alpha beta gamma; do
    systemctl show --property=MainPID,NRestarts,ActiveState,Result,StatusText,StatusErrno opencode-$name
    systemctl show --property=ActiveState,NRestarts,MainPID opencode-events@$name opencode-net@$name
    cat /srv/$name/canary /var/lib/opencode/instance-state/$name/canary
    sha256sum /var/lib/opencode/instance-auth/$name/password
    ls -A /srv/$name | grep -v tenant
done";
    machine.sh(script)?.ok()
}

/// What an agent wrote into its server's output stands under its own name only.
fn journal(machine: &Machine) -> Result<()> {
    let script = "journalctl -o json --output-fields=SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,MESSAGE --no-pager \
         --grep forged-by- | jq -r 'select(.MESSAGE | type == \"string\") | (.MESSAGE | capture(\"forged-by-(?<who>[a-z]+)\").who) + \" \" + ._SYSTEMD_UNIT + \" \" + .SYSLOG_IDENTIFIER' | sort -u";
    let kept = machine.sh(script)?.ok()?;
    let kept: BTreeSet<&str> = kept.lines().collect();
    let own = NAMES.map(|name| format!("{name} opencode-{name}.service opencode-{name}"));
    ensure!(
        kept == own.iter().map(String::as_str).collect(),
        "records under other names: {kept:?}"
    );
    Ok(())
}

/// The same program succeeds where no sandbox is: what it could not do was not impossible.
fn outside(machine: &Machine, stage: &Value) -> Result<()> {
    let mut stage = stage.clone();
    // The host's own names for what is in the namespaces: the listeners.
    for name in NAMES {
        let addresses = stage.pointer_mut(&format!("/{name}/addresses"));
        *addresses.context("a tenant without addresses")? = json!([]);
    }
    machine.put("/root/tenant.json", stage.to_string(), 0o644)?;
    let said = machine.run([
        "python3",
        "/srv/alpha/tenants.py",
        "alpha",
        "/root/tenant.json",
        "1",
        "outside",
    ])?;
    let said: Value = serde_json::from_str(said.ok()?.trim())?;
    let breaches: BTreeSet<&str> = said
        .get("breaches")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|one| one.as_str()?.split([' ', ':']).nth(1))
        .collect();
    let harmless: Vec<_> = OUTSIDE.iter().filter(|kind| !breaches.contains(**kind)).collect();
    ensure!(harmless.is_empty(), "attacks that prove nothing: {harmless:?}: {said}");
    Ok(())
}
