//! What a legal specification asks of the host that it is for.

use crate::diagnostic::{Code, Diagnostic, Origin};
use crate::facts::{Firewall, HostFacts};
use crate::json::Json;
use crate::opencode;
use crate::opencode::settings::validate;
use crate::spec::{Instance, Spec};

/// What this host cannot give, and what its operator has to do by hand.
pub fn judge(spec: &Spec, facts: &HostFacts) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for instance in spec.enabled() {
        if facts.nixos.is_none() {
            found.extend(elsewhere(instance, facts));
        }
        found.extend(settings(instance, facts));
        found.extend(quota(instance, facts));
        found.extend(generation(instance, facts));
    }
    found.extend(other_schema(spec, facts));
    found.extend(no_model(spec, facts));
    found
}

fn at(instance: &Instance, option: &str) -> Origin {
    Origin { span: None, path: format!("instances.{}.{option}", instance.name) }
}

/// Both levels of settings, where there is something in them.
fn levels(instance: &Instance) -> impl Iterator<Item = (&'static str, &Json)> {
    let both =
        [("settings", &instance.settings), ("enforcedSettings", &instance.enforced_settings)];
    both.into_iter().filter(|(_, settings)| !settings.is_empty())
}

/// What the opencode of the instance does not take.
fn settings(instance: &Instance, facts: &HostFacts) -> Vec<Diagnostic> {
    let known = opencode::known(facts.version_of(instance).unwrap_or_default());
    let mut found = Vec::new();
    for (option, settings) in levels(instance) {
        // What does not compile is a mistake of this program, which its tests find.
        let Ok(schema) = known.schema() else { continue };
        let place = at(instance, option).path;
        found.extend(validate(settings, schema).into_iter().map(|mismatch| {
            let at = Origin { span: None, path: mismatch.below(&place) };
            Diagnostic::new(
                Code::BadSetting,
                &at,
                mismatch.message,
                format!("opencode {} takes {}", known.version, mismatch.expected),
                mismatch.help,
            )
        }));
    }
    found
}

/// Says once that a schema of another version was used.
fn other_schema(spec: &Spec, facts: &HostFacts) -> Option<Diagnostic> {
    let mut judged = spec.enabled().filter(|instance| levels(instance).next().is_some());
    let unknown = |instance: &&Instance| {
        !opencode::known(facts.version_of(instance).unwrap_or_default()).exact
    };
    let one = judged.find(unknown)?;
    let version = facts.version_of(one);
    let used = opencode::known(version.unwrap_or_default()).version;
    let which = version.map_or_else(
        || format!("the version of {} is not known", one.package),
        |version| format!("{} is opencode {version}", one.package),
    );
    Some(Diagnostic::new(
        Code::OtherSchema,
        &at(one, "package"),
        format!("{which}: settings are judged as those of {used}"),
        "its schema is not part of this program",
        format!("use opencode {used}, or look at the server's own words when it starts"),
    ))
}

/// The systemd that is the first to know `StateDirectoryQuota=`.
const QUOTAS: u32 = 258;

/// A quota that nobody would hold.
fn quota(instance: &Instance, facts: &HostFacts) -> Option<Diagnostic> {
    let quota = instance.disk_quota?;
    let (why, help) = if instance.state_leaf().is_none() {
        ("systemd holds it for a state directory at its default place alone", "`stateDir`")
    } else if facts.systemd < QUOTAS {
        ("quotas need systemd 258", "`resources.diskQuota`")
    } else {
        return None;
    };
    Some(Diagnostic::new(
        Code::QuotaNotHeld,
        &at(instance, "resources.diskQuota"),
        format!(
            "nobody would hold `{}` to {quota}; this is systemd {}",
            instance.name, facts.systemd
        ),
        why,
        format!("remove {help}"),
    ))
}

