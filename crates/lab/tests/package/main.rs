//! The Debian package in a fresh Debian 13, along the page about it: installed, upgraded, removed, installed again
//! and purged, with the real server.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy allows these in tests, but not in what tests share"
)]

mod page;
#[path = "../lifecycle/view.rs"]
#[expect(dead_code, reason = "the other tests look at more")]
mod view;

use instances_lab::{Agent, Image, Machine, Options, Release, fleet, lacking, place, stand_in};

use crate::page::Page;
use crate::view::{assert_healthy, engine, pid, property, sh};

/// What is somebody's work, with owners and modes.
const WORK: &str = "find /etc/opencode-instances/instances.toml /srv /var/lib/opencode/instance-auth \
                    /var/lib/opencode/instance-state/website/.local/share/opencode -xdev \\( -name '*.toml' -o -name 'kept' -o -name password -o -name opencode.db \\) \
                    -printf '%p %m %u %g\\n' | sort; cat /var/lib/opencode/instance-auth/*/password";
/// Every file that would run the program.
const UNITS: &str = "find /etc /run/systemd -name '*opencode*' ! -path /etc/opencode-instances";
const PAGE: &str = "docs/how-to/debian.md";
const REMEDY: &str = "run cargo xtask deb --lab";
const PROGRAM: &str = "/usr/bin/opencode-instances";

