//! A host with an internet: the case's own namespace, and one behind its default routes.
//!
//! Everything has addresses that are for documentation, so the policies here are lists of those.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use instances_core::network::{Allowed, Network, Policy};
use instances_core::nft::namespace_table;
use instances_sys::net::{self, Done, Error, Up};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::stage::{self, RULES, must, nft, run, write_rules};

pub(crate) const POOL: &str = "10.219.0.0/16";
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 2);
pub(crate) const SITE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const SITE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// In the internet, but on no list.
pub(crate) const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const PORT: u16 = 8443;

/// Over the time after which a lost packet of TCP is sent again.
const PATIENCE: Duration = Duration::from_secs(3);

/// The namespaces of the internet, with a server on every address.
pub(crate) fn make(v6: bool) {
    must("ip link set lo up");
    must("ip netns add internet");
    // Addresses are usable at once: nothing here waits for the kernel to see whether they are taken.
    for prefix in ["", "ip netns exec internet "] {
        let settings = "/proc/sys/net/ipv6/conf";
        must(&format!(
            "{prefix}sh -c 'echo 0 | tee {settings}/all/accept_dad {settings}/default/accept_dad'"
        ));
    }
    // An index of its own: of a link whose two ends have the same, the kernel tells up to a second
    // late that it is up.
    must("ip link add up0 index 77 type veth peer name up1 netns internet");
    let internet = "ip -n internet";
    for command in [
        "ip addr add 203.0.113.2/24 dev up0",
        "ip link set up0 mtu 1420 up",
        "ip route add default via 203.0.113.1",
        &format!("{internet} addr add 203.0.113.1/24 dev up1"),
        &format!("{internet} addr add 198.51.100.1/32 dev lo"),
        &format!("{internet} addr add 192.0.2.1/32 dev lo"),
        &format!("{internet} link set lo up"),
        &format!("{internet} link set up1 mtu 1420 up"),
        // So that nothing is lost for want of a way back, and every leak could be answered.
        &format!("{internet} route add default via 203.0.113.2"),
    ] {
        must(command);
    }
    if v6 {
        add_v6();
    }
    must(
        "ip netns exec internet nft 'table inet watch { chain in { \
         type filter hook prerouting priority -300; policy accept; \
         ip saddr 10.0.0.0/8 counter comment \"inner\"; ip6 saddr fd00::/8 counter comment \"inner\"; \
         ip daddr 10.0.0.0/8 counter comment \"inner\"; ip6 daddr fd00::/8 counter comment \"inner\"; \
         udp dport 9999 counter comment \"probe\"; }; }'",
    );
    serve();
    list(&["198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32", "fd00::/8"]);
}

pub(crate) fn add_v6() {
    for command in [
        "ip addr add 2001:db8:f::2/64 dev up0 nodad",
        "ip -n internet addr add 2001:db8:f::1/64 dev up1 nodad",
        "ip -n internet addr add 2001:db8:1::1/128 dev lo nodad",
        "ip -6 route add default via 2001:db8:f::1",
        "ip -n internet -6 route add default via 2001:db8:f::2",
    ] {
        must(command);
    }
}

/// The server tells each client its address, and then sends back what it gets.
fn serve() {
    let listener = within("internet", || TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    answer(listener);
}

pub(crate) fn answer(listener: TcpListener) {
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let peer = client.peer_addr().unwrap().ip().to_canonical();
                let mut line = format!("{peer}\n").into_bytes();
                let mut buffer = [0; 64];
                while client.write_all(&line).is_ok() {
                    let length = client.read(&mut buffer).unwrap_or(0);
                    if length == 0 {
                        break;
                    }
                    line = buffer.into_iter().take(length).collect();
                }
            });
        }
    });
}

/// Writes the rules of an allow-list.
pub(crate) fn list(cidrs: &[&str]) {
    let one = |cidr: &&str| Allowed { cidr: cidr.parse().unwrap(), protocol: None, ports: vec![] };
    let allow = cidrs.iter().map(one).collect();
    let network = Network { policy: Policy::AllowList, allow, ..Network::default() };
    write_rules(&namespace_table("foo", &network));
}

pub(crate) fn try_up(name: &str) -> Result<Done, Error> {
    try_up_in(name, POOL)
}

pub(crate) fn try_up_in(name: &str, pool: &str) -> Result<Done, Error> {
    let (name, nft) = (stage::name(name), nft());
    let pool = Some(pool.parse().unwrap());
    net::up(
        &Up { name: &name, rules: Path::new(RULES), nft: &nft, pool, destinations: &[] },
        &|_| {},
    )
}

