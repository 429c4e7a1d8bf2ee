//! What follows the host while links are there: its addresses, its firewall, its way out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use instances_core::nft::deny_all;
use instances_sys::net::{self, Outcome};

use crate::stage::{must, nft, run, write_rules};
use crate::world::{
    self, SITE, SITE6, connect, down, echo, guards, has_host_table, leaked, links, of, up,
};

pub(crate) const CASES: [(&str, fn()); 6] = [
    ("watch_follows_addresses", follows_addresses),
    ("watch_brings_back_what_is_flushed", brings_back_what_is_flushed),
    ("watch_asks_for_links_of_a_new_way", asks_for_links_of_a_new_way),
    ("watch_asks_those_again_that_were_to_stop", asks_those_again_that_were_to_stop),
    ("watch_takes_no_record_for_tampering", takes_no_record_for_tampering),
    ("watch_begins_with_what_it_missed", begins_with_what_it_missed),
];

/// Starts to follow the host, and waits until it does.
fn watch() -> Receiver<Vec<String>> {
    watch_where(|_| vec![])
}

/// The same; these are to stop when they are asked for a reload for the nth time, from 0.
fn watch_where(
    stops: impl Fn(usize) -> Vec<&'static str> + Send + 'static,
) -> Receiver<Vec<String>> {
    let (asked, answers) = channel();
    let (said, words) = channel();
    let follow = move |asked: &Sender<Vec<String>>| {
        let number = AtomicUsize::new(0);
        let reload = |names: &[String]| {
            asked.send(names.to_vec()).map_err(|error| error.to_string())?;
            // As a reload does, which tells of the address that is there.
            must("ip addr replace 192.0.2.77/32 dev lo");
            let stopping = stops(number.fetch_add(1, Ordering::Relaxed));
            Ok(stopping.into_iter().map(str::to_owned).collect())
        };
        let error = net::watch(&nft(), &reload, &|words| drop(said.send(words)));
        panic!("{error}");
    };
    thread::spawn(move || follow(&asked));
    thread::spawn(move || words.iter().for_each(|words| eprintln!("watch: {words}")));
    // There is nothing else by which one sees that it listens.
    thread::sleep(Duration::from_millis(700));
    answers
}

