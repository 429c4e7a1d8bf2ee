//! `blocked`: what instances were refused, and what to add so that they are not.
//!
//! Nothing that an agent made reaches the terminal as it is: `instances_core::blocked` takes over
//! numbers, addresses and plain words, and escapes names.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use instances_core::blocked::{
    Destination, Direction, Entry, Refusal, Row, Suggestion, Table, suggest,
};
use instances_core::events::{DNS, OTHER};
use instances_core::network::{Allowed, Network, PortRange};
use instances_core::spec::InstanceName;
use instances_core::units::Names;
use instances_sys::events::{self, Query, names};
use instances_sys::files::Root;
use instances_sys::installed;
use serde_json::{Value, json};

use super::Outcome;
use crate::args;
use crate::exit::Exit;
use crate::out;

/// The most bytes of an installed description of a network.
const MAX_NETWORK: u64 = 16 << 20;

pub(crate) fn run(args: &args::Blocked) -> Outcome {
    let root = Root::new("/".as_ref());
    let records = match &args.name {
        Some(name) => vec![installed::instance(&root, name)?],
        None => installed::instances(&root)?,
    };
    let instances: Vec<InstanceName> = records.into_iter().map(|record| record.name).collect();
    if instances.is_empty() && !args.json {
        out::note("no instance is installed; `opencode-instances apply` installs them");
        return Ok(Exit::Done);
    }
    let query = Query { instances: &instances, since: args.since.as_deref(), follow: args.follow };
    if args.follow {
        events::read(&query, |entry| {
            let entry = named(entry);
            out::go_on(if args.json { line_json(&entry) } else { line(&entry) })
        })?;
        return Ok(Exit::Done);
    }
    let mut table = Table::default();
    // Without an instance the question would be for everybody's records.
    if !instances.is_empty() {
        events::read(&query, |entry| {
            table.add(entry);
            true
        })?;
    }
    for instance in &instances {
        table.name(instance, &names::read(&names::path(instance.as_str())));
    }
    if args.suggest {
        let all: Vec<Suggestion> = instances.iter().map(|one| suggestion(&table, one)).collect();
        show_suggestions(&table, &all, args.json);
    } else if args.json {
        out::json(&report(&table));
    } else {
        show(&table);
    }
    Ok(Exit::Done)
}

/// With the name that gave the address, which the service that wrote the record may not see.
fn named(mut entry: Entry) -> Entry {
    if let Entry::Refused(refusal) = &mut entry
        && refusal.name.is_none()
        && let Some(address) = refusal.address
    {
        refusal.name = names::of(&names::path(refusal.instance.as_str()), address);
    }
    entry
}

fn suggestion(table: &Table, instance: &InstanceName) -> Suggestion {
    let mut rows = table.rows();
    rows.retain(|(destination, _)| destination.instance == *instance);
    let answers = names::read(&names::path(instance.as_str()));
    suggest(instance, &rows, network(instance).as_ref(), &answers)
}

/// What is installed, if it can be read: without it too much is suggested, and nothing wrong.
fn network(instance: &InstanceName) -> Option<Network> {
    let path = format!("{}/network.json", Names(instance).config_dir());
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_NETWORK).read_to_string(&mut text).ok()?;
    Network::parse(text.as_bytes()).ok()
}

fn show(table: &Table) {
    let rows = table.rows();
    if rows.is_empty() {
        out::note("nothing was refused, as far as the journal knows");
    } else {
        let head =
            ["INSTANCE", "PROTOCOL", "DESTINATION", "PORT", "NAME", "COUNT", "FIRST", "LAST"];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        cells.extend(rows.into_iter().map(|(destination, row)| row_cells(destination, row)));
        out::table(&cells);
    }
    answers(table);
    lost(table);
}

/// What a row of an answer means, which an agent sees as a name without an address.
fn answers(table: &Table) {
    for (destination, row) in table.rows() {
        let Some(address) = destination.address.filter(|_| destination.protocol == DNS) else {
            continue;
        };
        let names = row.names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        out::note(format!(
            "{}: {names} was resolved to {address}, which the policy did not allow, so the agent got no \
             address; `opencode-instances blocked {0} --suggest` says what to add",
            destination.instance
        ));
    }
}

fn lost(table: &Table) {
    for (instance, packets) in table.lost() {
        out::note(format!(
            "{instance}: {packets} refused packets are in no record, there were too many at a time; \
             the counters of `nft` have them all"
        ));
    }
}

