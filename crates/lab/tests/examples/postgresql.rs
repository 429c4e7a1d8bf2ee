//! `postgresql.toml` and `postgresql.sql`, with the database as Debian packages it.

use instances_lab::{Agent, unavailable};

use crate::view::{SOON, done, pid, sh};
use crate::{boot, example, reached, reached_by_host};

const SOCKET: &str = "/run/postgresql/.s.PGSQL.5432";
/// What the role of an instance does not get: another role, another database, the server's own files and programs.
const REFUSED: &[(&str, &str)] = &[
    ("psql -U postgres -Atc 'select 1' 2>&1", "Peer authentication failed"),
    ("psql -h 127.0.0.1 -Atc 'select 1' 2>&1", "Connection refused"),
    ("psql postgres -Atc 'select 1' 2>&1", "pg_hba.conf rejects connection"),
    ("psql of_others -Atc 'select 1' 2>&1", "pg_hba.conf rejects connection"),
    ("psql -Atc \"copy (select 1) to program 'touch /tmp/out'\" 2>&1", "permission denied to COPY"),
    ("psql -Atc \"select pg_read_file('/etc/passwd')\" 2>&1", "permission denied for function"),
];

#[test]
fn an_agent_has_a_database_and_its_neighbour_has_no_way_to_it() {
    if unavailable() {
        return;
    }
    let machine = boot("postgresql", &["/srv/website", "/srv/billing"]);
    machine.put("/tmp/postgresql.sql", example("postgresql.sql"), 0o644).unwrap();
    // The lines for pg_hba.conf are those of the comment.
    sh(
        &machine,
        "pg_createcluster 17 main >/dev/null; cd /; hba=/etc/postgresql/17/main/pg_hba.conf
         sed -n 's/^-- *\\(local .*\\)$/\\1/p' /tmp/postgresql.sql >/tmp/lines; test $(wc -l </tmp/lines) = 2
         cat /tmp/lines $hba >/tmp/hba; cp /tmp/hba $hba; systemctl start postgresql@17-main
         sudo -u postgres createdb of_others
         sudo -u postgres psql --quiet --set ON_ERROR_STOP=1 --file /tmp/postgresql.sql",
    );
    done(&machine, "apply");
    let website = Agent::connect(&machine, "website").unwrap();
    let ask =
        "psql -Atc 'create table if not exists t(); select current_user, current_database()' 2>&1";
    let said = website.shell(ask).unwrap();
    assert!(said.trim_end().ends_with("opencode-website|website"), "{said}");
    for (attack, refusal) in REFUSED {
        let said = website.shell(attack).unwrap();
        assert!(said.contains(refusal), "{attack}: {said}");
    }

    // It is there for everybody on the host, and in no other sandbox.
    assert_eq!(reached_by_host(&machine, SOCKET), "connected");
    let billing = Agent::connect(&machine, "billing").unwrap();
    assert_eq!(reached(&billing, SOCKET), "ENOENT");
    let sockets = "find / -path /proc -prune -o -type s -name '*PGSQL*' -print 2>/dev/null";
    assert_eq!(billing.shell(sockets).unwrap().trim(), "");

    // It follows a restart, below a server that goes on.
    let server = pid(&machine, "website");
    sh(&machine, "systemctl restart postgresql@17-main");
    machine
        .wait_until("the database is back", SOON, |_| Ok(website.shell(ask)?.contains("|website")))
        .unwrap();
    assert_eq!(pid(&machine, "website"), server);
}