/// What another generation of opencode cannot hold, and that it was not tested.
fn generation(instance: &Instance, facts: &HostFacts) -> Vec<Diagnostic> {
    let dialect = facts.dialect(instance);
    if dialect.verified {
        return Vec::new();
    }
    let version = facts.version_of(instance).unwrap_or_default();
    let refused = [
        ("enforcedSettings", !instance.enforced_settings.is_empty()),
        ("trustProject", !instance.trust_project),
        ("auth.enable", dialect.always_asks && !instance.auth_enable),
    ];
    let refused = refused.into_iter().filter(|(_, is_set)| *is_set).map(|(option, _)| {
        Diagnostic::new(
            Code::NeedsOpencode1,
            &at(instance, option),
            format!("`{option}` of `{}` needs opencode 1.x", instance.name),
            format!("{} is opencode {version}", instance.package),
            format!("remove `{option}`, or let `package` name opencode 1.18"),
        )
    });
    let untested = Diagnostic::new(
        Code::NewOpencode,
        &at(instance, "package"),
        format!("opencode {version} of `{}` was not tested", instance.name),
        "how it is called comes from its documents alone",
        "let `package` name opencode 1.18 where that matters",
    );
    refused.chain([untested]).collect()
}

/// Says once which instances configure no model.
fn no_model(spec: &Spec, facts: &HostFacts) -> Option<Diagnostic> {
    let silent = |instance: &&Instance| {
        instance.config_file.is_none()
            && facts.dialect(instance).verified
            && levels(instance).all(|(_, settings)| settings.get("model").is_none())
    };
    let mut instances = spec.enabled().filter(silent);
    let first = instances.next()?;
    let others = match instances.count() {
        0 => String::new(),
        1 => " and one other".to_owned(),
        count => format!(" and {count} others"),
    };
    Some(Diagnostic::new(
        Code::NoModel,
        &at(first, "settings"),
        format!("`{}`{others} configure no model", first.name)
            .replace("` configure", "` configures"),
        "opencode then picks one itself, if need be at opencode.ai",
        "say which, as in `settings.model = \"anthropic/claude-sonnet-4-5\"`",
    ))
}

/// On a distribution that is not NixOS.
fn elsewhere(instance: &Instance, facts: &HostFacts) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if instance.nix_ld_enable {
        found.push(Diagnostic::new(
            Code::NotOnThisHost,
            &at(instance, "nixLd.enable"),
            format!("`nixLd.enable` of `{}` needs NixOS", instance.name),
            "this host has a dynamic loader of its own, which the sandbox shows",
            "remove `nixLd.enable`",
        ));
    }
    if instance.open_firewall {
        found.push(firewall(instance, facts.firewall));
    }
    found
}