/// A machine with opencode, without the engine, and with two packages: the second one has another version and another
/// program, if only by a byte that nobody reads.
fn boot(name: &str, release: Release) -> Machine {
    let image = Image::ensure(release).unwrap();
    let options = Options::new().name(name).bind_ro(place::package(), "/root/first.deb");
    let machine = Machine::boot(&image, &options).unwrap();
    // The image leaves documents out.
    sh(
        &machine,
        "rm /etc/dpkg/dpkg.cfg.d/99mmdebstrap
         cd /root
         dpkg-deb --raw-extract first.deb tree
         sed -i 's/^Version: .*/Version: 0.1.0-2/' tree/DEBIAN/control
         printf x >>tree/usr/bin/opencode-instances
         (cd tree && md5sum usr/bin/* >DEBIAN/md5sums)
         dpkg-deb --root-owner-group -Zgzip --build tree opencode-instances_0.1.0-2_amd64.deb
         cp first.deb opencode-instances_0.1.0-1_amd64.deb
         ln -s /usr/bin/opencode /usr/local/bin/opencode",
    );
    machine
}

/// An instance of the stand-in, for what is about the package alone.
fn light() -> String {
    format!(
        "{}[instances.website]\ndirectory = \"/srv/website\"\nlisten.port = 4101\n\
         network.outbound.policy = \"none\"\n",
        stand_in::DEFAULTS
    )
}

/// What a process of the host executes, with what the kernel says where that is no file any more.
fn program_of(machine: &Machine, pid: u64) -> String {
    sh(machine, &format!("readlink /proc/{pid}/exe"))
}

#[test]
fn the_page_from_the_package_to_nothing() {
    if lacking(&place::package(), REMEDY) {
        return;
    }
    let machine = boot("package", Release::Trixie);
    let page = Page::read(PAGE);
    page.run(&machine, "install");
    it_holds_what_a_debian_person_looks_for(&machine);
    assert_eq!(sh(&machine, UNITS), "", "the package itself deploys something");
    sh(&machine, "test ! -e /etc/opencode-instances");

    page.run(&machine, "declare");
    let agent = Agent::connect(&machine, "website").unwrap();
    assert_eq!(agent.shell("touch kept && stat -c %U kept").unwrap().trim(), "opencode-website");
    let work = sh(&machine, WORK);
    assert!(work.contains("opencode.db") && work.contains("/srv/website/kept"), "{work}");

    // The program is replaced below servers that run.
    let servers = ["website", "billing"].map(|name| pid(&machine, name));
    let said = page.run(&machine, "upgrade");
    assert!(said.contains("nothing was started or restarted"), "{said}");
    assert_eq!(["website", "billing"].map(|name| pid(&machine, name)), servers);
    assert_eq!(program_of(&machine, servers[0]), format!("{PROGRAM} (deleted)"));
    assert_eq!(agent.shell("echo goes on").unwrap().trim(), "goes on");
    // And it runs once somebody asks for it.
    page.run(&machine, "finish");
    for name in ["website", "billing"] {
        assert_healthy(&machine, name);
        assert_eq!(program_of(&machine, pid(&machine, name)), PROGRAM);
    }
    let again = engine(&machine, "apply");
    assert!(again.success() && again.stderr.trim() == "nothing to do", "{again}");

    let sessions = sessions_of_website(&machine);
    page.run(&machine, "back");
    let first = sh(&machine, "dpkg-deb --field /root/first.deb Version");
    assert_eq!(sh(&machine, "dpkg-query -f '${Version}' -W opencode-instances"), first);
    assert_eq!(sh(&machine, "dpkg --verify opencode-instances"), "");
    for name in ["website", "billing"] {
        assert_healthy(&machine, name);
        assert_eq!(program_of(&machine, pid(&machine, name)), PROGRAM);
    }
    assert_eq!(sh(&machine, WORK), work);
    assert_eq!(sessions_of_website(&machine), sessions);

    page.run(&machine, "remove");
    assert_eq!(sh(&machine, UNITS), "");
    assert_eq!(sh(&machine, "pgrep -x 'opencode(-.*)?' || true; ip netns list"), "");
    assert_eq!(sh(&machine, WORK), work, "removal touched somebody's work");
    assert_eq!(sh(&machine, "getent passwd opencode-website opencode-billing | wc -l"), "2");

    let said = page.run(&machine, "again");
    assert!(said.contains("run `opencode-instances apply`"), "{said}");
    for name in ["website", "billing"] {
        assert_healthy(&machine, name);
    }
    assert_eq!(sh(&machine, WORK), work);
    let agent = Agent::connect(&machine, "website").unwrap();
    let sessions = agent.get("session").unwrap();
    assert!(sessions.as_array().unwrap().len() >= 2, "the old session is gone: {sessions}");

    page.run(&machine, "purge");
    assert_eq!(sh(&machine, UNITS), "");
    let left = "find / -xdev -path /proc -prune -o -path /root -prune -o -name '*opencode*' -print";
    let left = sh(&machine, &format!("{left} | sort"));
    assert_eq!(left, "/usr/bin/opencode\n/usr/local/bin/opencode");
    assert_eq!(sh(&machine, "ls /srv/website"), "kept");
}

/// The sessions that the server has in its database.
fn sessions_of_website(machine: &Machine) -> Vec<String> {
    let url = view::url(machine, "website");
    let list =
        sh(machine, &format!("curl --silent --fail --globoff '{url}/session' | jq -r .[].id"));
    let mut sessions: Vec<String> = list.lines().map(str::to_owned).collect();
    assert!(!sessions.is_empty());
    sessions.sort();
    sessions
}

fn it_holds_what_a_debian_person_looks_for(machine: &Machine) {
    assert_eq!(sh(machine, "dpkg --verify opencode-instances"), "");
    let files = sh(machine, "dpkg --listfiles opencode-instances");
    for file in [
        PROGRAM,
        "/usr/share/man/man1/opencode-instances.1.gz",
        "/usr/share/bash-completion/completions/opencode-instances",
        "/usr/share/fish/vendor_completions.d/opencode-instances.fish",
        "/usr/share/zsh/vendor-completions/_opencode-instances",
        "/usr/share/doc/opencode-instances/copyright",
        "/usr/share/doc/opencode-instances/changelog.Debian.gz",
        "/usr/share/doc/opencode-instances/docs/how-to/debian.md",
        "/usr/share/doc/opencode-instances/examples/two-projects.toml",
    ] {
        assert!(files.lines().any(|line| line == file), "{file} is not in the package:\n{files}");
    }
    assert!(!files.contains("/etc/"), "{files}");
    assert_eq!(sh(machine, "dpkg-query -f '${Conffiles}' -W opencode-instances"), "");
    let page = sh(machine, "zcat /usr/share/man/man1/opencode-instances.1.gz");
    assert_eq!(page, sh(machine, "opencode-instances man"));
    let completes = "bash -c '. /usr/share/bash-completion/completions/opencode-instances && complete -p opencode-instances'";
    assert!(sh(machine, completes).contains("-F _opencode"), "no completion");
}

/// A host on which another copy of the program runs the instances loses none of them with the package. Debian 12.
#[test]
fn instances_of_another_copy_survive_the_package() {
    if lacking(&place::package(), REMEDY) {
        return;
    }
    let machine = boot("package-other", Release::Bookworm);
    stand_in::put(&machine).unwrap();
    let other = "/usr/local/bin/opencode-instances";
    machine.put(fleet::SPEC, light(), 0o644).unwrap();
    let install = "mkdir -p /srv/website; dpkg -i /root/first.deb";
    // Its own instances go with it.
    sh(&machine, &format!("{install}; {PROGRAM} apply; apt-get purge --yes opencode-instances"));
    assert_eq!(sh(&machine, UNITS), "");
    sh(&machine, &format!("{install}; cp {PROGRAM} {other}; {other} apply"));
    // A unit of somebody's own with a name like ours says nothing about the instances.
    let own = "[Service]\nExecStart=/usr/bin/opencode-instances backup website /root/x\n";
    machine.put("/etc/systemd/system/opencode-backup.service", own, 0o644).unwrap();
    assert!(sh(&machine, "dpkg-reconfigure opencode-instances 2>&1").contains("remove it, and"));
    let server = pid(&machine, "website");
    sh(&machine, "apt-get purge --yes opencode-instances");
    assert_eq!(pid(&machine, "website"), server);
    assert_eq!(property(&machine, "opencode-website.service", "ActiveState"), "active");
    sh(&machine, &format!("test ! -e {PROGRAM}; {other} restart website; {other} remove"));
}

/// A package whose instances cannot be taken away stays, and says so.
#[test]
fn a_removal_that_cannot_stop_instances_is_refused() {
    if lacking(&place::package(), REMEDY) {
        return;
    }
    let machine = boot("package-refused", Release::Trixie);
    stand_in::put(&machine).unwrap();
    machine.put(fleet::SPEC, light(), 0o644).unwrap();
    sh(&machine, "mkdir -p /srv/website; dpkg -i /root/first.deb; opencode-instances apply");
    let server = pid(&machine, "website");
    // Another apply is at work, for as long as this holds its lock.
    fleet::hold(&machine, "holder", "/run/opencode-instances/.lock").unwrap();
    let refused =
        machine.run_for(fleet::PATIENCE, ["dpkg", "--remove", "opencode-instances"]).unwrap();
    assert!(!refused.success(), "{refused}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("instances may be stopped; `opencode-instances apply`"), "{said}");
    assert_eq!(pid(&machine, "website"), server);
    sh(&machine, "systemctl stop holder");
    sh(&machine, "dpkg --remove opencode-instances");
    assert_eq!(sh(&machine, UNITS), "");
}