fn row_cells(destination: &Destination, row: &Row) -> Vec<String> {
    vec![
        destination.instance.to_string(),
        destination.protocol.clone(),
        place(destination.direction, &destination.protocol, destination.address),
        port(destination.port, destination.icmp_type),
        some(&row.names.iter().cloned().collect::<Vec<_>>().join(",")),
        row.count.to_string(),
        seconds(row.first),
        seconds(row.last),
    ]
}

fn place(direction: Direction, protocol: &str, address: Option<IpAddr>) -> String {
    let from = if direction == Direction::In { "from " } else { "" };
    match address {
        // Nothing was sent to it: it was taken out of the answer.
        Some(address) if protocol == DNS => format!("answer {address}"),
        Some(address) => format!("{from}{address}"),
        None if protocol == OTHER => "(further ones)".to_owned(),
        None => "-".to_owned(),
    }
}

fn port(port: Option<u16>, icmp_type: Option<u16>) -> String {
    match (port, icmp_type) {
        (Some(port), _) => port.to_string(),
        (None, Some(number)) => format!("type {number}"),
        (None, None) => "-".to_owned(),
    }
}

fn some(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// A time in UTC; the year 9999 for what is beyond it.
fn seconds(micros: u64) -> String {
    const LAST: u64 = 253_402_300_799_000_000;
    let time = UNIX_EPOCH + Duration::from_micros(micros.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

fn line(entry: &Entry) -> String {
    match entry {
        Entry::Lost { instance, packets } => {
            format!("{instance}  {packets} refused packets are in no record")
        }
        Entry::Refused(Refusal {
            instance,
            direction,
            protocol,
            address,
            port: number,
            icmp_type,
            name,
            count,
            last,
            ..
        }) => {
            let mut words = vec![seconds(*last), instance.to_string(), protocol.clone()];
            if protocol != DNS {
                words.push(place(*direction, protocol, *address));
                words.push(port(*number, *icmp_type));
            }
            words.extend(name.clone());
            words.push(format!("×{count}"));
            words.join("  ")
        }
    }
}

/// One line, with what a row of the whole object has.
fn line_json(entry: &Entry) -> String {
    match entry {
        Entry::Lost { instance, packets } => {
            json!({ "version": 1, "instance": instance.as_str(), "lost": packets })
        }
        Entry::Refused(refusal) => {
            let names: Vec<&String> = refusal.name.iter().collect();
            json!({
                "version": 1, "instance": refusal.instance.as_str(),
                "direction": refusal.direction, "protocol": refusal.protocol,
                "address": refusal.address, "port": refusal.port, "icmpType": refusal.icmp_type,
                "names": names, "policy": refusal.policy, "count": refusal.count,
                "firstSeen": seconds(refusal.first), "lastSeen": seconds(refusal.last),
            })
        }
    }
    .to_string()
}

fn report(table: &Table) -> Value {
    let row = |(destination, row): (&Destination, &Row)| {
        json!({
            "instance": destination.instance.as_str(), "direction": destination.direction,
            "protocol": destination.protocol, "address": destination.address,
            "port": destination.port, "icmpType": destination.icmp_type, "names": row.names,
            "policy": row.policy, "count": row.count, "firstSeen": seconds(row.first),
            "lastSeen": seconds(row.last),
        })
    };
    let blocked: Vec<Value> = table.rows().into_iter().map(row).collect();
    let lost: Vec<Value> = table
        .lost()
        .map(|(instance, packets)| json!({ "instance": instance.as_str(), "packets": packets }))
        .collect();
    json!({ "version": 1, "blocked": blocked, "lost": lost })
}

fn show_suggestions(table: &Table, all: &[Suggestion], json: bool) {
    if json {
        let mut whole = report(table);
        let suggestions: Vec<Value> = all
            .iter()
            .map(|one| {
                let allow: Vec<_> =
                    one.allow.iter().map(|(entry, _)| entry).map(entry_json).collect();
                json!({
                    "instance": one.instance.as_str(), "allowCidrs": allow,
                    "allowNames": one.names, "notes": one.notes,
                })
            })
            .collect();
        if let Value::Object(whole) = &mut whole {
            whole.insert("suggestions".to_owned(), suggestions.into());
        }
        out::json(&whole);
        return;
    }
    let mut something = false;
    for one in all.iter().filter(|one| !one.is_empty()) {
        if something {
            out::line("");
        }
        something = true;
        out::line(suggested(one));
    }
    if !something {
        out::note("nothing to add: nothing was refused that is not allowed by now");
    }
    lost(table);
}

/// As it is typed in a specification.
fn entry_json(entry: &Allowed) -> Value {
    let mut typed = json!({ "cidr": entry.cidr.to_string() });
    if let Value::Object(typed) = &mut typed {
        if !entry.ports.is_empty() {
            let port = |range: &PortRange| {
                if range.first == range.last {
                    json!(range.first)
                } else {
                    json!(range.to_string())
                }
            };
            typed.insert("ports".to_owned(), entry.ports.iter().map(port).collect());
        }
        if let Some(protocol) = entry.protocol {
            typed.insert("protocol".to_owned(), json!(protocol.as_str()));
        }
    }
    typed
}

fn suggested(one: &Suggestion) -> String {
    let name = &one.instance;
    let mut parts = Vec::new();
    if !one.allow.is_empty() || !one.names.is_empty() {
        parts.push(format!(
            "# {name}: add what is wanted of this to its section in {}, to the \
             lists that are there,\n# and run `opencode-instances apply`; the agent goes on meanwhile.\n\n{}",
            args::DEFAULT_SPEC,
            one.toml()
        ));
        parts.push(format!("# The same for a configuration of NixOS:\n\n{}", one.nix()));
    }
    let notes: Vec<String> = one.notes.iter().map(|note| format!("# {name}: {note}\n")).collect();
    if !notes.is_empty() {
        parts.push(notes.concat());
    }
    parts.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let record = |fields: Value| {
            let mut record = json!({
                "_SYSTEMD_UNIT": "opencode-events@web.service",
                "MESSAGE_ID": instances_core::events::REFUSED, "OPENCODE_COUNT": "17",
                "OPENCODE_POLICY": "allow-list", "OPENCODE_FIRST_USEC": "1700000000000000",
                "OPENCODE_LAST_USEC": "1700000061000000",
            });
            for (name, value) in fields.as_object().unwrap() {
                record[name] = value.clone();
            }
            Entry::parse(record.to_string().as_bytes()).unwrap()
        };
        let mut table = Table::default();
        table.add(record(json!({
            "OPENCODE_PROTOCOL": "tcp", "OPENCODE_ADDRESS": "1.1.1.1", "OPENCODE_PORT": "443",
            "OPENCODE_NAME": "one.example",
        })));
        table.add(record(json!({
            "OPENCODE_PROTOCOL": "icmpv6", "OPENCODE_ADDRESS": "2606:4700::1", "OPENCODE_ICMP_TYPE": "128",
        })));
        table.add(record(json!({ "OPENCODE_PROTOCOL": "dns", "OPENCODE_NAME": "a\u{1b}[2J" })));
        table.add(record(json!({
            "MESSAGE_ID": instances_core::events::LOST, "OPENCODE_LOST_PACKETS": "3",
        })));
        table
    }

    #[test]
    fn a_row_is_one_line_without_control_characters() {
        let table = table();
        let rows: Vec<String> =
            table.rows().into_iter().map(|(one, row)| row_cells(one, row).join("|")).collect();
        let times = "2023-11-14T22:13:20Z|2023-11-14T22:14:21Z";
        assert_eq!(
            rows,
            [
                format!("web|dns|-|-|a\\u{{1b}}[2J|17|{times}"),
                format!("web|tcp|1.1.1.1|443|one.example|17|{times}"),
                format!("web|icmpv6|2606:4700::1|type 128|-|17|{times}"),
            ]
        );
    }

    #[test]
    fn the_object_is_an_interface() {
        let table = table();
        let whole = report(&table);
        assert_eq!(whole["version"], 1);
        assert_eq!(whole["lost"], json!([{ "instance": "web", "packets": 3 }]));
        assert_eq!(
            whole["blocked"][1],
            json!({
                "instance": "web", "direction": "out", "protocol": "tcp", "address": "1.1.1.1",
                "port": 443, "icmpType": null, "names": ["one.example"], "policy": "allow-list",
                "count": 17, "firstSeen": "2023-11-14T22:13:20Z", "lastSeen": "2023-11-14T22:14:21Z",
            })
        );
    }

    #[test]
    fn a_suggestion_says_where_it_goes() {
        let web = InstanceName::new("web").unwrap();
        let text = suggested(&suggestion(&table(), &web));
        for part in [
            "# web: add what is wanted of this to its section in /etc/opencode-instances/instances.toml",
            "[instances.web]\nnetwork.outbound.allowCidrs = [\n  { cidr = \"1.1.1.1/32\", ports = [443], \
             protocol = \"tcp\" },  # one.example, refused 17 times\n]",
            "services.opencode.instances.\"web\".network.outbound.allowCidrs = [",
            "# web: icmpv6 to 2606:4700::1: only a whole address",
            "# web: `a\\u{1b}[2J` is no name of a host",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn far_away_times_are_no_panic() {
        assert_eq!(seconds(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
