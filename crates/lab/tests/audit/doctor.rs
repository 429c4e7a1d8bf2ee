//! What `doctor` says of a host: nothing of one that is well, and of each fault its remedy, which is run.

use instances_lab::{Internet, Machine, fleet, stand_in, unavailable, without};
use serde_json::Value;

/// Sends each question back as an answer.
const RESOLVER: &str = "import socket
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind((\"127.0.0.1\", 53))
while True:
    question, client = resolver.recvfrom(512)
    resolver.sendto(question[:2] + bytes([question[2] | 128]) + question[3:], client)
";
const START_RESOLVER: &str = "systemd-run --quiet --collect --unit=lab-resolver python3 /usr/local/lib/resolver.py; \
                              until ss -Hlun 'sport = 53' | grep -q .; do sleep 0.05; done";
/// Asks the kernel for what is in the table `filter` of iptables-legacy, if it has that: `IPT_SO_GET_INFO`.
const LEGACY: &str = "import ctypes, socket
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
info = ctypes.create_string_buffer(b\"filter\", 84)
length = ctypes.c_uint32(84)
ctypes.CDLL(None).getsockopt(raw.fileno(), socket.IPPROTO_IP, 64, info, ctypes.byref(length))
";
const SECRET: &str = "/etc/opencode-secrets/web";

fn spec(package: &str) -> String {
    format!(
        "[instances.web]\ndirectory = \"/srv/web\"\nlisten.port = 4101\nautoStart = false\n\
         environmentFile = [\"{SECRET}\"]\n{package}"
    )
}

fn sh(machine: &Machine, script: &str) -> String {
    let output = machine.run_for(fleet::PATIENCE, ["/bin/sh", "-euc", script]).unwrap();
    output.ok().unwrap().trim().to_owned()
}

fn apply(machine: &Machine, spec: &str) {
    machine.put(fleet::SPEC, spec, 0o644).unwrap();
    sh(machine, "opencode-instances apply");
}

/// The findings and the notes.
fn doctor(machine: &Machine) -> [Vec<Value>; 2] {
    let argv = ["opencode-instances", "doctor", "--json"];
    let output = machine.run_for(fleet::PATIENCE, argv).unwrap();
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
    let all = ["findings", "notes"].map(|kind| report[kind].as_array().unwrap().clone());
    assert_eq!(output.code(), if all[0].is_empty() { 0 } else { 4 }, "{output}");
    all
}

/// What is said of the host beside what the machines of the lab cannot have: controllers, and a setting of the
/// kernel that all of them share.
fn findings(machine: &Machine) -> Vec<Value> {
    let [mut all, _] = doctor(machine);
    let expected = sh(
        machine,
        "[ \"$(wc -w </sys/fs/cgroup/cgroup.controllers)\" -gt 5 ] || echo D0302; \
         sysctl -n fs.protected_hardlinks fs.protected_symlinks | grep -q 0 && echo D0903 || true",
    );
    all.retain(|one| !expected.lines().any(|code| one["code"] == code));
    all
}

/// The one finding, and its remedy.
#[track_caller]
fn only(machine: &Machine, code: &str, word: &str) -> String {
    let all = findings(machine);
    assert!(all.len() == 1 && all[0]["code"] == code, "{code}: {all:#?}");
    assert!(all[0]["what"].as_str().unwrap().contains(word), "{word}: {all:#?}");
    all[0]["remedy"].as_str().unwrap().to_owned()
}

#[track_caller]
fn well(machine: &Machine) {
    assert_eq!(findings(machine), [Value::Null; 0]);
}

/// Runs the commands of a remedy, without its words.
fn mend(machine: &Machine, commands: &str) {
    sh(machine, commands);
    well(machine);
}

#[test]
fn each_fault_of_a_host_is_found_and_its_remedy_works() {
    if unavailable() {
        return;
    }
    let machine = stand_in::boot("doctor", "", &["/srv/web"]).unwrap();
    let _internet = Internet::attach(&machine, true).unwrap();
    machine.put("/usr/local/lib/resolver.py", RESOLVER, 0o644).unwrap();
    machine.put("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644).unwrap();
    sh(&machine, START_RESOLVER);
    well(&machine);
    packages_before_the_first_apply(&machine);
    resolvers(&machine);
    firewalls(&machine);
    rules_that_the_kernel_does_not_take(&machine);
    leftovers(&machine);
    room(&machine);
    failed_units(&machine);
    others_are_told_what_they_cannot_see(&machine);
    sh(&machine, &format!("install -D -m 600 /dev/null {SECRET}; echo A=b >{SECRET}"));
    apply(&machine, &spec(stand_in::DEFAULTS.trim_start_matches("[defaults]\n")));
    packages(&machine);
    secrets(&machine);
    forwarding(&machine);
    what_is_kept_is_no_fault(&machine);
}

fn resolvers(machine: &Machine) {
    sh(machine, "systemctl stop lab-resolver");
    only(machine, "D0502", "127.0.0.1");
    mend(machine, START_RESOLVER);
    machine.put("/etc/resolv.conf", "", 0o644).unwrap();
    only(machine, "D0501", "/etc/resolv.conf");
    machine.put("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644).unwrap();
    well(machine);
}

/// Makes a table of somebody else's.
fn foreign(machine: &Machine, table: &str, chains: &[&str]) {
    let chains: String = chains.iter().map(|chain| format!("\tchain {chain}\n")).collect();
    machine.put("/root/foreign.nft", format!("table {table} {{\n{chains}}}\n"), 0o644).unwrap();
    sh(machine, "nft -f /root/foreign.nft");
}

fn firewalls(machine: &Machine) {
    let drops = "{ type filter hook forward priority 0; policy drop; }";
    let rejects =
        "other { type filter hook forward priority 0; ct state established accept; reject; }";
    // The way to the resolver of the machine stays.
    let early =
        "early { type filter hook prerouting priority 0; policy drop; iifname \"lo\" accept; }";
    let late =
        "late { type filter hook postrouting priority 0; policy drop; oifname \"lo\" accept; }";
    for (chain, word) in [
        (format!("mine {drops}").as_str(), "mine of table inet foreign"),
        (rejects, "other of table inet foreign"),
        (early, "early of table inet foreign, at the hook prerouting"),
        (late, "late of table inet foreign, at the hook postrouting"),
    ] {
        foreign(machine, "inet foreign", &[chain]);
        let remedy = only(machine, "D0402", word);
        let (commands, _) = remedy.split_once("; and the same").unwrap();
        mend(machine, commands);
        sh(machine, "nft delete table inet foreign");
    }
    // By names, as far as a machine without them can tell; their own commands are not there to be run.
    for (table, chain, word) in [
        ("ip firewalld", "x", "firewalld's"),
        ("ip filter", "ufw-user-forward", "ufw's"),
        ("ip filter", "DOCKER-USER", "Docker's"),
    ] {
        foreign(machine, table, &[&format!("{chain} {{ }}"), &format!("FORWARD {drops}")]);
        only(machine, "D0402", word);
        sh(machine, &format!("nft delete table {table}"));
    }
    // What drops others lets instances be.
    // And who asks for the way back, as NixOS and firewalld do.
    let others = "c { type filter hook forward priority 0; iifname \"eth7\" drop; }";
    let nixos = "d { type filter hook prerouting priority mangle + 10; policy drop; \
                 fib saddr . mark . iif oif exists accept; }";
    let firewalld = "e { type filter hook prerouting priority mangle + 10; \
                     meta nfproto ipv4 fib saddr . mark . iif oif missing drop; }";
    for chain in [others, nixos, firewalld] {
        foreign(machine, "inet foreign", &[chain]);
        well(machine);
        let [_, notes] = doctor(machine);
        assert!(notes.iter().all(|note| note["code"] != "N0401"), "{notes:#?}");
        sh(machine, "nft delete table inet foreign");
    }
    rules_of_iptables_legacy(machine);
}

/// As `iptables-legacy --list` makes it: its programs are not in the machine.
fn rules_of_iptables_legacy(machine: &Machine) {
    let names = || sh(machine, "cat /proc/net/ip_tables_names 2>/dev/null || true");
    let has_note = || {
        let [_, notes] = doctor(machine);
        notes.iter().any(|note| note["code"] == "N0403")
    };
    assert!(names().is_empty() && !has_note());
    machine.put("/usr/local/lib/legacy.py", LEGACY, 0o644).unwrap();
    sh(machine, "python3 /usr/local/lib/legacy.py");
    assert!(has_note() || (names().is_empty() && without("iptables-legacy in its kernel")));
}

/// The kernel is the host's, so that nft says in its place what it says of one whose modules are locked.
fn rules_that_the_kernel_does_not_take(machine: &Machine) {
    let said = sh(machine, "opencode-instances doctor || [ $? = 4 ]");
    let nft = sh(machine, "nft --version | sed 's/^nftables v\\([^ ]*\\).*/\\1/'");
    let systemd = sh(machine, "systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'");
    assert_eq!(said.lines().next(), Some(format!("systemd {systemd}, nft {nft}").as_str()));
    let refused = "/dev/stdin:9:9-9: Error: Could not process rule: No such file or directory";
    let lacks = format!(
        "#!/bin/sh\ntext=$(/bin/cat)\ncase $text in *masquerade*) echo '{refused}' >&2; exit 1;; esac\n\
         echo \"$text\" | /usr/sbin/nft.whole \"$@\"\n"
    );
    sh(machine, "mv /usr/sbin/nft /usr/sbin/nft.whole");
    machine.put("/usr/sbin/nft", &lacks, 0o755).unwrap();
    let remedy = only(machine, "D0202", refused);
    assert!(remedy.starts_with("modprobe --all ") && remedy.contains(" nft_masq "), "{remedy}");
    mend(machine, "mv /usr/sbin/nft.whole /usr/sbin/nft");
}

fn leftovers(machine: &Machine) {
    for (make, code, word) in [
        ("ip netns add opencode-gone", "D1001", "opencode-gone"),
        ("ip link add oc-0123456789ab type veth peer name other0", "D1002", "oc-0123456789ab"),
        ("nft add table inet opencode_host", "D1003", "opencode_host"),
        (
            "printf '[Service]\\nExecStart=true\\n' >/etc/systemd/system/opencode-net@gone.service; \
             systemctl daemon-reload",
            "D1004",
            "opencode-net@gone.service",
        ),
    ] {
        sh(machine, make);
        let remedy = only(machine, code, word);
        mend(machine, &remedy);
    }
}

fn room(machine: &Machine) {
    let place = "/var/lib/opencode/instance-state";
    for (options, fill, code) in [
        ("size=16m", "head -c 16700000 /dev/zero >fill", "D0601"),
        ("nr_inodes=100", "for i in $(seq 98); do : >$i; done", "D0602"),
    ] {
        sh(machine, &format!("mkdir -p {place}; mount -t tmpfs -o {options} none {place}"));
        well(machine);
        sh(machine, &format!("cd {place}; {fill}"));
        let remedy = only(machine, code, place);
        assert!(remedy.contains(place), "{remedy}");
        mend(machine, &format!("rm {place}/*"));
        sh(machine, &format!("umount {place}; rmdir {place}"));
    }
}

fn failed_units(machine: &Machine) {
    sh(machine, "systemd-run --quiet --wait --unit=opencode-broken false || true");
    let remedy = only(machine, "D1201", "opencode-broken.service");
    let (_, command) = remedy.rsplit_once(", or ").unwrap();
    mend(machine, command);
}

fn others_are_told_what_they_cannot_see(machine: &Machine) {
    let said = sh(machine, "runuser -u nobody -- opencode-instances doctor || [ $? = 4 ]");
    assert!(said.contains("note[N0001]: rules of other firewalls"), "{said}");
}

fn packages_before_the_first_apply(machine: &Machine) {
    // Without an instance that is declared, what is where npm puts it.
    let usual = "/usr/local/bin/opencode";
    for specification in ["", "no = sense"] {
        machine.put(fleet::SPEC, specification, 0o644).unwrap();
        sh(machine, &format!("cp {} {usual}", stand_in::SERVER));
        only(machine, "D0701", "/usr/local/bin/opencode gave no answer");
        mend(machine, &format!("rm {usual}"));
    }
    let declared = |package: &str| {
        machine.put(fleet::SPEC, spec(&format!("package = \"{package}\"\n")), 0o644).unwrap();
    };
    declared("/opt/gone");
    only(machine, "D0701", "/opt/gone, of web, cannot be told for an opencode: cannot find");
    sh(
        machine,
        "mkdir -p /opt/loose && cp /usr/local/bin/stand-in /opt/loose/opencode && chmod 777 /opt/loose",
    );
    declared("/opt/loose/opencode");
    only(machine, "D0701", "cannot be trusted: /opt/loose");
    sh(machine, "rm -r /opt/loose");
    declared("/usr/bin/opencode");
    well(machine);
    machine.put(fleet::SPEC, "", 0o644).unwrap();
}

fn packages(machine: &Machine) {
    let remedy = only(machine, "D0701", stand_in::SERVER);
    assert!(remedy.contains("`package` name opencode 1.18"), "{remedy}");
    apply(machine, &spec(""));
    well(machine);
}

fn secrets(machine: &Machine) {
    sh(machine, &format!("chmod 644 {SECRET}"));
    let remedy = only(machine, "D1101", "can be read by everybody");
    assert!(!remedy.contains("A=b"));
    mend(machine, &remedy);
    sh(machine, &format!(": >{SECRET}"));
    only(machine, "D1102", SECRET);
    mend(machine, &format!("echo A=b >{SECRET}"));
    sh(machine, &format!("mv {SECRET} {SECRET}.kept"));
    only(machine, "D1101", "does not exist");
    mend(machine, &format!("mv {SECRET}.kept {SECRET}"));
}

fn forwarding(machine: &Machine) {
    sh(machine, "systemctl start opencode-net@web");
    well(machine);
    let link = sh(machine, "ls /proc/sys/net/ipv4/conf | grep ^oc-");
    // Kernels before 6.17 have one switch for all.
    let v6 = sh(
        machine,
        "cd /proc/sys/net/ipv6/conf; [ -e wan0/force_forwarding ] || echo all.forwarding",
    );
    let v6 = if v6.is_empty() {
        ["wan0", &link].map(|link| format!("net.ipv6.conf.{link}.force_forwarding")).to_vec()
    } else {
        vec![format!("net.ipv6.conf.{v6}")]
    };
    let v4 = ["wan0", &link].map(|link| format!("net.ipv4.conf.{link}.forwarding"));
    let mark = "net.ipv4.conf.wan0.src_valid_mark".to_owned();
    sh(machine, "sysctl -qw net.ipv4.conf.wan0.rp_filter=1");
    for setting in v4.into_iter().chain(v6).chain([mark]) {
        sh(machine, &format!("sysctl -qw {setting}=0"));
        let remedy = only(machine, "D0401", &setting);
        mend(machine, &remedy);
    }
}

fn what_is_kept_is_no_fault(machine: &Machine) {
    sh(machine, "mkdir -p /var/lib/opencode/instance-state/web; opencode-instances remove");
    well(machine);
    let [_, notes] = doctor(machine);
    let kept: Vec<&Value> = notes
        .iter()
        .filter(|note| matches!(note["code"].as_str(), Some("N1001" | "N1002")))
        .collect();
    assert!(kept.iter().any(|note| note["code"] == "N1001"), "{notes:#?}");
    assert!(kept.iter().any(|note| note["code"] == "N1002"), "{notes:#?}");
    for note in kept {
        let (_, command) = note["remedy"].as_str().unwrap().split_once(": ").unwrap();
        sh(machine, command);
    }
    let [_, notes] = doctor(machine);
    assert!(
        !notes.iter().any(|note| note["code"].as_str().unwrap().starts_with("N10")),
        "{notes:#?}"
    );
}
