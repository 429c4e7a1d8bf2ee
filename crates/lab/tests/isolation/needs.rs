//! What must work inside: a sandbox that breaks the agent's tools is switched off.

use anyhow::Result;
use instances_lab::fleet::{BEGIN, PATIENCE};

use crate::stage::Stage;

/// Each need with a script, and what the script must print.
const NEEDS: &[(&str, &str, &str)] = &[
    ("bash with its own features", "bash -c 'a=(1 2); echo \"${a[@]} $((6 * 7))\"'", "1 2 42"),
    ("a name for the user", "id -un; id -gn", "opencode-website\nopencode-website"),
    (
        "the same name by another way, and a shell that runs",
        "whoami; getent passwd $(whoami) | cut -d: -f7; printenv SHELL; $SHELL -c 'echo ran $((6 * 7))'",
        "opencode-website\n/bin/bash\n/bin/bash\nran 42",
    ),
    ("a home", "test \"$(getent passwd $(id -u) | cut -d: -f6)\" = $HOME && echo same", "same"),
    ("git in the own project", "cd /srv/website && git status --short | grep -c work", "1"),
    (
        "git in root's repository",
        "git -C /srv/website/rooted status | head -n 1",
        "On branch master",
    ),
    (
        "a commit in root's repository that all may write",
        "cd /srv/website/shared && echo x >new && git add new && git -c user.name=a -c user.email=a@b commit -q -m mine && git log --format=%s && git status --short | wc -l",
        "mine\n0",
    ),
    (
        "a worktree and a clone of it",
        "git clone -q /srv/website/shared ~/clone && git -C ~/clone worktree add -q ~/tree && ls ~/tree; rm -r ~/clone ~/tree",
        "new",
    ),
    (
        "a commit",
        "mkdir -p ~/r && cd ~/r && git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --oneline | wc -l",
        "1",
    ),
    ("writing the project", "cd /srv/website && touch own && rm own && echo ok", "ok"),
    (
        "running a file of the project",
        "cd /srv/website/work && printf '#!/bin/sh\\necho ran' >run-me && chmod +x run-me && ./run-me",
        "ran",
    ),
    ("writing the home", "touch ~/own && rm ~/own && echo ok", "ok"),
    (
        "packages as pip installs them",
        "d=$(python3 -m site --user-site) && mkdir -p $d && echo 'x = 11' >$d/mine.py && python3 -c 'import mine; print(mine.x)'; rm -r $d",
        "11",
    ),
    (
        "packages as npm installs them",
        "mkdir -p ~/.npm-global/lib ~/.npm-global/bin ~/.npm/_cacache && cd ~/.npm-global && printf '#!/bin/sh\\necho tool\\n' >lib/.tmp && chmod +x lib/.tmp && ln lib/.tmp ~/.npm/_cacache/tool && mv lib/.tmp lib/tool && ln -s ../lib/tool bin/tool && PATH=$PWD/bin:$PATH tool; rm -r ~/.npm-global ~/.npm",
        "tool",
    ),
    (
        "temporary files that run",
        "for d in /tmp /var/tmp /dev/shm; do printf '#!/bin/sh\\necho ran $0\\n' >$d/own && chmod +x $d/own && $d/own; rm $d/own; done",
        "ran /tmp/own\nran /var/tmp/own\nran /dev/shm/own",
    ),
    ("temporary places of its own", "ls -A /dev/shm /tmp | grep canary || echo none", "none"),
    ("temporary files", "f=$(mktemp) && g=$(mktemp -p /var/tmp) && rm $f $g && echo ok", "ok"),
    ("shared memory", "echo x >/dev/shm/own && rm /dev/shm/own && echo ok", "ok"),
    ("semaphores", "python3 -c 'import multiprocessing as m; m.Semaphore(); print(1)'", "1"),
    (
        "processes that share a queue and memory",
        "cat >/tmp/m.py <<'END'
import multiprocessing as m
from multiprocessing import shared_memory as s
def work(q, name):
    b = s.SharedMemory(name=name); q.put(bytes(b.buf[:5])); b.close()
if __name__ == '__main__':
    b = s.SharedMemory(create=True, size=64); b.buf[:5] = b'there'
    q = m.Queue(); p = m.Process(target=work, args=(q, b.name)); p.start()
    print(q.get(timeout=9)); p.join(); b.close(); b.unlink()
END
python3 /tmp/m.py; rm /tmp/m.py",
        "b'there'",
    ),
    ("ripgrep", "rg --files-with-matches the-need ~ ; echo the-need >~/n; rg -l the-need ~", "/n"),
    (
        "python with threads",
        "python3 -c 'import threading as t; x = t.Thread(target=print, args=(5,)); x.start(); x.join()'",
        "5",
    ),
    (
        "the own loopback",
        "python3 -m http.server 8099 --bind 127.0.0.1 --directory /srv/website >/dev/null 2>&1 & curl -s --retry 30 --retry-connrefused --retry-delay 1 -o /dev/null -w '%{http_code}' http://localhost:8099/; kill $!",
        "200",
    ),
    (
        "the own loopback over IPv6",
        "python3 -m http.server 8098 --bind ::1 >/dev/null 2>&1 & curl -s --retry 30 --retry-connrefused --retry-delay 1 -o /dev/null -w '%{http_code}' 'http://[::1]:8098/'; kill $!",
        "200",
    ),
    (
        "the own server",
        "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:4096/config",
        "401",
    ),
    (
        "unix sockets",
        "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"/tmp/s\"); s.listen(); print(2)'; rm /tmp/s",
        "2",
    ),
    (
        "pipes and jobs",
        "sleep 30 & kill %1; seq 3 | paste -sd+ | python3 -c 'print(eval(input()))'",
        "6",
    ),
    ("a terminal", "script -qec 'tty' /dev/null", "/dev/pts/"),
    ("only the own processes", "ps -eo user:32= | sort -u", "opencode-website\n"),
    (
        "names of the own host",
        "getent --no-addrconfig ahosts localhost | cut -d' ' -f1 | sort -u | paste -sd' '; python3 -c 'import socket; print(socket.gethostbyname(\"localhost\"))'",
        "127.0.0.1 ::1\n127.0.0.1",
    ),
    (
        "certificates for Python",
        "python3 -c 'import ssl; print(ssl.create_default_context().cert_store_stats()[\"x509_ca\"] > 9)'",
        "True",
    ),
    (
        "certificates for OpenSSL and for everything that reads the bundle",
        "openssl verify -CApath /etc/ssl/certs /etc/ssl/certs/ISRG_Root_X1.pem && openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ISRG_Root_X1.pem",
        "X1.pem: OK\n/etc/ssl/certs/ISRG_Root_X1.pem: OK",
    ),
    (
        "a certificate that nobody signed is refused",
        "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
openssl s_server -quiet -accept 8097 -key k.pem -cert c.pem -www >/dev/null 2>&1 &
curl -s --retry 30 --retry-connrefused --retry-delay 1 -o /dev/null https://localhost:8097/; echo $?; curl -s -o /dev/null --cacert c.pem https://localhost:8097/; echo $?; kill %1; rm k.pem c.pem",
        "60\n0",
    ),
    ("a language of UTF-8", "locale charmap 2>&1; locale 2>&1 | grep -c Cannot", "UTF-8\n0"),
    ("perl without complaints", "perl -e 'print qq(quiet\\n)' 2>&1", "quiet\n"),
    (
        "letters beyond ASCII",
        "cd ~ && python3 -c 'print(\"Grüße, 世界\")' | cat && touch Grüße && ls | grep ü; rm Grüße; python3 -c 'import sys; print(sys.stdout.encoding, sys.getfilesystemencoding())'; printf 'ü' | wc -m",
        "Grüße, 世界\nGrüße\nutf-8 utf-8\n1",
    ),
    ("certificates", "ls /etc/ssl/certs | grep -c . | grep -qv '^0$' && echo ok", "ok"),
    ("time zones", "TZ=Europe/Berlin date +%Z | grep -c CES*T", "1"),
    ("processors are counted", "test $(nproc) -ge 1 && echo ok", "ok"),
    (
        "archives",
        "cd /tmp && tar -cJf a.tar.xz /etc/hosts 2>/dev/null && tar -tf a.tar.xz; rm a.tar.xz",
        "etc/hosts",
    ),
    (
        "a database",
        "sqlite3 ~/d.db 'pragma journal_mode=wal; create table if not exists t(x); select 7'",
        "7",
    ),
    ("file locks", "flock /tmp/l true && echo ok", "ok"),
];

