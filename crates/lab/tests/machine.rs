//! The test machine itself.

#![expect(clippy::unwrap_used, reason = "clippy allows it in tests, but not in what tests share")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use instances_lab::{Image, Machine, Options, Release, place, unavailable};

fn boot(release: Release) -> Machine {
    Machine::boot(&Image::ensure(release).unwrap(), &Options::new()).unwrap()
}

fn assert_healthy(machine: &Machine, systemd: &str) {
    let version = machine.run(["systemctl", "--version"]).unwrap().ok().unwrap();
    assert!(version.starts_with(systemd), "{version}");
    let state = machine.run(["systemctl", "is-system-running"]).unwrap();
    assert_eq!(state.stdout.trim(), "running", "{}", machine.sh("systemctl --failed").unwrap());
}

#[test]
fn trixie_has_systemd_257() {
    if unavailable() {
        return;
    }
    assert_healthy(&boot(Release::Trixie), "systemd 257");
}

#[test]
fn bookworm_has_systemd_252() {
    if unavailable() {
        return;
    }
    assert_healthy(&boot(Release::Bookworm), "systemd 252");
}

#[test]
fn commands_and_files() {
    if unavailable() {
        return;
    }
    let own_source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machine.rs");
    let options = Options::new().bind_ro(own_source, "/opt/a:b/machine.rs");
    let machine = Machine::boot(&Image::ensure(Release::Trixie).unwrap(), &options).unwrap();

    machine.put("/etc/made/for us.conf", "one\ntwo\n", 0o640).unwrap();
    assert_eq!(machine.get("/etc/made/for us.conf").unwrap(), "one\ntwo\n");
    let mode = machine.run(["stat", "-c", "%a %U", "/etc/made/for us.conf"]).unwrap();
    assert_eq!(mode.ok().unwrap(), "640 root\n");
    machine.get("/etc/absent").unwrap_err();

    let bound = machine.get("/opt/a:b/machine.rs").unwrap();
    assert_eq!(bound, fs::read_to_string(own_source).unwrap());
    assert!(!machine.sh("echo >> /opt/a:b/machine.rs").unwrap().success());
    let opencode = machine.run(["test", "-x", place::OPENCODE_INSIDE]).unwrap();
    assert!(opencode.success());

    let output = machine.sh("echo out; echo err >&2; exit 3").unwrap();
    assert_eq!((output.code(), &*output.stdout, &*output.stderr), (3, "out\n", "err\n"));
    let environment = machine.run(["env"]).unwrap().ok().unwrap();
    assert_eq!(environment.lines().count(), 3, "{environment}");

    // What stays in the background holds nobody up; what does not end is ended.
    let start = Instant::now();
    machine.sh("sleep 20 &").unwrap().ok().unwrap();
    machine.run_for(Duration::from_millis(300), ["sleep", "21"]).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5));
    let left = machine.run(["pgrep", "-fx", "sleep 21"]).unwrap();
    assert!(!left.success(), "{left}");

    machine
        .sh("systemd-run --unit=later sh -c 'sleep 0.2; touch /run/later'")
        .unwrap()
        .ok()
        .unwrap();
    let there = |machine: &Machine| Ok(machine.run(["test", "-e", "/run/later"])?.success());
    machine.wait_until("/run/later is there", Duration::from_secs(10), there).unwrap();
    let never = |_: &Machine| Ok(false);
    machine.wait_until("nothing", Duration::from_millis(50), never).unwrap_err();
}

#[test]
fn network_of_the_machine() {
    if unavailable() {
        return;
    }
    let machine = boot(Release::Trixie);
    let listener = machine.in_netns(|| TcpListener::bind("127.0.0.1:8765")).unwrap().unwrap();
    TcpStream::connect("127.0.0.1:8765").unwrap_err();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
    });

    machine.sh("ip netns add inner").unwrap().ok().unwrap();
    let connect = || TcpStream::connect("127.0.0.1:8765");
    machine.in_named_netns("inner", connect).unwrap().unwrap_err();
    machine.in_named_netns("absent", connect).unwrap_err();

    let forward = machine.reach_from_host(8765).unwrap();
    let mut stream = TcpStream::connect(forward.address()).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO");
    echo.join().unwrap();

    let address = forward.address();
    drop(forward);
    TcpStream::connect(address).unwrap_err();
}

