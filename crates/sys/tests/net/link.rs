//! The link: what goes through it, what does not, and what is left of it when its maker is killed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use instances_core::nft::deny_all;
use instances_core::plan::digest;
use instances_sys::net::{self, Done, Outcome, Step, Up, able};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with,
};
use std::path::Path;

use crate::stage::{self, PIN, RULES, must, nft, run, spawn_linked_up, write_rules};
use crate::world::{
    self, ELSEWHERE, HOST, HOST6, POOL, SITE, SITE6, address, connect, connect_port, down, echo,
    gateway, guards, has_host_table, host_end, leaked, links, of, probe, probed, seen, try_up,
    try_up_in, up, within,
};

pub(crate) const CASES: [(&str, fn()); 28] = [
    ("link_goes_up_stays_and_goes", goes_up_stays_and_goes),
    ("link_carries_both_families", carries_both_families),
    ("link_carries_the_first_packet", carries_the_first_packet),
    ("each_of_many_is_refused_at_once", each_of_many_is_refused_at_once),
    ("link_killed_at_each_step", killed_at_each_step),
    ("link_killed_at_any_time", killed_at_any_time),
    ("link_killed_while_going_down", killed_while_going_down),
    ("links_at_once", at_once),
    ("links_that_collide", that_collide),
    ("link_goes_with_policy_none", goes_with_policy_none),
    ("a_reload_refuses_nothing_that_stays_allowed", a_reload_refuses_nothing_that_stays_allowed),
    ("what_a_killed_reload_left_goes", what_a_killed_reload_left_goes),
    ("nothing_leaves_without_the_hosts_table", nothing_leaves_without_the_hosts_table),
    ("late_answers_go_nowhere", late_answers_go_nowhere),
    ("what_is_not_translated_goes_nowhere", what_is_not_translated_goes_nowhere),
    ("a_spoofed_source_is_dropped", a_spoofed_source_is_dropped),
    ("instances_do_not_reach_each_other", instances_do_not_reach_each_other),
    ("the_host_is_not_reached", the_host_is_not_reached),
    ("nobody_reaches_an_instance", nobody_reaches_an_instance),
    ("no_ipv6_without_the_hosts", no_ipv6_without_the_hosts),
    ("forwarding_is_set_if_needed_and_said", forwarding_is_set_if_needed_and_said),
    ("any_reverse_path_filter_works", any_reverse_path_filter_works),
    ("a_vpn_of_the_host_is_not_bypassed", a_vpn_of_the_host_is_not_bypassed),
    ("new_addresses_of_the_host_are_refused", new_addresses_of_the_host_are_refused),
    ("what_is_forgotten_is_only_what_is_gone", what_is_forgotten_is_only_what_is_gone),
    ("foreign_links_are_refused", foreign_links_are_refused),
    ("pools_move_and_clash", pools_move_and_clash),
    ("unreadable_records_change_nothing", unreadable_records_change_nothing),
];

const STEPS: [Step; 14] = [
    Step::Allocated,
    Step::Loaded,
    Step::Proven,
    Step::LoopbackUp,
    Step::Shared,
    Step::PlaceMade,
    Step::Pinned,
    Step::Reloaded,
    Step::Guarded,
    Step::HostReady,
    Step::LinkMade,
    Step::HostEndUp,
    Step::LinkUp,
    Step::Forwarding,
];

/// Without the policy inside: what the second layer does alone.
fn open(name: &str) {
    of(name, "nft delete table inet opencode");
}

fn goes_up_stays_and_goes() {
    world::make(true);
    let steps = Mutex::new(Vec::new());
    let record = |step| steps.lock().unwrap().push(step);
    let (name, nft) = (stage::name("foo"), nft());
    let pool = Some(POOL.parse().unwrap());
    let request = Up { name: &name, rules: Path::new(RULES), nft: &nft, pool, destinations: &[] };
    assert_eq!(net::up(&request, &record).unwrap().outcome, Outcome::Created);
    let all = STEPS.into_iter().filter(|step| *step != Step::Reloaded);
    assert_eq!(*steps.lock().unwrap(), all.collect::<Vec<_>>());
    let first = (address("foo", '4'), address("foo", '6'));
    let mut flow = connect("foo", SITE).unwrap();
    let mut flow6 = connect("foo", SITE6).unwrap();
    for stream in [&mut flow, &mut flow6] {
        echo(stream).unwrap();
    }
    let index = || of("foo", "ip -o link show eth0");
    let before = index();
    assert_eq!(up("foo"), Done { outcome: Outcome::Same, changed: Vec::new() });
    assert_eq!(index(), before, "the link was made again");
    for stream in [&mut flow, &mut flow6] {
        assert!(echo(stream).unwrap().contains("again"), "a connection did not survive a reload");
    }
    down("foo");
    assert_eq!((links(), guards(), has_host_table()), (0, 0, false));
    assert!(!Path::new(PIN).exists());
    down("foo");
    assert_eq!(up("foo").outcome, Outcome::Created);
    assert_eq!((address("foo", '4'), address("foo", '6')), first);
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
}

