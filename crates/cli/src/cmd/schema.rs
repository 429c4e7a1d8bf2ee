//! `schema`: what opencode takes as configuration.

use instances_core::opencode::extract::extract;
use instances_core::opencode::known;
use instances_sys::opencode;

use super::Outcome;
use crate::args::Schema;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &Schema) -> Outcome {
    if let Some(package) = &args.package {
        out::raw(extract(&opencode::openapi(package)?)?.as_bytes());
        return Ok(Exit::Done);
    }
    let shipped = known(args.version.as_deref().unwrap_or_default());
    if let Some(version) = args.version.as_deref().filter(|_| !shipped.exact) {
        return Err(format!(
            "the schema of opencode {version} is not part of this program, that of {} is; \
             `schema --package PATH` prints that of a package",
            shipped.version
        )
        .into());
    }
    out::raw(shipped.text.as_bytes());
    Ok(Exit::Done)
}