pub(crate) fn up(name: &str) -> Done {
    try_up(name).unwrap()
}

pub(crate) fn down(name: &str) {
    net::down(&stage::name(name), Some(&nft())).unwrap();
}

/// Runs `work` on a thread in the namespace with this name.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = fs::File::open(Path::new("/run/netns").join(namespace)).unwrap();
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

pub(crate) fn of(name: &str, command: &str) -> String {
    let (done, text) = run(&format!("exec nsenter --net=/run/netns/opencode-{name} {command}"));
    assert!(done, "{name}: {command}: {text}");
    text
}

/// Connects from an instance, and hears what the server says first.
pub(crate) fn connect(name: &str, to: impl Into<IpAddr>) -> std::io::Result<TcpStream> {
    greeted(name, to.into(), PORT).map(|(stream, _)| stream)
}

pub(crate) fn connect_port(
    name: &str,
    to: impl Into<IpAddr>,
    port: u16,
) -> std::io::Result<TcpStream> {
    greeted(name, to.into(), port).map(|(stream, _)| stream)
}

/// What the server sees as the source.
pub(crate) fn seen(name: &str, site: impl Into<IpAddr>) -> std::io::Result<String> {
    greeted(name, site.into(), PORT).map(|(_, greeting)| greeting)
}

fn greeted(name: &str, to: IpAddr, port: u16) -> std::io::Result<(TcpStream, String)> {
    within(&format!("opencode-{name}"), move || {
        let mut stream = TcpStream::connect_timeout(&(to, port).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let greeting = line(&mut stream)?;
        Ok((stream, greeting))
    })
}

/// Sends a datagram from an instance, and waits for what comes of it.
pub(crate) fn ask(name: &str, to: IpAddr) -> std::io::Result<()> {
    within(&format!("opencode-{name}"), move || {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((to, PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"question")?;
        socket.recv(&mut [0; 64]).map(drop)
    })
}

/// Sends a line through a connection and gets it back.
pub(crate) fn echo(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"again\n")?;
    line(stream)
}

fn line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer)?;
    if length == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let heard: Vec<u8> = buffer.into_iter().take(length).collect();
    Ok(String::from_utf8_lossy(&heard).trim().to_owned())
}

/// Sends datagrams from a source of the caller's choice towards the watched port.
pub(crate) fn probe(name: &str, from: IpAddr, to: IpAddr) {
    within(&format!("opencode-{name}"), move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..3 {
            // A refusal of the one before may be reported here.
            let _ = socket.send_to(b"probe", (to, 9999));
        }
    });
    thread::sleep(Duration::from_millis(50));
}

/// How many packets the internet has seen with an inner address at either end.
pub(crate) fn leaked() -> u64 {
    counted("inner")
}

/// How many probes it has seen.
pub(crate) fn probed() -> u64 {
    counted("probe")
}

fn counted(comment: &str) -> u64 {
    let (done, text) = run("ip netns exec internet nft list table inet watch");
    assert!(done, "{text}");
    let packets = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse::<u64>().unwrap()
    };
    text.lines().filter(|line| line.contains(comment)).map(packets).sum()
}

/// An instance's address on its link.
pub(crate) fn address(name: &str, family: char) -> IpAddr {
    let text = of(name, &format!("ip -{family} -o addr show dev eth0"));
    text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// The other end's.
pub(crate) fn gateway(name: &str, family: char) -> IpAddr {
    let text = of(name, &format!("ip -{family} route show default"));
    text.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// The interface of the host's end.
pub(crate) fn host_end(name: &str) -> Option<String> {
    let address = |name: &str| format!("{:?}", gateway(name, '4')).replace('"', "");
    let (_, all) = run("ip -4 -o addr show");
    let wanted = format!("{}/31", address(name));
    let line = all.lines().find(|line| line.contains(&wanted))?;
    Some(line.split_whitespace().nth(1).unwrap().to_owned())
}

/// Every `oc-*` interface on the host.
pub(crate) fn links() -> usize {
    run("ip -o link show").1.lines().filter(|line| line.contains(": oc-")).count()
}

pub(crate) fn has_host_table() -> bool {
    run("nft list table inet opencode_host").0
}

/// How many of our routing rules there are, of both families.
pub(crate) fn guards() -> usize {
    let (_, text) = run("ip rule; ip -6 rule");
    text.lines()
        .filter(|line| ["60:", "61:", "62:", "63:"].iter().any(|p| line.starts_with(p)))
        .count()
}
