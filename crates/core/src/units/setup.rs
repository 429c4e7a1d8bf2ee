//! `opencode-setup@NAME.service`: makes the directories of an empty HOME, as the instance's user,
//! in the instance's sandbox. The project is not mounted.

use crate::facts::HostFacts;
use crate::spec::Instance;
use crate::unit::{Section, Unit, Value};
use crate::units::sandbox::{self, Programs};
use crate::units::{Names, SLICE, description};

pub(super) fn unit(instance: &Instance, facts: &HostFacts) -> Unit {
    let names = Names(&instance.name);
    let unit = Section::new("Unit")
        .set("Description", description("Setup", &instance.name))
        .set("Requires", Value::words([names.net()]))
        .set("After", Value::words([names.net()]))
        .set("RequiresMountsFor", Value::ListedPath(instance.state_dir.clone()))
        .set_why(
            "StartLimitIntervalSec",
            Value::Number(0),
            "it runs before each start of the server, whose own limit is the one to tell of",
        );
    let service = Section::new("Service")
        .set("Type", Value::word("oneshot"))
        .set("ExecStart", Value::command([facts.engine.as_str(), "setup"]))
        .set("TimeoutStartSec", Value::Number(60))
        .set("Slice", Value::word(SLICE))
        .set("SyslogIdentifier", Value::words([format!("opencode-setup@{}", instance.name)]))
        .extend(sandbox::identity(instance))
        .set("Environment", Value::variable("HOME", instance.state_dir.as_str()))
        .extend(sandbox::namespace(names))
        .set("RestrictAddressFamilies", Value::word("AF_UNIX"))
        .extend(sandbox::hardening())
        .extend(sandbox::empty_root(instance, facts, Programs::Agent));
    Unit { name: names.setup(), sections: vec![unit, service] }
}
