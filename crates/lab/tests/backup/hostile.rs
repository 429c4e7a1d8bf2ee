//! A tree that an agent has laid out for who copies it, and a host without room.

use instances_lab::Machine;

use crate::view::{apply, assert_healthy, done, sh, status};
use crate::{STATES, WEB, beside, own, refused, with_stand_in};

#[test]
fn no_tree_and_no_lack_of_room_does_harm() {
    let more = "[instances.other]\ndirectory = \"/srv/other\"\nlisten.port = 4102\n\
                stateDir = \"/srv/small/state\"\nautoStart = false\n";
    let Some(machine) = with_stand_in("backup-hostile", "") else { return };
    let machine = &machine;
    a_tree_of_traps(machine);
    archives_of_traps(machine);
    states_that_are_no_directory(machine);
    sh(machine, "mkdir /srv/small; mount -t tmpfs -o size=64M,mode=0755 tmpfs /srv/small");
    let spec = format!("{}{WEB}{more}", instances_lab::stand_in::DEFAULTS);
    apply(machine, &spec);
    no_room(machine);
    a_mount_point(machine);
}

fn a_tree_of_traps(machine: &Machine) {
    own(
        machine,
        "mkfifo fifo; ln -s /etc/shadow shadow; ln -s / root; mkdir dir; \
         ln -s /etc dir/etc; truncate -s 1T endless; \
         printf x >\"$(printf 'new\\nline\\033[31m')\"; ln kept dir/kept; \
         python3 -c 'import os\nfor _ in range(3000): os.mkdir(\"d\"); os.chdir(\"d\")'",
    );
    sh(
        machine,
        &format!(
            "cd {STATES}/web; mknod null c 1 3; chown opencode-web: null; cp /etc/shadow theirs; chmod 600 theirs; \
             mkdir theirs.d; cp /etc/shadow theirs.d/; mkdir mounted; \
             mount -t tmpfs -o uid=opencode-web,mode=0700 tmpfs mounted"
        ),
    );
    let said = done(machine, "backup web /root/traps");
    for line in [
        "left out: endless: it has more than 1 GiB of holes",
        "left out: fifo: a FIFO",
        "left out: null: a device",
        "left out: theirs: it belongs to another user",
        "left out: theirs.d: it belongs to another user",
        "left out: mounted: it is on another file system",
        "d: it is too deep in the tree",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let names =
        "zstd -dc /root/traps | tar -t | grep -v '/d/d' | grep -v '\\.local\\|\\.config' | sort";
    let found = sh(machine, names);
    assert!(found.contains("state/dir/kept") && found.contains("state/shadow"), "{found}");
    let secrets = "zstd -dc /root/traps | grep -c -a -e \"$(grep ^root /etc/shadow | cut -d: -f1,2):\" || true";
    assert_eq!(sh(machine, secrets), "0");
    sh(machine, &format!("umount {STATES}/web/mounted"));
    let dry = sh(machine, "opencode-instances backup web --dry-run --json");
    assert!(dry.contains("\"why\": \"fifo\""), "{dry}");
    assert_healthy(machine, "web");
    assert_eq!(beside(machine), "web");
    // Back again: nothing of it leads out.
    done(machine, "stop web");
    done(machine, "restore web /root/traps");
    let kinds = format!("cd {STATES}/web; stat -c '%F %U' kept dir shadow");
    assert_eq!(
        sh(machine, &kinds),
        "regular file opencode-web\ndirectory opencode-web\nsymbolic link opencode-web"
    );
    sh(
        machine,
        &format!("! find {STATES}/web -type p -o -type b -o -type c -o -perm /6000 | grep ."),
    );
    done(machine, "restore web --forget");
    assert_eq!(beside(machine), "web", "a tree of thousands of levels stays");
}

/// What other programs make of an archive is refused before anything has changed.
fn archives_of_traps(machine: &Machine) {
    let view = format!("find {STATES}/web -printf '%p %y %m %u %s %T@ %C@ %l\\n' | sha256sum");
    let before = sh(machine, &view);
    let make = "cd /root; rm -rf x; mkdir x; zstd -dc traps >x.tar; ";
    let traps = [
        ("tar -C / -rf x.tar etc/shadow", "something follows its end"),
        ("tar -P -rf x.tar /etc/passwd", "something follows its end"),
        ("tar --delete -f x.tar state/kept", "is not what the manifest says"),
        ("mknod x/dev c 1 3; tar -rf x.tar x/dev", "something follows its end"),
        ("truncate -s -600 x.tar", "too early"),
        ("echo >>x.tar", "something follows its end"),
        ("sed -i '0,/\"instance\":\"web\"/s//\"instance\":\"wob\"/' x.tar", "--from-other wob"),
    ];
    for (trap, words) in traps {
        sh(machine, &format!("{make} {trap}; zstd -q -f x.tar -o trap"));
        let said = refused(machine, "restore web /root/trap");
        assert!(said.contains(words), "{trap}: {said}");
        let said = refused(machine, "restore web /root/trap --dry-run");
        assert!(said.contains(words), "{trap}: {said}");
    }
    assert_eq!(sh(machine, &view), before);
    assert_eq!(beside(machine), "web");
    done(machine, "start web");
}

/// A directory above it that is not root's, a file in its place, one for the archive where the agent writes.
fn states_that_are_no_directory(machine: &Machine) {
    let said = refused(machine, &format!("backup web {STATES}/web/file"));
    assert!(said.contains("where the agent can write"), "{said}");
    let said = refused(machine, "backup web /srv/web/file");
    assert!(said.contains("where the agent can write"), "{said}");
    sh(machine, &format!("chmod o+w {STATES}"));
    let said = refused(machine, "backup web /root/none");
    sh(machine, &format!("chmod o-w {STATES}; test ! -e /root/none"));
    assert!(said.contains("can be written by others"), "{said}");
    let output = machine.run(["setpriv", "--reuid=1", "opencode-instances", "backup", "web", "/x"]);
    let output = output.unwrap();
    assert!(output.stderr.contains("only root"), "{output}");
}

fn no_room(machine: &Machine) {
    done(machine, "start other");
    sh(
        machine,
        "cd /srv/small/state; dd if=/dev/urandom of=big bs=1M count=12 status=none; chown opencode-other: big",
    );
    done(machine, "backup other /root/small");
    sh(
        machine,
        "cd /srv/small/state; dd if=/dev/urandom of=more bs=1M count=24 status=none; chown opencode-other: more",
    );
    let said = refused(machine, "backup other /root/none");
    assert!(said.contains("MiB are needed"), "{said}");
    assert_eq!(sh(machine, "ls -A /srv/small; ls /root/none 2>&1 | wc -l"), "state\n1");
    assert_eq!(status(machine, "other")["state"], "running");
    // None for the archive.
    sh(machine, "mkdir /srv/tiny; mount -t tmpfs -o size=1M,mode=0755 tmpfs /srv/tiny");
    sh(machine, "rm /srv/small/state/more");
    let said = refused(machine, "backup other /srv/tiny/archive");
    assert!(said.contains("without a reserve for the host"), "{said}");
    assert_eq!(sh(machine, "ls -A /srv/tiny /srv/small"), "/srv/small:\nstate\n\n/srv/tiny:");
    // For the copies, but not for an archive beside them: the others' files keep what is left to them.
    sh(machine, "dd if=/dev/zero of=/srv/small/full bs=1M count=30 status=none");
    let said = refused(machine, "backup other /srv/small/archive");
    assert!(said.contains("without a reserve for the host"), "{said}");
    assert_eq!(sh(machine, "ls -A /srv/small"), "full\nstate");
    sh(machine, "rm /srv/small/full");
    // Two at once into one file.
    let held = "touch /root/.held.opencode-new; flock /root/.held.opencode-new \
                opencode-instances backup other /root/held 2>&1 || echo refused";
    let said = sh(machine, held);
    assert!(said.contains("another backup is being written to /root/held"), "{said}");
    assert!(said.ends_with("refused"), "{said}");
    done(machine, "backup other /root/held");
    assert_eq!(sh(machine, "ls -A /root | grep -c opencode-new || true"), "0");
    // None for what is restored.
    done(machine, "stop other");
    sh(machine, "dd if=/dev/zero of=/srv/small/full bs=1M count=45 status=none");
    let said = refused(machine, "restore other /root/small");
    assert!(said.contains("MiB are needed"), "{said}");
    assert_eq!(sh(machine, "ls -A /srv/small"), "full\nstate");
    sh(machine, "rm /srv/small/full");
    done(machine, "restore other /root/small");
}

/// A rename cannot lead over one.
fn a_mount_point(machine: &Machine) {
    sh(machine, "mount -t tmpfs -o size=32M,mode=0700 tmpfs /srv/small/state");
    sh(machine, "chown opencode-other: /srv/small/state");
    let said = refused(machine, "restore other /root/small");
    assert!(said.contains("is a mount point"), "{said}");
    sh(machine, "umount /srv/small/state");
}