/// What has to be done, or that nothing has.
fn firewall(instance: &Instance, firewall: Option<Firewall>) -> Diagnostic {
    let port = instance.listen.port();
    let by_hand = |which: Firewall| which.opening(port).unwrap_or_default();
    let (why, help) = match firewall {
        Some(Firewall::Neither) => (
            "neither firewalld nor ufw is active".to_owned(),
            format!("nothing has to be done, unless other rules of this host guard port {port}"),
        ),
        Some(active) => (
            format!("the active firewall decides about port {port}"),
            format!("unless it admits the port already, run `{}`", by_hand(active)),
        ),
        None => (
            format!("if a firewall runs there, it decides about port {port}"),
            format!(
                "run `{}` or `{}` where one is active",
                by_hand(Firewall::Firewalld),
                by_hand(Firewall::Ufw)
            ),
        ),
    };
    let message = format!("`openFirewall` of `{}` changes no firewall on this host", instance.name);
    Diagnostic::new(Code::FirewallByHand, &at(instance, "openFirewall"), message, why, help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::NixOs;
    use crate::lower::read;
    use crate::node::Format;

    /// With a model, about which nothing is said.
    fn codes(options: &str, facts: &HostFacts) -> Vec<&'static str> {
        let text = format!(
            "[instances.a]\ndirectory = \"/srv/a\"\nconfigFile = \"/etc/opencode/a.json\"\n{options}"
        );
        found(&text, facts)
    }

    fn found(text: &str, facts: &HostFacts) -> Vec<&'static str> {
        let (spec, _) = read(text, Format::Toml).unwrap();
        judge(&spec, facts).iter().map(|one| one.code.as_str()).collect()
    }

    #[test]
    fn what_only_nixos_can_give() {
        let usr = HostFacts::default();
        let nixos = HostFacts { nixos: Some(NixOs::default()), ..HostFacts::default() };
        for (options, found) in [
            ("nixLd.enable = true", "E0310"),
            ("openFirewall = true\nlisten.address = \"::\"", "W0404"),
        ] {
            assert_eq!(codes(options, &usr), [found]);
            assert_eq!(codes(options, &nixos), [""; 0]);
            assert_eq!(codes(&format!("{options}\nenable = false"), &usr), [""; 0]);
        }
    }

    #[test]
    fn a_quota_holds_or_is_refused() {
        let quota = "resources.diskQuota = \"20G\"";
        assert_eq!(codes(quota, &HostFacts::usr(257)), ["E0330"]);
        assert_eq!(codes(quota, &HostFacts::usr(258)), [""; 0]);
        let elsewhere = format!("{quota}\nstateDir = \"/data/a\"");
        assert_eq!(codes(&elsewhere, &HostFacts::usr(258)), ["E0330"]);
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{quota}");
        let (spec, _) = read(&text, Format::Toml).unwrap();
        let desired = crate::desired::desire(&spec, &HostFacts::usr(258));
        let file = &desired.files["/etc/systemd/system/opencode-a.service"];
        let crate::desired::Content::Text(text) = &file.content else { panic!("no unit") };
        assert!(text.contains("\nStateDirectoryQuota=20G\n"), "{text}");
    }

    #[test]
    fn what_opens_a_port_is_said_to_the_letter() {
        let text = "[instances.a]\ndirectory = \"/srv/a\"\nconfigFile = \"/etc/opencode/a.json\"\n\
            openFirewall = true\nlisten = { address = \"::\", port = 4101 }";
        let (spec, _) = read(text, Format::Toml).unwrap();
        for (firewall, words) in [
            (
                Firewall::Firewalld,
                "run `firewall-cmd --permanent --add-port=4101/tcp && firewall-cmd --reload`",
            ),
            (Firewall::Ufw, "run `ufw allow 4101/tcp`"),
            (Firewall::Neither, "nothing has to be done"),
        ] {
            let facts = HostFacts { firewall: Some(firewall), ..HostFacts::default() };
            let found = judge(&spec, &facts);
            let [one] = found.as_slice() else { panic!("{found:?}") };
            assert!(one.help.contains(words), "{}", one.help);
        }
    }

    fn of_version(version: &str) -> HostFacts {
        let opencode = [("/usr/bin/opencode".to_owned(), version.to_owned())].into();
        HostFacts { opencode, ..HostFacts::default() }
    }

    #[test]
    fn settings_are_judged_by_the_version_of_the_package() {
        let with = |settings: &str, version: &str| {
            let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{settings}\n");
            found(&text, &of_version(version))
        };
        let model = "settings.model = \"a/b\"\n";
        assert_eq!(with(model, "1.18.33"), [""; 0]);
        assert_eq!(with(model, "1.18.34"), ["W0409"]);
        assert_eq!(with("settings.modle = \"a/b\"", "1.18.33"), ["E0317", "W0408"]);
        let both = format!("{model}settings.share = 1\nenforcedSettings.permission.edit = \"no\"");
        assert_eq!(with(&both, "1.18.33"), ["E0317", "E0317"]);
        assert_eq!(with(&format!("{both}\nenable = false"), "1.18.33"), [""; 0]);
    }

    #[test]
    fn what_opencode_2_cannot_hold_is_refused() {
        let facts = of_version("2.0.5");
        assert_eq!(codes("", &facts), ["W0411"]);
        assert_eq!(codes("trustProject = false", &facts), ["E0318", "W0411"]);
        assert_eq!(codes("auth.enable = false", &facts), ["E0318", "W0411"]);
        let enforced = codes("enforcedSettings.share = \"disabled\"", &facts);
        assert_eq!(enforced, ["E0318", "W0411", "W0409"]);
    }

    #[test]
    fn a_missing_model_is_said_once() {
        let facts = of_version("1.18.33");
        let instance = |name: &str| format!("[instances.{name}]\ndirectory = \"/srv/{name}\"\n");
        let text = format!("{}{}listen.port = 1\n", instance("a"), instance("b"));
        assert_eq!(found(&text, &facts), ["W0408"]);
        let text = format!("[defaults]\nenforcedSettings.model = \"a/b\"\n{}", instance("a"));
        assert_eq!(found(&text, &facts), [""; 0]);
    }
}