/// More than the kernel tells in one go of its own accord: who is not told would wait for a second.
fn each_of_many_is_refused_at_once() {
    world::make(true);
    let refused = || {
        let elsewhere6 = Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111);
        for to in [IpAddr::from(ELSEWHERE), elsewhere6.into()] {
            for number in 0..200 {
                let errors = [connect("foo", to).unwrap_err(), world::ask("foo", to).unwrap_err()];
                for (what, error) in ["TCP", "UDP"].iter().zip(errors) {
                    let late = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
                    assert!(!late, "{what} number {number} to {to}: {error}");
                }
            }
        }
    };
    up("foo");
    refused();
    // Whoever changes the settings has them again with the next reload.
    of("foo", "sysctl -w net.ipv4.icmp_ratemask=6168 net.ipv6.icmp.ratemask=0-1,3-127");
    up("foo");
    refused();
}

fn carries_both_families() {
    world::make(true);
    up("foo");
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
    assert_eq!(leaked(), 0);
    connect("foo", ELSEWHERE).unwrap_err();
    echo_request("foo", SITE).unwrap();
    let host = host_end("foo").unwrap();
    let end = run(&format!("ip -d link show {host}; ip addr show {host}")).1;
    let inside = of("foo", "ip -d link show eth0") + &of("foo", "ip addr show eth0");
    for end in [&end, &inside] {
        assert!(end.contains("mtu 1420") && end.contains("state UP"), "{end}");
        assert!(!end.contains("fe80") && end.contains("addrgenmode none"), "{end}");
        assert_eq!(end.matches("inet").count(), 2, "{end}");
        assert!(!end.contains("tentative"), "{end}");
    }
    // Nobody is asked for an address, so nobody can answer for another.
    for neighbours in
        [run(&format!("ip neigh show dev {host}")).1, of("foo", "ip neigh show dev eth0")]
    {
        assert_eq!(neighbours.matches("PERMANENT").count(), 2, "{neighbours}");
    }
    // A router's announcement changes nothing: nobody listens.
    for (ns, link) in [("opencode-foo", "eth0"), ("", host.as_str())] {
        let prefix = if ns.is_empty() { String::new() } else { format!("ip netns exec {ns} ") };
        for setting in ["accept_ra", "autoconf", "accept_redirects"] {
            let (_, value) = run(&format!("{prefix}cat /proc/sys/net/ipv6/conf/{link}/{setting}"));
            assert_eq!(value.trim(), "0", "{link} {setting}");
        }
    }
}

/// A lost packet of TCP would be sent again after a second.
fn carries_the_first_packet() {
    world::make(false);
    let at_once = |_| {
        up("foo");
        let start = Instant::now();
        connect("foo", SITE).unwrap();
        let took = start.elapsed();
        down("foo");
        took < Duration::from_millis(900)
    };
    // However busy this machine is with something else at times.
    assert!((0..10).filter(|round| at_once(*round)).count() >= 5);
}

/// Sends an echo request as a program without privileges does, and waits for the answer.
fn echo_request(name: &str, to: Ipv4Addr) -> Result<(), rustix::io::Errno> {
    within(&format!("opencode-{name}"), move || {
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::DGRAM;
        let socket = socket_with(AddressFamily::INET, kind, flags, Some(ipproto::ICMP))?;
        let timeout = Some(Duration::from_secs(3));
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            timeout,
        )?;
        let to = std::net::SocketAddr::from((to, 0));
        sendto(&socket, &[8, 0, 0, 0, 0, 0, 0, 1], SendFlags::empty(), &to)?;
        recv(&socket, &mut [0_u8; 64], RecvFlags::empty()).map(drop)
    })
}

/// What a killed run may leave: no link, or one in a namespace with its policy, on a host that has
/// the table and the rules.
fn assert_no_link_or_held() -> bool {
    let linked = links() == 1;
    if linked {
        let (pinned, rules) = stage::inside("nft list table inet opencode");
        assert!(pinned, "a link without a namespace: {rules}");
        assert_eq!(rules.matches("policy drop").count(), 3, "{rules}");
        assert!(rules.contains(&HOST.to_string()), "{rules}");
        assert!(has_host_table());
        assert_eq!(guards(), 8);
        assert!(connect("foo", ELSEWHERE).is_err());
    }
    assert_eq!(leaked(), 0);
    linked
}

