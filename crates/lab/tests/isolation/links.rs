//! Links that the agent plants where root or the supervisor could follow them.

use anyhow::{Result, ensure};
use instances_lab::fleet::{BEGIN, PATIENCE};

use crate::stage::Stage;

/// Everything of the host that a followed link could change, as a fingerprint. `apply` itself writes
/// its manifest.
const OUTSIDE: &str = "find /etc /root /home /opt /boot /srv/billing /srv/other /var/lib/canary \
     /var/lib/opencode/instance-auth /var/lib/opencode/instance-state/billing/canary -xdev \
     -printf '%p %m %u %g %T@ %l\\n' | grep -vE '^/etc/opencode-instances(/manifest.json)? ' | sort; \
     stat -c '%n %a %U %G' /etc /root /var/lib/opencode/instance-state/billing";

/// One link after the other in place of what setup makes; each is named, none is followed.
const PLANTED: &[(&str, &str)] = &[
    (".config", "/etc"),
    (".local", "/var/lib/opencode/instance-state/billing"),
    (".local/share", "/srv/billing"),
    (".config/opencode", "/etc/opencode-instances/billing"),
];

/// Plants links, restarts as root and applies again: nothing outside may change.
pub(crate) fn plant(stage: &Stage) -> Result<()> {
    let machine = &stage.machine;
    let home = "/var/lib/opencode/instance-state/website";
    for (at, target) in PLANTED {
        let script = format!(
            "cd && chmod 777 . ; rm -rf .held; mv {at} .held; ln -s {target} {at}; \
             ln -sfn /etc/shadow /srv/website/opencode.json; ln -sfn /etc/shadow password; \
             ln -sfn /etc/passwd .gitconfig; ln -sfn /root /srv/website/.opencode; readlink {at}"
        );
        let said = stage.agent_runs(&script)?;
        ensure!(said.contains(target), "the link was not planted: {said}");
        let before = machine.sh(OUTSIDE)?.ok()?;
        // So many starts in a minute may be more than the unit allows.
        let restart = "systemctl reset-failed opencode-website; systemctl restart opencode-website";
        let restart = machine.sh(restart)?;
        ensure!(!restart.success(), "the supervisor followed {at} to {target}");
        // Where systemd lost that start, the next one says it.
        let words = format!("{home}/{at} is a symbolic link");
        let said =
            format!("journalctl -u opencode-website -n 20 --no-pager -o cat | grep -qF '{words}'");
        machine.wait_until(&format!("it says: {words}"), PATIENCE, |machine| {
            Ok(machine.sh(&said)?.success())
        })?;
        let applied = machine.run_for(PATIENCE, ["opencode-instances", "apply"])?;
        let after = machine.sh(OUTSIDE)?.ok()?;
        ensure!(before == after, "something outside changed ({applied}):\n{before}\n---\n{after}");
        // As an operator would repair it.
        let repair = format!(
            "{BEGIN} cd {home}; rm {at} password .gitconfig /srv/website/opencode.json /srv/website/.opencode; \
             mv .held {at}; systemctl reset-failed 'opencode-*'; begin opencode-website"
        );
        machine.run_for(PATIENCE, ["sh", "-euc", &repair])?.ok()?;
        let after = machine.sh(OUTSIDE)?.ok()?;
        ensure!(before == after, "something outside changed:\n{before}\n---\n{after}");
        let mode = machine.run(["stat", "-c", "%a", home])?.ok()?;
        ensure!(mode.trim() == "700", "the home stayed open: {mode}");
    }
    Ok(())
}
