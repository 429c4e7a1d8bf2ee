//! `rotate`: a new password for an instance.

use std::path::Path;

use instances_core::layout::AUTH_ROOT;
use instances_sys::files::Root;
use instances_sys::systemctl::{self, Wait};
use instances_sys::{auth, installed};

use super::Outcome;
use crate::args::Name;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &Name) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), &args.name)?;
    let name = &record.name;
    if !record.auth_enable {
        return Err(format!("`{name}` asks for no password: `auth.enable` is off").into());
    }
    if let Some(file) = &record.auth_password_file {
        return Err(format!(
            "the password of `{name}` is yours: write another one to {}, and run \
             `opencode-instances restart {name}`",
            file.display()
        )
        .into());
    }
    auth::rotate(Path::new(AUTH_ROOT), name)?;
    systemctl::renew("systemctl", name, Wait::UntilDone)?;
    out::note(format!("`opencode-instances url {name}` shows the new password"));
    Ok(Exit::Done)
}
