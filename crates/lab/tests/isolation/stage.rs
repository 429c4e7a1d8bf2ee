//! The machine on which the attacks run.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use instances_lab::fleet::BEGIN;
use instances_lab::{Agent, Machine, fleet, nixos};

use crate::catalogue::{Attack, Weak};

const PREPARE: &str = include_str!("prepare.sh");
const PREPARE_NIXOS: &str = include_str!("prepare-nixos.sh");
const RUN: &str = include_str!("run.sh");
const PROBE: &str = include_str!("probe.py");
/// Attacks and their results, in the project.
const WORK: &str = "/srv/website/work";
/// So many end well before the lab gives up waiting for one answer.
const AT_ONCE: usize = 60;

/// Two real servers, and canaries in every place that the agent must not see.
pub(crate) struct Stage {
    pub(crate) machine: Machine,
}

/// What became of an attack.
pub(crate) struct Outcome {
    name: String,
    proof: &'static str,
    output: String,
    /// Whether it has succeeded.
    pub(crate) breach: bool,
}

impl Outcome {
    /// Whether it had to be ended.
    pub(crate) fn late(&self) -> bool {
        self.output.ends_with("status 137")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "- {} ({}): {}", self.name, self.proof, self.output.replace('\n', " | "))
    }
}

impl Stage {
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::of(fleet::two_projects(name)?)
    }

    /// The same with servers that run from a store, as on NixOS.
    pub(crate) fn on_nixos(name: &str) -> Result<Self> {
        let stage = Self::of(nixos::fleet(name, 1)?)?;
        stage.machine.sh(PREPARE_NIXOS)?.ok()?;
        Ok(stage)
    }

    fn of(machine: Machine) -> Result<Self> {
        machine.sh(PREPARE)?.ok()?;
        machine.put(format!("{WORK}/run"), RUN, 0o644)?;
        machine.put(format!("{WORK}/probe.py"), PROBE, 0o644)?;
        Ok(Self { machine })
    }

    /// Runs attacks where the agent's tools run.
    pub(crate) fn by_agent(
        &self,
        attacks: &[(String, &'static Attack)],
        port: Option<u16>,
    ) -> Result<Vec<Outcome>> {
        let url = self.machine.run(["opencode-instances", "url", "website"])?.ok()?;
        let url = match port {
            Some(port) => url.replace(":4101", &format!(":{port}")),
            None => url,
        };
        let agent = Agent::at(&self.machine, url.trim())?;
        self.run(attacks, |script| agent.shell(script))
    }

    /// Runs attacks as root outside every sandbox.
    pub(crate) fn as_root(&self, attacks: &[(String, &'static Attack)]) -> Result<Vec<Outcome>> {
        self.run(attacks, |script| self.machine.sh(script)?.ok())
    }

    /// Runs a script with the agent's shell. From a file: the server itself expands what it is
    /// given once before the shell does.
    pub(crate) fn agent_runs(&self, script: &str) -> Result<String> {
        self.machine.put(format!("{WORK}/script"), script, 0o644)?;
        Agent::connect(&self.machine, "website")?.shell(&format!("bash {WORK}/script"))
    }

    fn run(
        &self,
        attacks: &[(String, &'static Attack)],
        shell: impl Fn(&str) -> Result<String>,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for part in attacks.chunks(AT_ONCE) {
            let mut scripts = String::new();
            for (number, (_, attack)) in part.iter().enumerate() {
                scripts.push_str(&format!(
                    "cat >{WORK}/attacks/{number} <<'END OF SCRIPT'\n{}\nEND OF SCRIPT\n",
                    attack.command
                ));
            }
            self.machine.sh(&scripts)?.ok()?;
            let numbers: Vec<String> = (0..part.len()).map(|number| number.to_string()).collect();
            let said = shell(&format!("sh {WORK}/run {}", numbers.join(" ")))?;
            ensure!(said.trim().ends_with("complete"), "the attacks were cut short: {said}");
            for (number, (name, attack)) in part.iter().enumerate() {
                let output = self.machine.sh(&format!("head -c 3000 {WORK}/out/{number}"))?.ok()?;
                let output = output.trim().to_owned();
                let breach = output.contains(attack.proof);
                outcomes.push(Outcome { name: name.clone(), proof: attack.proof, output, breach });
            }
        }
        self.ask_the_manager(&mut outcomes)?;
        Ok(outcomes)
    }

    /// Some attacks are after the manager's opinion, which only the manager can tell.
    fn ask_the_manager(&self, outcomes: &mut [Outcome]) -> Result<()> {
        let status = self.show("StatusText")?;
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.name.contains("claim another"))
        {
            outcome.output.clone_from(&status);
            outcome.breach = status.contains(outcome.proof);
        }
        Ok(())
    }

    fn show(&self, properties: &str) -> Result<String> {
        let property = format!("--property={properties}");
        self.machine.run(["systemctl", "show", "opencode-website", &property])?.ok()
    }

    /// What no attack may change.
    pub(crate) fn state(&self) -> Result<String> {
        self.show("MainPID,NRestarts,ActiveState,SubState,Result,StatusText,StatusErrno")
    }

    /// Takes defences away from the real unit.
    pub(crate) fn weaken(&self, weak: Weak) -> Result<()> {
        let text = format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{}", weak.assignments());
        self.machine.put(
            "/etc/systemd/system/opencode-website.service.d/weak.conf",
            text,
            0o644,
        )?;
        let script = format!("{BEGIN} systemctl daemon-reload; begin opencode-website");
        self.machine
            .run_for(fleet::PATIENCE, ["sh", "-euc", &script])?
            .ok()
            .with_context(|| format!("the server does not run without {weak:?}"))?;
        Ok(())
    }

    /// The confined units still do their work: policy, namespace and server go and come in order,
    /// and nobody is killed for it.
    pub(crate) fn units_obey(&self) -> Result<()> {
        let script = format!(
            "{BEGIN} systemctl reload opencode-net@website; systemctl restart opencode-net@website; \
             begin opencode-website; systemctl is-active opencode-net@website opencode-website; \
             systemctl stop opencode-net@website; ! test -e /run/netns/opencode-website; \
             ! systemctl is-failed 'opencode*'; begin opencode-website"
        );
        self.machine.run_for(fleet::PATIENCE, ["sh", "-euc", &script])?.ok()?;
        // What failed to start says why in a line of its own; a start that systemd lost is begun anew.
        let bad = "journalctl --no-pager -o cat -u opencode-website -u opencode-net@website \
             | grep -v -e ^timestamp= -e \"result 'protocol'\" -e 'Failed to start' \
             | grep -E 'Failed|Killing|exit-code|timed out' || true";
        let bad = self.machine.sh(bad)?.ok()?;
        ensure!(bad.is_empty(), "the units had trouble: {bad}");
        let root = "curl -s -o /dev/null http://127.0.0.1:4101/; \
             proxy=$(systemctl show -P MainPID opencode-listen@website.service); \
             find /proc/$proxy/root/ -maxdepth 2 -name canary -o -name billing -o -name dbus \
             -o -name shadow -o -name netns";
        let seen = self.machine.sh(root)?.ok()?;
        ensure!(seen.is_empty(), "the proxy sees the host: {seen}");
        let links = "proxy=$(systemctl show -P MainPID opencode-listen@website.service); \
             stat -c %a /proc/$proxy/root/sys";
        let links = self.machine.sh(links)?.ok()?;
        ensure!(links.trim() == "0", "the proxy sees the host's links: {links}");
        Ok(())
    }

    /// An agent that writes without end into its server's output fills neither memory nor journal.
    pub(crate) fn flood(&self) -> Result<()> {
        let before = self.state()?;
        let start = Instant::now();
        let script = "server=$(pgrep -xo opencode); \
             yes '<0>SYSLOG_IDENTIFIER=sshd pretends' | head -c 30000000 >/proc/$server/fd/2; echo done";
        let said = self.agent_runs(script)?;
        ensure!(said.contains("done"), "the flood was stopped: {said}");
        ensure!(start.elapsed() < Duration::from_secs(40), "the flood took {:?}", start.elapsed());
        // While it relays it may have no time for an answer, and says so until the next one.
        self.machine
            .wait_until("the server is as before", Duration::from_secs(20), |_| {
                Ok(self.state()? == before)
            })
            .context("the flood ended the server")?;
        let kept = "journalctl -o json --output-fields=SYSLOG_IDENTIFIER,_SYSTEMD_UNIT --no-pager \
             --grep 'pretends' | jq -r '._SYSTEMD_UNIT + \" \" + .SYSLOG_IDENTIFIER' | sort | uniq -c";
        let kept = self.machine.sh(kept)?.ok()?;
        let lines: Vec<Vec<&str>> =
            kept.lines().map(|line| line.split_whitespace().collect()).collect();
        let [line] = lines.as_slice() else {
            anyhow::bail!("records under one name only, if any: {kept}")
        };
        ensure!(line.get(1..) == Some(&["opencode-website.service", "opencode-website"]), "{kept}");
        let count: u32 = line.first().context("no count")?.parse()?;
        // Of some 800,000 lines. How many pass depends on the free space that journald sees.
        ensure!(count < 200_000, "the journal took {count} records");
        Ok(())
    }
}
