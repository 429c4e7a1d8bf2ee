//! What holds for every text and every specification.

mod documents;
mod judge;

use instances_core::desired::desire;
use instances_core::facts::{HostFacts, NixOs};
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::spec::Spec;
use proptest::prelude::*;

use documents::{almost, legal};
use judge::{Reading, judged};

fn codes(reading: &Reading) -> Vec<&'static str> {
    let findings = match reading {
        Ok((_, warnings)) => warnings,
        Err(findings) => findings,
    };
    let mut codes: Vec<_> = findings.iter().map(|one| one.code.as_str()).collect();
    codes.sort_unstable();
    codes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_judged(text in any::<String>()) {
        let _ = judged(&text, Format::Toml);
        let _ = judged(&text, Format::Json);
    }

    /// The characters that mean something, in any order.
    #[test]
    fn any_syntax_is_judged(text in "([\\[\\]{}\"'=.,#:\\\\\n \t]|defaults|instances|[a-z]|[0-9]|true|null|listen|port|\"\"\"|\\\\u[0-9a-f]{4}){0,60}") {
        let _ = judged(&text, Format::Toml);
        let _ = judged(&text, Format::Json);
    }

    #[test]
    fn what_is_almost_a_specification_is_judged_alike_in_both_languages(document in almost()) {
        let json = judged(&document.json(), Format::Json);
        let toml = judged(&document.toml(), Format::Toml);
        prop_assert_eq!(codes(&json), codes(&toml));
        prop_assert_eq!(json.ok().map(|one| one.0), toml.ok().map(|one| one.0));
    }

    /// One character of a specification is lost, doubled or replaced.
    #[test]
    fn a_slip_of_the_hand_is_judged(
        document in legal(2),
        at in any::<prop::sample::Index>(),
        slip in prop_oneof![Just(String::new()), any::<char>().prop_map(String::from), "[\\[\\]{}\"'=,.#\n\\\\]{1,2}"],
    ) {
        for (text, format) in [(document.toml(), Format::Toml), (document.json(), Format::Json)] {
            let mut characters: Vec<String> = text.chars().map(String::from).collect();
            if !characters.is_empty() {
                let at = at.index(characters.len());
                characters[at].clone_from(&slip);
            }
            let _ = judged(&characters.concat(), format);
        }
    }

    #[test]
    fn a_legal_specification_is_the_same_in_both_languages(document in legal(4)) {
        let (json, _) = judged(&document.json(), Format::Json).unwrap();
        let (toml, _) = judged(&document.toml(), Format::Toml).unwrap();
        prop_assert_eq!(json, toml);
    }

    /// Changing an instance restarts no other one, because it changes no file of any other one.
    #[test]
    fn the_files_of_an_instance_do_not_depend_on_the_others(document in legal(4)) {
        let (spec, _) = read(&document.json(), Format::Json).unwrap();
        for facts in [HostFacts::default(), HostFacts { nixos: Some(NixOs::default()), ..HostFacts::default() }] {
        let whole = desire(&spec, &facts);
        let fleet = desire(&Spec::default(), &facts);
        let mut own = 0;
        for instance in &spec.instances {
            let alone = desire(&Spec { instances: vec![instance.clone()], ..spec.clone() }, &facts);
            for (path, file) in alone.files.iter().filter(|(path, _)| !fleet.files.contains_key(*path)) {
                prop_assert_eq!(whole.files.get(path), Some(file), "{}", path);
                own += 1;
            }
        }
        prop_assert_eq!(whole.files.len(), fleet.files.len() + own, "two instances share a file");
        }
    }
}