fn killed_at_each_step() {
    world::make(true);
    for again in [false, true] {
        for step in STEPS {
            if again {
                up("foo");
            }
            let skipped =
                if again { &[Step::PlaceMade, Step::Pinned][..] } else { &[Step::Reloaded] };
            if skipped.contains(&step) {
                continue;
            }
            let status = spawn_linked_up(&format!("{step:?}"), POOL).wait().unwrap();
            assert!(!status.success(), "{step:?} was never reached");
            let made = STEPS.iter().position(|s| *s == step)
                >= STEPS.iter().position(|s| *s == Step::LinkMade);
            assert_eq!(assert_no_link_or_held(), again || made, "{step:?}");
            up("foo");
            assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string(), "{step:?}");
            assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string(), "{step:?}");
            spawn_linked_up(&format!("{step:?}"), POOL).wait().unwrap();
            down("foo");
            assert_eq!((links(), guards(), has_host_table()), (0, 0, false), "{step:?}");
        }
    }
}

fn killed_at_any_time() {
    world::make(true);
    // As long as one takes that lives, however busy the host is.
    let start = Instant::now();
    spawn_linked_up("never", POOL).wait().unwrap();
    let mut whole = start.elapsed();
    down("foo");
    let mut linked = 0;
    for round in 0..200 {
        // Once more with longer waits if the host became so busy that no run came to its link.
        if round >= 50 && linked > 0 {
            break;
        }
        whole *= if round > 0 && round % 50 == 0 { 2 } else { 1 };
        let mut child = spawn_linked_up("never", POOL);
        thread::sleep(whole * (round % 50) / 40);
        child.kill().unwrap();
        child.wait().unwrap();
        linked += usize::from(assert_no_link_or_held());
        if round % 2 == 0 {
            down("foo");
            assert_eq!((links(), guards(), has_host_table()), (0, 0, false));
        }
    }
    assert!((1..200).contains(&linked), "{linked}");
    up("foo");
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
}

fn killed_while_going_down() {
    world::make(true);
    for round in 0..20 {
        up("foo");
        let mut child = stage::spawn_down();
        thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_no_link_or_held();
        down("foo");
        assert_eq!((links(), guards(), has_host_table()), (0, 0, false));
    }
}

fn at_once() {
    world::make(true);
    let names: Vec<String> = (0..6).map(|number| format!("i{number}")).collect();
    for _ in 0..2 {
        thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || up(name));
            }
        });
        let mut addresses: Vec<IpAddr> = names.iter().map(|name| address(name, '4')).collect();
        addresses.extend(names.iter().map(|name| address(name, '6')));
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!((addresses.len(), links()), (12, 6));
        for name in &names {
            assert_eq!(seen(name, SITE).unwrap(), HOST.to_string(), "{name}");
            assert_eq!(seen(name, SITE6).unwrap(), HOST6.to_string(), "{name}");
        }
    }
    // One and the same, too.
    let many: Vec<Child> = (0..6).map(|_| spawn_linked_up("never", POOL)).collect();
    for mut child in many {
        assert!(child.wait().unwrap().success());
    }
    thread::scope(|scope| {
        for name in names.iter().skip(1) {
            scope.spawn(move || down(name));
        }
    });
    assert_eq!(links(), 2);
    assert_eq!(seen("i0", SITE).unwrap(), HOST.to_string());
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    assert_eq!(leaked(), 0);
}

fn that_collide() {
    world::make(false);
    // Room for two; three names, so two of them want the same.
    for name in ["one", "two"] {
        try_up_in(name, "10.9.0.0/30").unwrap();
    }
    let before = (address("one", '4'), address("two", '4'));
    assert_ne!(before.0, before.1);
    let message = try_up_in("three", "10.9.0.0/30").unwrap_err().to_string();
    assert!(message.contains("10.9.0.0/30") && message.contains("links.json"), "{message}");
    assert!(!Path::new("/run/netns/opencode-three").exists());
    assert_eq!(links(), 2);
    // Who is gone keeps the place; in another pool there is one for everybody.
    down("one");
    try_up_in("three", "10.9.0.0/30").unwrap_err();
    try_up_in("three", POOL).unwrap();
    try_up_in("one", "10.9.0.0/30").unwrap();
    assert_eq!((address("one", '4'), address("two", '4')), before);
    for name in ["one", "two", "three"] {
        assert_eq!(seen(name, SITE).unwrap(), HOST.to_string(), "{name}");
    }
    let mode =
        run("stat -c '%a %u' /var/lib/opencode/network /var/lib/opencode/network/links.json").1;
    assert_eq!(mode, "700 0\n600 0\n");
}

fn goes_with_policy_none() {
    world::make(true);
    up("foo");
    up("bar");
    let mut flow = connect("foo", SITE).unwrap();
    echo(&mut flow).unwrap();
    let before = address("foo", '4');
    write_rules(&deny_all("foo"));
    assert_eq!(stage::up(), Outcome::Replaced);
    assert_eq!(links(), 1);
    let left = of("foo", "ip -o link show");
    assert!(!left.contains("eth0") && left.contains("none0"), "{left}");
    assert!(echo(&mut flow).is_err() && connect("foo", SITE).is_err());
    assert_eq!(seen("bar", SITE).unwrap(), HOST.to_string());
    assert!(!run("nft list set inet opencode_host sources4").1.contains(&before.to_string()));
    world::list(&["198.51.100.0/24", "2001:db8:1::/48"]);
    assert_eq!(up("foo").outcome, Outcome::Replaced);
    assert_eq!(address("foo", '4'), before);
    assert!(!of("foo", "ip -o link show").contains("none0"));
    assert_eq!(of("foo", "ip route show default").lines().count(), 1);
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
}

