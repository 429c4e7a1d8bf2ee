//! The stub that resolves an instance's names: what it takes from the instance's network.

use std::ffi::OsString;
use std::fs;
use std::mem::take;
use std::path::Path;
use std::process::ExitCode;

use instances_core::network::{DnsPolicy, Network, Policy, permits};
use instances_core::spec::InstanceName;
use instances_sys::dns::{self, Pattern, Patterns, Rules};

use super::Outcome;
use crate::exit::Exit;
use crate::out;

/// Runs before the command line is parsed, if it is as the unit has it: the stub stays resident, and
/// what parses other command lines would stay with it.
pub(crate) fn at_once(words: &[OsString]) -> Option<ExitCode> {
    let [command, name, option, network] = words else { return None };
    if command != "dns" || option != "--network" {
        return None;
    }
    let name = InstanceName::new(name.to_str()?).ok()?;
    Some(match run(&name, Path::new(network)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            out::note(crate::report::failure(error.as_ref()));
            Exit::Failed.into()
        }
    })
}

pub(crate) fn run(name: &InstanceName, network: &Path) -> Outcome {
    dns::run(name, &|| rules(network))?;
    Ok(Exit::Done)
}

fn rules(path: &Path) -> Result<Rules, String> {
    let place = path.display();
    let text = fs::read(path).map_err(|error| format!("{place}: {error}"))?;
    let mut network = Network::parse(&text).map_err(|error| format!("{place}: {error}"))?;
    if !network.has_dns() {
        return Err(format!("{place}: with the policy {} there is no DNS", network.policy));
    }
    network.allow.shrink_to_fit();
    // Kept once, in the form that is looked up.
    let names = take(&mut network.dns.names);
    let names: Result<Patterns, _> = names.iter().map(|name| Pattern::new(name)).collect();
    Ok(Rules {
        policy: network.policy.to_string(),
        open: network.dns.policy == DnsPolicy::Open,
        local: network.policy == Policy::Unrestricted,
        names: names.map_err(|error| format!("{place}: {error}"))?,
        permits: Box::new(move |address| permits(&network, address)),
    })
}