/// The firewall of systemd needs bpf(2), which a machine has only without nspawn's own filter.
#[test]
fn address_filters_of_units_work() {
    if unavailable() {
        return;
    }
    for release in Release::ALL {
        let machine = boot(release);
        let ping = |property: &str| {
            let property = format!("--property={property}");
            let ping = ["ping", "-c1", "-W1", "127.0.0.1"];
            let unit = ["systemd-run", "--wait", "--pipe", "--quiet", &property];
            machine.run(unit.into_iter().chain(ping)).unwrap().success()
        };
        assert!(ping("IPAddressAllow=any"), "{release}");
        assert!(!ping("IPAddressDeny=any"), "{release}");
    }
}

#[test]
fn a_reboot_keeps_what_was_written() {
    if unavailable() {
        return;
    }
    let mut machine = boot(Release::Trixie);
    let boots = |machine: &Machine| {
        machine.sh("journalctl --list-boots -o json | jq length").unwrap().ok().unwrap()
    };
    machine.put("/etc/systemd/system/mark.service", MARK, 0o644).unwrap();
    machine.sh("systemctl enable --now mark").unwrap().ok().unwrap();
    machine.put("/run/volatile", "", 0o600).unwrap();
    assert_eq!(machine.get("/var/lib/mark").unwrap(), "start\n");
    let identity = machine.get("/etc/machine-id").unwrap();
    assert_eq!(boots(&machine), "1\n");

    let before = machine.pid();
    machine.reboot().unwrap();
    assert_ne!(machine.pid(), before);
    assert_eq!(machine.get("/var/lib/mark").unwrap(), "start\nstop\nstart\n");
    machine.get("/run/volatile").unwrap_err();
    assert_eq!(machine.get("/etc/machine-id").unwrap(), identity);

    machine.power_cut().unwrap();
    assert_eq!(machine.get("/var/lib/mark").unwrap(), "start\nstop\nstart\nstart\n");
    assert_eq!(boots(&machine), "3\n");
    assert_healthy(&machine, "systemd 257");
}

const MARK: &str = "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo start >>/var/lib/mark'
ExecStop=/bin/sh -c 'echo stop >>/var/lib/mark'
[Install]
WantedBy=multi-user.target
";

#[test]
fn machines_do_not_see_each_other() {
    if unavailable() {
        return;
    }
    let (one, two) = (boot(Release::Trixie), boot(Release::Trixie));
    one.put("/etc/only-one", "1", 0o644).unwrap();
    one.sh("rm /etc/hosts; ip link add veth-one type veth; mount -t tmpfs tmpfs /mnt")
        .unwrap()
        .ok()
        .unwrap();
    two.get("/etc/only-one").unwrap_err();
    two.get("/etc/hosts").unwrap();
    assert!(!two.sh("ip link show veth-one").unwrap().success());
    drop(one);
    let image = Image::ensure(Release::Trixie).unwrap();
    assert!(image.root().join("etc/hosts").exists() && !image.root().join("etc/only-one").exists());
    assert_healthy(&two, "systemd 257");
}

#[test]
fn a_failure_leaves_a_report() {
    if unavailable() {
        return;
    }
    let image = Image::ensure(Release::Trixie).unwrap();
    let name = format!("a failure of {}", std::process::id());
    let machine = Machine::boot(&image, &Options::new().name(&name)).unwrap();
    let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/echo from the unit\n";
    machine.put("/etc/systemd/system/opencode-sample.service", unit, 0o644).unwrap();
    machine.sh("systemctl start opencode-sample").unwrap().ok().unwrap();
    let failed = panic::catch_unwind(AssertUnwindSafe(move || {
        let _machine = machine;
        panic!("as a failing test does");
    }));
    assert!(failed.is_err());
    let dir = place::failures(&name);
    let report = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
    assert!(report("journal.txt").contains("from the unit"));
    assert!(report("units.txt").contains("ExecStart=/bin/echo from the unit"));
    assert!(report("status.txt").contains("opencode-sample.service"));
    assert!(dir.join("console.txt").exists());
    fs::remove_dir_all(dir).unwrap();
}
