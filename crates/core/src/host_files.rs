//! Files that are not units: the sandbox's own `/etc`, `sysusers.d` and `tmpfiles.d`, and what the host's
//! network managers are told.

use crate::nft::LINK_PREFIX;
use crate::spec::Instance;
use crate::unit::HEADER;

/// The files bound at `/etc` inside the sandbox whose text does not depend on the host.
pub(crate) fn sandbox_etc(instance: &Instance) -> [(&'static str, String); 5] {
    let directory = git_quoted(instance.directory.as_str());
    let below = git_quoted(&format!("{}/*", instance.directory));
    [
        ("hosts", format!("{HEADER}127.0.0.1 localhost\n::1 localhost\n")),
        // Otherwise programs of glibc's find the first line of a name in `hosts` alone.
        ("host.conf", format!("{HEADER}multi on\n")),
        (
            "nsswitch.conf",
            format!(
                "{HEADER}passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n"
            ),
        ),
        // The instance's own resolver; where the policy is `none` nobody is there, and names fail at once.
        // Programs wait and ask again as they do by themselves: the host's resolvers may be slow.
        ("resolv.conf", format!("{HEADER}nameserver 127.0.0.53\n")),
        // The project may belong to another user, and git refuses such a repository otherwise.
        (
            "gitconfig",
            format!("{HEADER}[safe]\n\tdirectory = {directory}\n\tdirectory = {below}\n"),
        ),
    ]
}

/// A value of git's configuration. Paths have neither quotes nor backslashes.
fn git_quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// What keeps network managers from the links of instances, to which they would give addresses and routes
/// of their own: each file with the service that reads it. Of networkd's files the first that matches
/// counts, of `NetworkManager`'s the last.
pub(crate) fn unmanaged() -> [(&'static str, String, &'static str); 2] {
    [
        (
            "/etc/systemd/network/05-opencode.network",
            format!("{HEADER}\n[Match]\nName={LINK_PREFIX}*\n\n[Link]\nUnmanaged=yes\n"),
            "systemd-networkd.service",
        ),
        (
            "/etc/NetworkManager/conf.d/95-opencode.conf",
            format!("{HEADER}\n[keyfile]\nunmanaged-devices+=interface-name:{LINK_PREFIX}*\n"),
            "NetworkManager.service",
        ),
    ]
}

/// `sysusers.d` lines for the accounts that are made with the instance; empty when there are none.
pub(crate) fn sysusers(instance: &Instance) -> Option<String> {
    let name = &instance.name;
    let account = name.account();
    let mut lines = String::new();
    if instance.owns_group() {
        lines.push_str(&format!("g {account} -\n"));
    }
    if instance.owns_user() {
        lines.push_str(&format!(
            "u {account} -:{group} \"opencode instance {name}\" - -\n",
            group = instance.group
        ));
    }
    (!lines.is_empty()).then(|| format!("{HEADER}{lines}"))
}

/// `tmpfiles.d` for a state directory that is not at the default place. systemd-tmpfiles follows no
/// symbolic link and refuses parents that another user owns.
pub(crate) fn tmpfiles(instance: &Instance) -> Option<String> {
    if instance.state_leaf().is_some() {
        return None;
    }
    let path = instance.state_dir.as_str().replace('%', "%%");
    Some(format!(
        "{HEADER}d \"{path}\" 0700 {user} {group} - -\n",
        user = instance.user,
        group = instance.group
    ))
}
