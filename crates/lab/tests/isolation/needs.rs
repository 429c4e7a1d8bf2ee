//! What must work inside: a sandbox that breaks the agent's tools is switched off.

use anyhow::Result;

use crate::stage::Stage;

/// Each need with a script, and what the script must print.
const NEEDS: &[(&str, &str, &str)] = &[
    ("bash with its own features", "bash -c 'a=(1 2); echo \"${a[@]} $((6 * 7))\"'", "1 2 42"),
    ("a name for the user", "id -un; id -gn", "opencode-website\nopencode-website"),
    ("a home", "test \"$(getent passwd $(id -u) | cut -d: -f6)\" = $HOME && echo same", "same"),
    ("git in the own project", "cd /srv/website && git status --short | grep -c work", "1"),
    (
        "git in root's repository",
        "git -C /srv/website/rooted status | head -n 1",
        "On branch master",
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
    ("temporary files", "f=$(mktemp) && g=$(mktemp -p /var/tmp) && rm $f $g && echo ok", "ok"),
    ("shared memory", "echo x >/dev/shm/own && rm /dev/shm/own && echo ok", "ok"),
    ("semaphores", "python3 -c 'import multiprocessing as m; m.Semaphore(); print(1)'", "1"),
    ("ripgrep", "rg --files-with-matches the-need ~ ; echo the-need >~/n; rg -l the-need ~", "/n"),
    (
        "python with threads",
        "python3 -c 'import threading as t; x = t.Thread(target=print, args=(5,)); x.start(); x.join()'",
        "5",
    ),
    (
        "the own loopback",
        "python3 -m http.server 8099 --bind 127.0.0.1 --directory /srv/website >/dev/null 2>&1 & sleep 1; curl -s -o /dev/null -w '%{http_code}' http://localhost:8099/; kill $!",
        "200",
    ),
    (
        "the own loopback over IPv6",
        "python3 -m http.server 8098 --bind ::1 >/dev/null 2>&1 & sleep 1; curl -s -o /dev/null -w '%{http_code}' 'http://[::1]:8098/'; kill $!",
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
