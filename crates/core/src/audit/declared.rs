//! What an operator gave up of a sandbox, or added to it, as the record of an instance keeps it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bound::BoundPath;
use crate::spec::Instance;

/// The options of `sandbox.*` and `unitOverrides.main` that an audit must know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Declared {
    /// `sandbox.relax`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub relax: BTreeSet<String>,
    /// `sandbox.allowNestedSandbox`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_nested_sandbox: bool,
    /// The paths of `sandbox.devices`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// `sandbox.unixSockets`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unix_sockets: Vec<BoundPath>,
    /// The directives of `unitOverrides.main`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub overridden: BTreeSet<String>,
}

impl Declared {
    /// What was declared of an instance.
    pub fn of(instance: &Instance) -> Self {
        Self {
            relax: instance.relax.iter().map(|control| control.name.to_owned()).collect(),
            allow_nested_sandbox: instance.allow_nested_sandbox,
            devices: instance.devices.iter().map(|device| device.path.to_string()).collect(),
            unix_sockets: instance.unix_sockets.clone(),
            overridden: instance.unit_overrides.main.names().map(str::to_owned).collect(),
        }
    }

    /// Whether nothing was.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