/// The agent's packets come at all times, while its policy is replaced and the host's table too.
fn a_reload_refuses_nothing_that_stays_allowed() {
    world::make(true);
    up("foo");
    let done = AtomicBool::new(false);
    let flood = |to: IpAddr| {
        let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).unwrap();
        socket.connect((to, 9999)).unwrap();
        let mut refused = BTreeMap::new();
        while !done.load(Ordering::Relaxed) {
            for _ in 0..5 {
                match socket.send(b"x") {
                    // Nothing listens there, and that is said of the one before.
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(error) => *refused.entry(error.to_string()).or_insert(0) += 1,
                }
            }
            // The kernel's queue is everybody's.
            thread::sleep(Duration::from_micros(900));
        }
        refused
    };
    let converse = || {
        let (mut errors, mut flow) = (Vec::new(), connect("foo", SITE).unwrap());
        // What is late on a loaded machine was not refused.
        let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        while !done.load(Ordering::Relaxed) {
            let new = connect("foo", SITE).and_then(|mut new| echo(&mut new));
            let error = new.and_then(|_| echo(&mut flow)).err();
            let refused = error.filter(|error| !late.contains(&error.kind()));
            errors.extend(refused.map(|error| error.to_string()));
        }
        errors
    };
    thread::scope(|scope| {
        let floods = [IpAddr::from(SITE), IpAddr::from(SITE6)]
            .map(|to| scope.spawn(move || within("opencode-foo", || flood(to))));
        let converse = scope.spawn(converse);
        for round in 0..10 {
            let other = if round % 2 == 0 { "192.0.2.0/28" } else { "192.0.2.16/28" };
            world::list(&["198.51.100.0/24", "2001:db8:1::/48", other]);
            assert_eq!(up("foo").outcome, Outcome::Replaced);
            up("bar");
            down("bar");
        }
        done.store(true, Ordering::Relaxed);
        for flood in floods {
            assert_eq!(flood.join().unwrap(), BTreeMap::new());
        }
        assert_eq!(converse.join().unwrap(), [""; 0]);
    });
    assert!(
        !of("foo", "nft list tables").contains("next")
            && !run("nft list tables").1.contains("next")
    );
}

/// A second table that knows nobody but those who were there, beside one that is as it should be.
fn what_a_killed_reload_left_goes() {
    world::make(true);
    up("foo");
    let left = |table: &str| {
        let text = run(&format!("nft -s list table inet {table}")).1;
        fs::write("/run/left", text.replace(table, &format!("{table}_next"))).unwrap();
        must("nft -f /run/left");
    };
    left("opencode_host");
    up("bar");
    assert_eq!(seen("bar", SITE).unwrap(), HOST.to_string());
    left("opencode_host");
    assert_eq!(up("bar").outcome, Outcome::Same);
    assert!(!run("nft list tables").1.contains("next"));
    // Asleep, with the second one in its place.
    left("opencode_host");
    must("nft 'table inet opencode_host { flags dormant; }'");
    up("bar");
    assert_eq!(seen("bar", SITE).unwrap(), HOST.to_string());
    assert_eq!(run("nft list tables").1, "table inet opencode_host\n");
}

fn nothing_leaves_without_the_hosts_table() {
    world::make(true);
    up("foo");
    let from = (address("foo", '4'), address("foo", '6'));
    for (flush, repaired) in [
        ("nft delete table inet opencode_host", true),
        ("nft flush ruleset", true),
        ("nft flush ruleset", false),
    ] {
        let mut flows = [connect("foo", SITE).unwrap(), connect("foo", SITE6).unwrap()];
        for flow in &mut flows {
            echo(flow).unwrap();
        }
        must(flush);
        let mut tries = || {
            for flow in &mut flows {
                let answer = echo(flow);
                assert!(answer.is_err(), "{answer:?}");
            }
            for (from, site) in [(from.0, SITE.into()), (from.1, IpAddr::from(SITE6))] {
                assert!(connect("foo", site).is_err());
                probe("foo", from, site);
            }
            let _ = echo_request("foo", SITE);
        };
        tries();
        assert_eq!((leaked(), probed()), (0, 0), "{flush}");
        // Refused inside as before: another program opens nothing.
        assert!(connect("foo", ELSEWHERE).is_err() && connect("foo", HOST).is_err());
        if repaired {
            up("foo");
            assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
        }
    }
    // The same without the routing rules: it was them.
    for number in [62, 60] {
        must(&format!("ip rule del pref {number}; ip -6 rule del pref {number}"));
    }
    probe("foo", from.0, SITE.into());
    probe("foo", from.1, SITE6.into());
    assert!(leaked() >= 6 && probed() >= 6, "{} {}", leaked(), probed());
    up("foo");
    assert_eq!(guards(), 8);
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
}

