//! The options of what the sandbox gives up or shows beside listed paths.

use super::Judge;
use super::network::one_of;
use crate::controls::{self, Control, Relaxed};
use crate::devices::{Device, NixStore};
use crate::diagnostic::{Code, Diagnostic};
use crate::raw::{RawInstance, nearest};
use crate::text::Refusal;

impl Judge<'_> {
    pub(super) fn relax(&mut self, raw: &RawInstance) -> Vec<&'static Control> {
        let option = "sandbox.relax";
        let mut relaxed = Vec::new();
        for item in raw.relax.iter().flat_map(|list| &list.value) {
            let what = format!("`{option}` {:?}", item.value);
            let Some((control, how)) = self.take(&item.at, &what, control(&item.value)) else {
                continue;
            };
            self.diagnostics.push(Diagnostic::new(
                Code::RelaxedControl,
                &item.at,
                format!("`{}` is given up: {}", control.name, how.gives),
                format!("otherwise {}", control.why),
                format!("remove `{}` unless that is needed, by {}", control.name, how.needed),
            ));
            relaxed.push(control);
        }
        relaxed.sort_by_key(|control| control.name);
        relaxed.dedup();
        relaxed
    }

    pub(super) fn allow_nested_sandbox(&mut self, raw: &RawInstance) -> bool {
        let Some(typed) = raw.allow_nested_sandbox.as_ref().filter(|typed| typed.value) else {
            return false;
        };
        self.diagnostics.push(Diagnostic::new(
            Code::NestedSandbox,
            &typed.at,
            "`sandbox.allowNestedSandbox` lets the agent be root in namespaces of its own",
            "there it reaches parts of the kernel that have had many faults",
            "remove it unless the agent is to run bubblewrap or containers",
        ));
        true
    }

    pub(super) fn devices(&mut self, raw: &RawInstance) -> Vec<Device> {
        let option = "sandbox.devices";
        let mut devices: Vec<Device> = Vec::new();
        for item in raw.devices.iter().flat_map(|list| &list.value) {
            let what = format!("`{option}` {:?}", item.value);
            let Some(device) = self.take(&item.at, &what, Device::read(&item.value)) else {
                continue;
            };
            self.diagnostics.push(Diagnostic::new(
                Code::HostDevice,
                &item.at,
                format!("the agent can use the host's device `{}`", device.path),
                "its driver is a part of the kernel that the agent reaches then",
                "remove it unless the agent needs the device",
            ));
            if devices.iter().all(|other| other.path != device.path) {
                devices.push(device);
            }
        }
        devices
    }

    pub(super) fn nix_store(&mut self, raw: &RawInstance) -> NixStore {
        let typed = raw.nix_store.as_ref();
        let store = self.text("sandbox.nixStore", typed, NixStore::Closure, |text| {
            one_of(Code::BadNixStore, text, &NixStore::ALL, NixStore::WORDS)
        });
        if let Some(typed) = typed.filter(|_| store == NixStore::Full) {
            self.diagnostics.push(Diagnostic::new(
                Code::WholeStore,
                &typed.at,
                "the agent can read all of /nix/store",
                "on NixOS the settings and scripts of all other instances are in it",
                "remove it, and list the packages that are meant in `path`",
            ));
        }
        store
    }
}

/// A protection that can be given up, and how.
fn control(word: &str) -> Result<(&'static Control, Relaxed), Refusal> {
    let refuse = |reason: String, help: String| Refusal { code: Code::BadControl, reason, help };
    let Some(control) = controls::find(word) else {
        let help = match nearest(word, controls::WORDS) {
            Some(near) => format!("write `{near}`"),
            None => format!("use one of: {}", controls::WORDS.join(", ")),
        };
        return Err(refuse("no protection has this name".to_owned(), help));
    };
    let Some(how) = control.relaxed else {
        let reason = format!("the isolation rests on it: {}", control.why);
        return Err(refuse(reason, "remove it".to_owned()));
    };
    Ok((control, how))
}

#[cfg(test)]
mod tests {
    use crate::lower::read;
    use crate::node::Format;

    fn found(options: &str) -> Vec<(String, String)> {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}\n");
        let found = match read(&text, Format::Toml) {
            Ok((_, warnings)) => warnings,
            Err(found) => found,
        };
        found.into_iter().map(|one| (one.code.to_string(), one.label)).collect()
    }

    fn codes(options: &str) -> Vec<String> {
        found(options).into_iter().map(|(code, _)| code).collect()
    }

    #[test]
    fn each_protection_is_given_up_aloud_or_not_at_all() {
        for control in crate::controls::all() {
            let said = found(&format!("sandbox.relax = [\"{}\"]", control.name));
            let code = if control.relaxed.is_some() { "W0420" } else { "E0240" };
            assert!(
                matches!(&said[..], [(said, why)] if said == code && why.contains(control.why))
            );
        }
        assert_eq!(
            codes("sandbox.relax = [\"umask\", \"umaks\", \"umask\"]"),
            ["W0420", "E0240", "W0420"]
        );
    }

    #[test]
    fn what_else_weakens_the_sandbox_is_said() {
        assert_eq!(codes("sandbox.allowNestedSandbox = true"), ["W0421"]);
        assert_eq!(codes("sandbox.allowNestedSandbox = false"), [""; 0]);
        assert_eq!(codes("sandbox.devices = [\"/dev/kvm\", \"-/dev/dri\"]"), ["W0422", "W0422"]);
        assert_eq!(codes("sandbox.nixStore = \"full\""), ["W0423"]);
        assert_eq!(codes("sandbox.nixStore = \"closure\""), [""; 0]);
        assert_eq!(codes("sandbox.nixStore = \"all\""), ["E0242"]);
    }
}