fn soon(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn held(name: &str) -> String {
    of(name, "nft list table inet opencode")
}

fn follows_addresses() {
    world::make(true);
    up("foo");
    up("bar");
    write_rules(&deny_all("none"));
    crate::stage::up_named("none");
    let _asked = watch();
    must("ip addr add 203.0.113.99/24 dev up0; ip addr add 2001:db8:f::99/64 dev up0 nodad");
    for name in ["foo", "bar"] {
        soon("a new address is refused", || {
            held(name).contains("203.0.113.99") && held(name).contains("2001:db8:f::99")
        });
        assert!(held(name).contains(world::POOL), "the others are refused still");
    }
    // A burst ends with what is true then.
    for number in (100..200).step_by(2) {
        must(&format!("ip addr add 203.0.113.{number}/32 dev up0"));
    }
    soon("the last of many", || held("foo").contains("203.0.113.198"));
    must("ip addr flush dev up0 to 203.0.113.99/32; ip addr flush dev up0 to 203.0.113.128/25");
    soon("what is gone", || {
        !held("bar").contains("203.0.113.99") && !held("bar").contains("203.0.113.198")
    });
    assert!(held("bar").contains("203.0.113.2"));
    // The policy itself is as it was.
    world::list(&["198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32", "fd00::/8"]);
    assert_eq!(up("foo").outcome, Outcome::Same);
}

fn brings_back_what_is_flushed() {
    world::make(true);
    up("foo");
    up("bar");
    let _asked = watch();
    let table = || run("nft -s list table inet opencode_host").1;
    let whole = table();
    let rules = guards();
    for command in [
        "nft delete table inet opencode_host",
        "nft flush ruleset",
        "nft flush table inet opencode_host",
        "nft delete chain inet opencode_host postrouting",
        "nft flush set inet opencode_host sources4",
        "nft insert rule inet opencode_host input accept",
        "for i in 1 2 3 4 5 6 7 8; do nft flush ruleset; sleep 0.1; done",
    ] {
        must(command);
        soon(command, || table() == whole);
        for site in [SITE.into(), std::net::IpAddr::from(SITE6)] {
            soon(command, || connect("foo", site).is_ok_and(|mut flow| echo(&mut flow).is_ok()));
        }
    }
    must("ip rule del pref 62; ip -6 rule del pref 60");
    soon("routing rules", || guards() == rules);
    assert_eq!(leaked(), 0);
    // What is as it should be is not touched: the counters go on.
    must("nft add table inet somebody; nft delete table inet somebody");
    let _ = of("foo", "true");
    let counted = || run("nft list table inet opencode_host").1;
    let refused = run("ping -c1 -W1 -I up0 10.219.0.1").1;
    let before = counted();
    must("nft 'add table inet opencode_hosts'; nft delete table inet opencode_hosts");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(counted(), before, "{refused}");
    // And where no link is left there is no table to bring back.
    down("foo");
    down("bar");
    thread::sleep(Duration::from_secs(1));
    assert_eq!((links(), guards(), has_host_table()), (0, 0, false));
}

fn asks_for_links_of_a_new_way() {
    world::make(false);
    up("foo");
    let asked = watch();
    // It cannot know what was before it.
    assert_eq!(asked.recv_timeout(Duration::from_secs(5)).unwrap(), ["foo"]);
    must("ip route add 192.0.2.128/25 via 203.0.113.1");
    asked.recv_timeout(Duration::from_secs(1)).unwrap_err();
    must("ip link set up0 mtu 1400");
    assert_eq!(asked.recv_timeout(Duration::from_secs(5)).unwrap(), ["foo"]);
    up("foo");
    assert!(of("foo", "ip link show eth0").contains("mtu 1400"));
    world::add_v6();
    assert_eq!(asked.recv_timeout(Duration::from_secs(5)).unwrap(), ["foo"]);
    up("foo");
    soon("IPv6", || connect("foo", SITE6).is_ok());
}

/// One that was to stop then may be started again, and keep its link.
fn asks_those_again_that_were_to_stop() {
    world::make(false);
    up("foo");
    up("bar");
    let asked = watch_where(|number| if number < 2 { vec!["bar"] } else { vec![] });
    assert_eq!(asked.recv_timeout(Duration::from_secs(20)).unwrap(), ["bar", "foo"]);
    let first = Instant::now();
    for _ in 0..2 {
        assert_eq!(asked.recv_timeout(Duration::from_secs(20)).unwrap(), ["bar"]);
    }
    // Not as often as the host changes, to which a reload adds.
    assert!(first.elapsed() > Duration::from_secs(8), "{:?}", first.elapsed());
    asked.recv_timeout(Duration::from_secs(7)).unwrap_err();
    // One whose link is gone is not asked again.
    let asked = watch_where(|_| vec!["bar"]);
    assert_eq!(asked.recv_timeout(Duration::from_secs(20)).unwrap(), ["bar", "foo"]);
    down("bar");
    asked.recv_timeout(Duration::from_secs(7)).unwrap_err();
}

fn takes_no_record_for_tampering() {
    world::make(true);
    up("foo");
    up("bar");
    let (said, words) = channel();
    thread::spawn(move || {
        let error = net::watch(&nft(), &|_| Ok(vec![]), &|words| drop(said.send(words)));
        panic!("{error}");
    });
    thread::sleep(Duration::from_millis(700));
    let alarmed = || words.try_iter().filter(|words| words.contains("changed or removed")).count();
    down("bar");
    assert_eq!(net::forget(&[&crate::stage::name("foo")]).unwrap(), ["bar"]);
    let stubs = || run("nft list set inet opencode_host stubs").1;
    let table_is_looked_at = || {
        must("nft add element inet opencode_host stubs { 4242 }");
        soon("the stub goes", || !stubs().contains("4242"));
        thread::sleep(Duration::from_millis(300));
    };
    table_is_looked_at();
    assert_eq!(alarmed(), 0);
    must("nft insert rule inet opencode_host input accept");
    soon("tampering is told", || alarmed() > 0);
}

fn begins_with_what_it_missed() {
    world::make(true);
    up("foo");
    must("nft flush ruleset; ip addr add 203.0.113.99/24 dev up0; ip rule del pref 62");
    let _asked = watch();
    soon("the table", has_host_table);
    soon("the address", || held("foo").contains("203.0.113.99"));
    echo(&mut connect("foo", SITE).unwrap()).unwrap();
    assert_eq!((leaked(), guards()), (0, 8));
}