fn late_answers_go_nowhere() {
    world::make(true);
    up("foo");
    up("bar");
    let sites = [IpAddr::from(SITE), SITE6.into()];
    let servers = sites.map(|site| within("internet", || UdpSocket::bind((site, 9998)).unwrap()));
    let ask = |server: &UdpSocket| {
        let (site, mut word) = (server.local_addr().unwrap(), [0; 8]);
        let any = SocketAddr::new(
            if site.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            },
            0,
        );
        let client = within("opencode-foo", || UdpSocket::bind(any).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.send_to(b"question", site).unwrap();
        let (_, asker) = server.recv_from(&mut word).unwrap();
        server.send_to(b"answer", asker).unwrap();
        client.recv(&mut word).unwrap();
        asker
    };
    let ask = || servers.each_ref().map(|server| (server, ask(server)));
    // What an answer before came to may be reported here.
    let answer = |asked: &[(&UdpSocket, SocketAddr); 2]| {
        asked.iter().filter(|(server, asker)| server.send_to(b"late", asker).is_ok()).count()
    };
    let late = |asked| {
        for _ in 0..6 {
            answer(&asked);
        }
        thread::sleep(Duration::from_millis(100));
        leaked()
    };
    // The kernel remembers whose they are, and where nobody is any more the default route leads outside.
    let asked = ask();
    down("foo");
    assert_eq!(late(asked), 0);
    // Back at the same address, they come from nobody that it asked.
    up("foo");
    assert_eq!(late(asked), 0);
    // The last link takes the table with it, and the next one brings it.
    down("bar");
    let asked = ask();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(answer(&asked), Ordering::Relaxed);
            }
        });
        for _ in 0..10 {
            down("foo");
            up("foo");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(sent.into_inner() > 1000);
    assert_eq!(leaked(), 0);
    // The same without the rules for it: it was them.
    up("bar");
    let asked = ask();
    down("foo");
    assert_eq!(late(asked), 0);
    must("nft flush chain inet opencode_host forward");
    assert!(late(asked) >= 6, "{}", leaked());
    up("foo");
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
}

fn what_is_not_translated_goes_nowhere() {
    world::make(true);
    up("foo");
    let sites = [IpAddr::from(SITE), SITE6.into()];
    // One that the kernel translated, one that begins when nothing does, and packets of no connection
    // that it translates.
    let without = |leaks: bool| {
        let mut flows = sites.map(|site| connect("foo", site).unwrap());
        must("nft delete chain inet opencode_host postrouting");
        for flow in &mut flows {
            flow.write_all(b"again\n").unwrap();
        }
        drop(flows);
        for (site, from) in sites.into_iter().zip(['4', '6']) {
            assert_eq!(connect("foo", site).is_ok(), leaks);
            probe("foo", world::address("foo", from), site);
        }
        assert_eq!((leaked() > 0, probed() > 0), (leaks, leaks), "{} {}", leaked(), probed());
        up("foo");
        for site in sites {
            assert!([HOST.to_string(), HOST6.to_string()].contains(&seen("foo", site).unwrap()));
        }
    };
    without(false);
    // The same without the rules for it: it was them.
    must("nft flush chain inet opencode_host untranslated");
    without(true);
}

fn a_spoofed_source_is_dropped() {
    world::make(true);
    up("foo");
    up("bar");
    let others = [
        address("bar", '4'),
        address("bar", '6'),
        "10.219.255.254".parse().unwrap(),
        "192.0.2.77".parse().unwrap(),
        HOST.into(),
        "2001:db8:f::2".parse().unwrap(),
        gateway("foo", '4'),
        gateway("foo", '6'),
    ];
    open("foo");
    for from in others {
        let (site, length) =
            if from.is_ipv4() { (IpAddr::from(SITE), 32) } else { (SITE6.into(), 128) };
        let nodad = if from.is_ipv6() { "nodad" } else { "" };
        of("foo", &format!("ip addr add {from}/{length} dev eth0 {nodad}"));
        probe("foo", from, site);
        assert_eq!((probed(), leaked()), (0, 0), "{from}");
        of("foo", &format!("ip addr del {from}/{length} dev eth0"));
    }
    // Its own arrive, and the table counted the others.
    probe("foo", address("foo", '4'), SITE.into());
    probe("foo", address("foo", '6'), SITE6.into());
    assert_eq!((probed(), leaked()), (6, 0));
    let (_, table) = run("nft list chain inet opencode_host from");
    let counted = table.lines().filter(|line| line.contains("counter packets"));
    assert!(
        counted.clone().count() == 2 && !counted.clone().any(|line| line.contains("packets 0 ")),
        "{table}"
    );
}

