//! The options of when an instance starts and stops by itself.

use super::Judge;
use super::network::one_of;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Origin};
use crate::raw::{Located, RawInstance};
use crate::spec::{Activation, IdleClients};
use crate::text::Refusal;

/// In seconds: a week.
const LONGEST: u32 = 604_800;

impl Judge<'_> {
    pub(super) fn activation(&mut self, raw: &RawInstance) -> Activation {
        self.text("activation", raw.activation.as_ref(), Activation::default(), activation)
    }

    pub(super) fn idle_timeout(&mut self, raw: &RawInstance) -> u32 {
        self.number("idleTimeout", raw.idle_timeout.as_ref(), seconds).unwrap_or(900)
    }

    pub(super) fn idle_clients(&mut self, raw: &RawInstance) -> IdleClients {
        let typed = raw.idle_clients.as_ref();
        self.text("idleClients", typed, IdleClients::default(), |text| {
            one_of(Code::BadActivation, text, &IdleClients::ALL, IdleClients::WORDS)
        })
    }
}

/// Remarks on what the instance says itself, in `own`, of a stop that never comes. `whole` has its
/// `[defaults]` too, and with them its activation.
pub(super) fn remark(own: &RawInstance, whole: &RawInstance, diagnostics: &mut Diagnostics) {
    // Of an activation that is refused nobody knows what was meant.
    let judged = whole
        .activation
        .as_ref()
        .map_or(Ok(Activation::default()), |typed| activation(&typed.value));
    if judged != Ok(Activation::Boot) || whole.mistyped.contains("activation") {
        return;
    }
    let unused = [
        ("idleTimeout", place(own.idle_timeout.as_ref())),
        ("idleClients", place(own.idle_clients.as_ref())),
        ("idleChildren", place(own.idle_children.as_ref())),
    ];
    for (option, at) in unused {
        let Some(at) = at else { continue };
        diagnostics.push(Diagnostic::new(
            Code::UnusedIdle,
            at,
            format!("`{option}` has no effect"),
            "the instance starts at boot and stays",
            "remove it, or write `activation = \"on-demand\"`",
        ));
    }
}

fn place<T>(typed: Option<&Located<T>>) -> Option<&Origin> {
    typed.map(|typed| &typed.at)
}

fn activation(text: &str) -> Result<Activation, Refusal> {
    one_of(Code::BadActivation, text, &Activation::ALL, Activation::WORDS)
}

fn seconds(number: i64) -> Result<u32, Refusal> {
    let number = u32::try_from(number).ok().filter(|number| (1..=LONGEST).contains(number));
    number.ok_or_else(|| Refusal {
        code: Code::BadIdleTimeout,
        reason: format!("it is 1 to {LONGEST} seconds, which is a week"),
        help: "write `900`, or `activation = \"boot\"` for an instance that never stops".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::read;
    use crate::node::Format;
    use crate::spec::Instance;

    fn text(defaults: &str, own: &str) -> String {
        format!("[defaults]\n{defaults}\n[instances.a]\ndirectory = \"/srv/a\"\n{own}\n")
    }

    fn found(defaults: &str, own: &str) -> Vec<(String, String)> {
        let found = match read(&text(defaults, own), Format::Toml) {
            Ok((_, warnings)) => warnings,
            Err(found) => found,
        };
        found.into_iter().map(|one| (one.code.to_string(), one.at.path)).collect()
    }

    fn codes(defaults: &str, own: &str) -> Vec<String> {
        found(defaults, own).into_iter().map(|(code, _)| code).collect()
    }

    fn one(defaults: &str, own: &str) -> Instance {
        read(&text(defaults, own), Format::Toml).unwrap().0.instances.remove(0)
    }

    #[test]
    fn an_instance_starts_at_boot_and_takes_the_defaults_on_demand() {
        let of = |instance: Instance| {
            let Instance { activation, idle_timeout, idle_clients, idle_children, .. } = instance;
            (activation, idle_timeout, idle_clients, idle_children)
        };
        let usual = (Activation::Boot, 900, IdleClients::Connected, true);
        assert_eq!(of(one("", "")), usual);
        let defaults = "activation = \"on-demand\"\nidleTimeout = 1\nidleClients = \"active\"\nidleChildren = false";
        assert_eq!(of(one(defaults, "")), (Activation::OnDemand, 1, IdleClients::Active, false));
        let own = "activation = \"boot\"\nidleTimeout = 604800\nidleClients = \"connected\"\nidleChildren = true";
        assert_eq!(
            of(one(defaults, own)),
            (Activation::Boot, LONGEST, IdleClients::Connected, true)
        );
    }

    #[test]
    fn refusals_by_table() {
        for (option, code) in [
            ("activation = \"ondemand\"", "E0243"),
            ("activation = \"Boot\"", "E0243"),
            ("activation = true", "E0103"),
            ("idleTimeout = 0", "E0244"),
            ("idleTimeout = -1", "E0244"),
            ("idleTimeout = 604801", "E0244"),
            ("idleTimeout = 4294967297", "E0244"),
            ("idleTimeout = \"15min\"", "E0103"),
            ("idleTimeout = 1.5", "E0103"),
            ("idleClients = \"idle\"", "E0243"),
            ("idleChildren = \"no\"", "E0103"),
        ] {
            let demand = "activation = \"on-demand\"\n";
            let before = if option.starts_with("activation") { "" } else { demand };
            assert_eq!(codes("", &format!("{before}{option}")), [code], "{option}");
            assert_eq!(codes(option, ""), [code], "{option}");
        }
    }

    #[test]
    fn what_no_stop_heeds_is_remarked_on_where_the_instance_says_it() {
        let all = "idleTimeout = 900\nidleClients = \"connected\"\nidleChildren = true\n";
        let remarks = ["idleTimeout", "idleClients", "idleChildren"]
            .map(|option| ("W0424".to_owned(), format!("instances.a.{option}")));
        assert_eq!(found("", all), remarks);
        assert_eq!(found(all, all), remarks);
        assert_eq!(
            found("activation = \"on-demand\"", &format!("activation = \"boot\"\n{all}")),
            remarks
        );
        for (defaults, own) in [
            (all, ""),
            (all, "activation = \"boot\""),
            ("activation = \"on-demand\"", all),
            ("", &format!("activation = \"on-demand\"\n{all}")),
        ] {
            assert_eq!(found(defaults, own), [], "{defaults}{own}");
        }
        // Not beside an activation that is refused.
        assert_eq!(codes("", &format!("activation = \"demand\"\n{all}")), ["E0243"]);
        assert_eq!(codes("", &format!("activation = 1\n{all}")), ["E0103"]);
    }
}
