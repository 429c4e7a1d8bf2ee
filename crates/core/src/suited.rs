//! What a legal specification asks of the host that it is for.

use crate::diagnostic::{Code, Diagnostic, Origin};
use crate::facts::HostFacts;
use crate::spec::{Instance, Spec};

/// What this host cannot give, and what its operator has to do by hand.
pub fn judge(spec: &Spec, facts: &HostFacts) -> Vec<Diagnostic> {
    if facts.nixos.is_some() {
        return Vec::new();
    }
    spec.enabled().flat_map(elsewhere).collect()
}

fn at(instance: &Instance, option: &str) -> Origin {
    Origin { span: None, path: format!("instances.{}.{option}", instance.name) }
}

/// On a distribution that is not NixOS.
fn elsewhere(instance: &Instance) -> Vec<Diagnostic> {
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
        let port = instance.listen.port();
        found.push(Diagnostic::new(
            Code::FirewallByHand,
            &at(instance, "openFirewall"),
            format!("`openFirewall` of `{}` changes no firewall on this host", instance.name),
            format!("if a firewall runs here, it decides about port {port}"),
            format!(
                "run `firewall-cmd --permanent --add-port={port}/tcp` or `ufw allow {port}/tcp`"
            ),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::NixOs;
    use crate::lower::read;
    use crate::node::Format;

    fn codes(options: &str, facts: &HostFacts) -> Vec<&'static str> {
        let text = format!("[instances.a]\ndirectory = \"/srv/a\"\n{options}");
        let (spec, _) = read(&text, Format::Toml).unwrap();
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
}