fn instances_do_not_reach_each_other() {
    world::make(true);
    up("foo");
    up("bar");
    let listener =
        within("opencode-bar", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 4096)).unwrap());
    world::answer(listener);
    let targets = [address("bar", '4'), address("bar", '6')];
    // The list has both networks; only what the host holds, and the pool, is taken out of it.
    for target in targets {
        assert!(connect_port("foo", target, 4096).is_err(), "{target}");
    }
    open("foo");
    open("bar");
    for target in targets {
        assert!(connect_port("foo", target, 4096).is_err(), "{target}");
    }
    // Without the table as well: whoever is in the pool has no mark.
    must("nft flush ruleset");
    for target in targets {
        assert!(connect_port("foo", target, 4096).is_err(), "{target}");
    }
    must("for n in 60 61 62; do ip rule del pref $n; ip -6 rule del pref $n; done");
    let host = host_end("bar").unwrap();
    must(&format!(
        "for l in {host} {}; do echo 1 > /proc/sys/net/ipv6/conf/$l/force_forwarding; done",
        host_end("foo").unwrap()
    ));
    for target in targets {
        connect_port("foo", target, 4096).unwrap();
    }
}

fn the_host_is_not_reached() {
    world::make(true);
    up("foo");
    world::answer(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 4096)).unwrap());
    let targets = [HOST.into(), IpAddr::from(HOST6), gateway("foo", '4'), gateway("foo", '6')];
    let reached =
        || targets.iter().filter(|target| connect_port("foo", **target, 4096).is_ok()).count();
    assert_eq!(reached(), 0);
    // Each layer alone.
    must("nft flush ruleset");
    assert_eq!(reached(), 0);
    up("foo");
    open("foo");
    assert_eq!(reached(), 0);
    let (_, table) = run("nft list chain inet opencode_host way");
    let counted = table.lines().find(|line| line.contains("fib daddr type")).unwrap();
    assert!(!counted.contains("counter packets 0 "), "{table}");
    must("nft flush ruleset");
    assert_eq!(reached(), 4);
}

fn nobody_reaches_an_instance() {
    world::make(true);
    up("foo");
    let listener =
        within("opencode-foo", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 4096)).unwrap());
    world::answer(listener);
    let targets = [address("foo", '4'), address("foo", '6')];
    let reach = move || {
        let try_one = |target: &IpAddr| {
            std::net::TcpStream::connect_timeout(
                &(*target, 4096).into(),
                Duration::from_millis(400),
            )
            .is_ok()
        };
        targets.iter().filter(|target| try_one(target)).count()
    };
    for opened in [false, true] {
        assert_eq!((reach(), within("internet", reach)), (0, 0), "{opened}");
        if !opened {
            open("foo");
        }
    }
    must("nft flush ruleset");
    assert_eq!(reach(), 2);
}

fn no_ipv6_without_the_hosts() {
    world::make(false);
    let v6 = |link: &str| {
        of("foo", &format!("cat /proc/sys/net/ipv6/conf/{link}/disable_ipv6")).trim().to_owned()
    };
    let absent = || {
        for link in ["all", "default", "eth0"] {
            assert_eq!(v6(link), "1", "{link}");
        }
        assert!(!of("foo", "ip addr show eth0").contains("inet6"));
        assert_eq!(of("foo", "ip -6 route show dev eth0"), "");
        let host = host_end("foo").unwrap();
        assert!(!run(&format!("ip addr show {host}")).1.contains("inet6"));
        // Programs inside may use ::1 all the same.
        within("opencode-foo", || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap());
        assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
        assert!(connect("foo", SITE6).is_err());
    };
    up("foo");
    absent();
    world::add_v6();
    up("foo");
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
    must("ip -6 route del default");
    up("foo");
    absent();
    // A route that refuses is none.
    must("ip -6 route add unreachable default");
    up("foo");
    absent();
    // The uplink is too narrow.
    must("ip -6 route del unreachable default; ip -6 route add default via 2001:db8:f::1");
    up("foo");
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
    // And it comes back after a tampering.
    of("foo", "ip -6 route del default");
    up("foo");
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
}

