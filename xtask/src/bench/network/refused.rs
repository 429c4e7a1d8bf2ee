//! Many refused packets: whether the counters have all of them, and what the journal gets.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use instances_lab::Machine;
use serde_json::{Value, json};

/// An address that no list has.
const NOWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(8, 8, 4, 4), 9);
/// How many packets each sender sends at once, and how often: all together 100,000 a second.
const SENDERS: usize = 4;
const BATCH: u32 = 50;
const TICK: Duration = Duration::from_millis(2);
/// For how long.
const TICKS: u32 = 2500;

/// What came of it.
pub(super) struct Flood {
    sent: u64,
    counted: u64,
    seconds: f64,
    records: usize,
    bytes: usize,
}

impl Flood {
    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure of some thousands")]
        let sent = self.sent as f64;
        sent / self.seconds
    }

    pub(super) fn words(&self) -> String {
        let Self { sent, counted, seconds, records, bytes } = self;
        format!(
            "\n{sent} packets to a destination that is refused, {:.0} a second for {seconds:.1} s: the \
             rules counted {counted}, and the journal got {records} records of {bytes} bytes \
             together.\n",
            self.rate()
        )
    }

    pub(super) fn data(&self) -> Value {
        let Self { sent, counted, seconds, records, bytes } = self;
        json!({ "sent": sent, "counted": counted, "seconds": seconds, "records": records,
            "bytes": bytes })
    }
}

/// Sends and counts, with the reader of refusals beside it.
pub(super) fn flood(machine: &Machine, name: &str) -> Result<Flood> {
    let unit = format!("opencode-events@{name}.service");
    let namespace = format!("--property=NetworkNamespacePath=/run/netns/opencode-{name}");
    let notify = "--property=Type=notify";
    let run = ["systemd-run", "--quiet", "--unit", &unit, &namespace, notify];
    let events = ["opencode-instances", "events", name, "--policy", "allow-list"];
    machine.run(run.into_iter().chain(events))?.ok()?;
    let before = counted(machine, name)?;
    let start = Instant::now();
    let sent = machine.in_named_netns(&format!("opencode-{name}"), send)??;
    let seconds = start.elapsed().as_secs_f64();
    let counted = counted(machine, name)? - before;
    machine.run(["systemctl", "stop", &unit])?.ok()?;
    let read = ["journalctl", "--no-pager", "--output=export", "--unit", &unit];
    let records = machine.run(read)?.ok()?;
    let field = format!("OPENCODE_INSTANCE={name}");
    Ok(Flood {
        sent,
        counted,
        seconds,
        records: records.lines().filter(|line| **line == field).count(),
        bytes: records.len(),
    })
}

fn send() -> std::io::Result<u64> {
    let sockets: std::io::Result<Vec<UdpSocket>> =
        (0..SENDERS).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).collect();
    let senders: Vec<_> =
        sockets?.into_iter().map(|socket| thread::spawn(move || pour(&socket))).collect();
    Ok(senders.into_iter().map(|sender| sender.join().unwrap_or_default()).sum())
}

/// Each call is a packet: a socket without a peer hears of no refusal before.
fn pour(socket: &UdpSocket) -> u64 {
    let start = Instant::now();
    let mut sent = 0;
    for tick in 0..TICKS {
        for _ in 0..BATCH {
            // That it is refused is the point.
            let _refused = socket.send_to(&[0; 16], NOWHERE);
            sent += 1;
        }
        thread::sleep((TICK * (tick + 1)).saturating_sub(start.elapsed()));
    }
    sent
}

/// What the rules that refuse have counted.
fn counted(machine: &Machine, name: &str) -> Result<u64> {
    let list = format!("ip netns exec opencode-{name} nft -nj list chain inet opencode refuse");
    let listing: Value = serde_json::from_str(&machine.sh(&list)?.ok()?)?;
    let objects = listing.get("nftables").and_then(Value::as_array).context("no listing")?;
    let expressions = objects.iter().filter_map(|object| object.pointer("/rule/expr")?.as_array());
    let counters =
        expressions.flatten().filter_map(|one| one.pointer("/counter/packets")?.as_u64());
    Ok(counters.sum())
}