/// The needs that are not met, each with what was printed instead.
pub(crate) fn unmet(stage: &Stage) -> Result<Vec<String>> {
    let mut script = String::new();
    for (number, (_, need, _)) in NEEDS.iter().enumerate() {
        script.push_str(&format!("echo '@@{number}'; (\n{need}\n) 2>&1\n"));
    }
    let said = stage.agent_runs(&script)?;
    let mut parts = said.split("@@").skip(1);
    let mut unmet = Vec::new();
    for (name, _, expected) in NEEDS {
        let output = parts.next().and_then(|part| part.split_once('\n')).map_or("", |(_, out)| out);
        if !output.contains(expected) {
            unmet.push(format!("- {name}: {output:?} instead of {expected:?}"));
        }
    }
    Ok(unmet)
}

/// How a host says which time zone it is in: by a link, a link to that, or the file itself.
const ZONES: &[&str] = &[
    "ln -sfn /usr/share/zoneinfo/Asia/Kathmandu /etc/localtime",
    "ln -sfn ../usr/share/zoneinfo/America/St_Johns /etc/zone; ln -sfn zone /etc/localtime",
    "rm /etc/localtime; cp /usr/share/zoneinfo/Australia/Eucla /etc/localtime",
];

/// The time zones of the host that the agent's tools do not have after the server's next start.
pub(crate) fn other_zones(stage: &Stage) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let utc = stage.machine.sh("date -u +'%Z %z'")?.ok()?;
    for zone in ZONES {
        // So many starts in a minute are more than the unit allows.
        let restart =
            "systemctl reset-failed opencode-website; begin opencode-website; date +'%Z %z'";
        let script = format!("{BEGIN} {zone}; {restart}");
        let expected = stage.machine.run_for(PATIENCE, ["sh", "-euc", &script])?.ok()?;
        let said = stage.agent_runs(
            "date +'%Z %z'; python3 -c 'import time; print(time.strftime(\"%Z %z\"))'",
        )?;
        if expected == utc || said != expected.repeat(2) {
            wrong.push(format!("- {zone}: {said:?} instead of {expected:?}"));
        }
    }
    stage
        .machine
        .sh("rm /etc/localtime; ln -s /usr/share/zoneinfo/Etc/UTC /etc/localtime")?
        .ok()?;
    Ok(wrong)
}