fn forwarding_is_set_if_needed_and_said() {
    world::make(true);
    must("ip link add other type bridge; ip link set other up");
    let get = |setting: &str| {
        fs::read_to_string(format!("/proc/sys/net/{setting}")).unwrap().trim().to_owned()
    };
    let said = |done: &Done| {
        done.changed.iter().map(|changed| changed.setting.clone()).collect::<Vec<_>>()
    };
    assert_eq!(get("ipv4/ip_forward"), "0");
    let force = Path::new("/proc/sys/net/ipv6/conf/up0/force_forwarding").exists();
    let expected =
        if force { "net/ipv6/conf/up0/force_forwarding" } else { "net/ipv6/conf/all/forwarding" };
    let mark = "net/ipv4/conf/up0/src_valid_mark";
    assert_eq!(said(&up("foo")), ["net/ipv4/conf/up0/forwarding", mark, expected]);
    // A destination behind another interface needs that one too.
    must("ip link add lan type bridge; ip addr add 172.31.0.1/24 dev lan; ip link set lan up");
    let (name, nft) = (stage::name("bar"), nft());
    let (pool, destinations) = (Some(POOL.parse().unwrap()), [[172, 31, 0, 0].into()]);
    let rules = Path::new(RULES);
    let request = Up { name: &name, rules, nft: &nft, pool, destinations: &destinations };
    let done = net::up(&request, &|_| {}).unwrap();
    assert_eq!(said(&done), ["net/ipv4/conf/lan/forwarding", "net/ipv4/conf/lan/src_valid_mark"]);
    // Nothing else forwards now.
    assert_eq!(
        (get("ipv4/ip_forward"), get("ipv4/conf/other/forwarding")),
        ("0".into(), "0".into())
    );
    if force {
        assert_eq!(get("ipv6/conf/all/forwarding"), "0");
    }
    assert_eq!(said(&up("foo")), [""; 0]);
    assert_eq!(said(&up("bar")), [""; 0]);
    // It was needed, and who looks sees what is off.
    let end = |name: &str| able::link_of(&stage::name(name));
    let off =
        |name: &str, destinations: &[IpAddr]| able::switched_off(&end(name), destinations).unwrap();
    assert_eq!((off("foo", &[]), off("bar", &destinations)), (vec![], vec![]));
    must("echo 0 > /proc/sys/net/ipv4/conf/up0/forwarding");
    assert!(connect("foo", SITE).is_err());
    assert_eq!(off("foo", &[]), ["net/ipv4/conf/up0/forwarding"]);
    assert_eq!(said(&up("foo")), ["net/ipv4/conf/up0/forwarding"]);
    connect("foo", SITE).unwrap();
    must(&format!("echo 0 > /proc/sys/{expected}"));
    assert!(connect("foo", SITE6).is_err());
    assert_eq!(off("foo", &[]), [expected]);
    must(&format!("echo 1 > /proc/sys/{expected}"));
    connect("foo", SITE6).unwrap();
    must("echo 0 > /proc/sys/net/ipv4/conf/lan/forwarding");
    assert_eq!(off("foo", &[]), [""; 0]);
    assert_eq!(off("bar", &destinations), ["net/ipv4/conf/lan/forwarding"]);
    must("echo 1 > /proc/sys/net/ipv4/conf/lan/forwarding");
    let own = format!("net/ipv4/conf/{}/forwarding", end("foo"));
    must(&format!("echo 0 > /proc/sys/{own}"));
    assert_eq!(off("foo", &[]), [own]);
    assert_eq!(said(&up("foo")), [""; 0]);
    // On a host that forwards anyway, nothing is changed.
    must("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    down("foo");
    assert_eq!(said(&up("foo")), [""; 0]);
    assert_eq!(seen("foo", SITE6).unwrap(), HOST6.to_string());
}

fn any_reverse_path_filter_works() {
    world::make(false);
    up("foo");
    for filter in [1, 2, 0] {
        must(&format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {filter} > $f; done"));
        assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string(), "{filter}");
    }
    // Without the marks the answers would be taken for martians.
    must("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 2 > $f; done");
    let off = || able::switched_off(&able::link_of(&stage::name("foo")), &[]).unwrap();
    assert_eq!(off(), [""; 0]);
    must("echo 0 > /proc/sys/net/ipv4/conf/up0/src_valid_mark");
    assert!(connect("foo", SITE).is_err());
    assert_eq!(off(), ["net/ipv4/conf/up0/src_valid_mark"]);
    up("foo");
    connect("foo", SITE).unwrap();
    // Without a filter nothing needs them.
    must("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    must("echo 0 > /proc/sys/net/ipv4/conf/up0/src_valid_mark");
    assert_eq!(off(), [""; 0]);
    connect("foo", SITE).unwrap();
}

fn a_vpn_of_the_host_is_not_bypassed() {
    world::make(true);
    up("foo");
    // As wg-quick does it: everything without the tunnel's own mark goes through the tunnel.
    must(
        "ip rule add pref 32764 not fwmark 0xca6c lookup 51820; ip route add prohibit default table 51820",
    );
    must(
        "ip -6 rule add pref 32764 not fwmark 0xca6c lookup 51820; ip -6 route add prohibit default table 51820",
    );
    assert!(connect("foo", SITE).is_err() && connect("foo", SITE6).is_err());
    must("ip rule del pref 32764; ip -6 rule del pref 32764");
    connect("foo", SITE).unwrap();
    connect("foo", SITE6).unwrap();
}

fn new_addresses_of_the_host_are_refused() {
    world::make(true);
    up("foo");
    let held = || of("foo", "nft list table inet opencode");
    must("ip addr add 203.0.113.99/24 dev up0; ip addr add 2001:db8:f::99/64 dev up0 nodad");
    assert!(!held().contains("203.0.113.99"));
    up("foo");
    let rules = held();
    for one in ["203.0.113.99", "203.0.113.2", "2001:db8:f::99", POOL] {
        assert!(rules.contains(one), "{one}: {rules}");
    }
    must("ip addr del 203.0.113.99/24 dev up0");
    // The addresses are not the policy.
    assert_eq!(up("foo").outcome, Outcome::Same);
    assert!(!held().contains("203.0.113.99"));
    // But what is added there by hand goes, and is said to have been there when it is a rule.
    of("foo", "nft add element inet opencode host4 { 198.51.100.1 }");
    of("foo", "nft insert rule inet opencode output accept");
    assert_eq!(up("foo").outcome, Outcome::Replaced);
    assert!(!held().contains("198.51.100.1"));
}

fn what_is_forgotten_is_only_what_is_gone() {
    world::make(true);
    for name in ["foo", "bar", "off"] {
        up(name);
    }
    down("bar");
    down("off");
    let off = stage::name("off");
    assert_eq!(net::forget(&[&off]).unwrap(), ["bar"], "a link is there, or it is kept");
    let records = || fs::read_to_string("/var/lib/opencode/network/links.json").unwrap();
    assert!(records().contains("foo") && records().contains("off") && !records().contains("bar"));
    assert_eq!(net::forget(&[]).unwrap(), ["off"]);
    echo(&mut connect("foo", SITE).unwrap()).unwrap();
    down("foo");
    assert_eq!((links(), guards(), has_host_table()), (0, 0, false));
    assert_eq!(net::forget(&[]).unwrap(), ["foo"]);
    assert!(!Path::new("/var/lib/opencode/network/links.json").exists());
}

fn foreign_links_are_refused() {
    world::make(false);
    let name = format!("oc-{}", digest(b"foo").chars().take(12).collect::<String>());
    must(&format!("ip link add {name} type bridge"));
    let message = try_up("foo").unwrap_err().to_string();
    assert!(message.contains(&format!("ip link delete {name}")), "{message}");
    let errors = net::down(&stage::name("foo"), Some(&nft())).unwrap_err().to_string();
    assert!(errors.contains(&name), "{errors}");
    assert!(run(&format!("ip link show {name}")).0);
    assert!(!Path::new(PIN).exists());
    must(&format!("ip link delete {name}"));
    up("foo");
    assert_eq!(host_end("foo"), Some(name));
    // In the namespace.
    down("foo");
    write_rules(&deny_all("foo"));
    stage::up();
    of("foo", "ip link add eth0 type bridge");
    world::list(&["198.51.100.0/24"]);
    let message = try_up("foo").unwrap_err().to_string();
    assert!(message.contains("ip -n opencode-foo link delete eth0"), "{message}");
    must("ip -n opencode-foo link delete eth0");
    up("foo");
    // Whose other end was in a namespace that is gone by name.
    must("umount -l /run/netns/opencode-foo; rm /run/netns/opencode-foo");
    assert_eq!(up("foo").outcome, Outcome::Created);
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    assert_eq!(links(), 1);
}

fn pools_move_and_clash() {
    world::make(true);
    up("foo");
    up("bar");
    let old = address("foo", '4');
    let v6 = address("foo", '6');
    try_up_in("foo", "172.20.0.0/16").unwrap();
    assert!(address("foo", '4').to_string().starts_with("172.20."));
    assert_eq!(address("foo", '6'), v6);
    assert!(!of("foo", "ip addr show eth0").contains(&old.to_string()));
    for name in ["foo", "bar"] {
        assert_eq!(seen(name, SITE).unwrap(), HOST.to_string(), "{name}");
    }
    assert_eq!(guards(), 4 + 3 + 4);
    let message = try_up_in("foo", "203.0.0.0/16").unwrap_err().to_string();
    assert!(message.contains("203.0.113.2/24"), "{message}");
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    down("bar");
    assert_eq!(guards(), 8);
}

fn unreadable_records_change_nothing() {
    world::make(false);
    up("foo");
    let file = "/var/lib/opencode/network/links.json";
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, "{").unwrap();
    assert!(try_up("foo").unwrap_err().to_string().contains(file));
    assert!(try_up("bar").unwrap_err().to_string().contains(file));
    assert_eq!(fs::read_to_string(file).unwrap(), "{");
    assert_eq!(seen("foo", SITE).unwrap(), HOST.to_string());
    // The link and the name go all the same.
    let errors = net::down(&stage::name("foo"), Some(&nft())).unwrap_err().to_string();
    assert!(errors.contains(file), "{errors}");
    assert_eq!(links(), 0);
    assert!(!Path::new(PIN).exists());
    fs::write(file, text).unwrap();
    up("foo");
}
