//! The users that systemd makes while a unit runs, as systemd itself knows them: one question over
//! Varlink (<https://systemd.io/USER_GROUP_API/>).
//!
//! A name service would say the same where its plugin is installed, and this program, which is static,
//! could not load it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Where systemd answers for its dynamic users.
pub(crate) const SOCKET: &str = "/run/systemd/userdb/io.systemd.DynamicUser";
/// What is there where systemd runs.
const BOOTED: &str = "/run/systemd/system";
const SERVICE: &str = "io.systemd.DynamicUser";
const NOT_FOUND: &str = "io.systemd.UserDatabase.NoRecordFound";

/// systemd answers between other work, of which reading all units anew is the longest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The users that exist now, with their numbers; none where no systemd runs.
pub(crate) fn dynamic_users(socket: &Path) -> io::Result<Vec<(String, u32)>> {
    ask(socket, &json!({ "service": SERVICE }), true)
}

/// The number of one of them, if it exists now. systemd takes a moment for each that it tells of.
pub(crate) fn dynamic_user(socket: &Path, name: &str) -> io::Result<Option<u32>> {
    let users = ask(socket, &json!({ "service": SERVICE, "userName": name }), false)?;
    Ok(users.into_iter().find(|(found, _)| found == name).map(|(_, number)| number))
}

fn ask(socket: &Path, parameters: &Value, more: bool) -> io::Result<Vec<(String, u32)>> {
    let mut stream = match UnixStream::connect(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !Path::new(BOOTED).exists() => {
            return Ok(Vec::new());
        }
        connected => connected?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let question = json!({
        "method": "io.systemd.UserDatabase.GetUserRecord",
        "parameters": parameters,
        "more": more,
    });
    stream.write_all(format!("{question}\0").as_bytes())?;
    let mut stream = BufReader::new(stream);
    let mut users = Vec::new();
    loop {
        let mut answer = Vec::new();
        stream.read_until(0, &mut answer)?;
        answer.pop();
        let answer: Value = serde_json::from_slice(&answer)?;
        users.extend(user(&answer)?);
        if answer.get("continues").and_then(Value::as_bool) != Some(true) {
            return Ok(users);
        }
    }
}

fn user(answer: &Value) -> io::Result<Option<(String, u32)>> {
    match answer.get("error").and_then(Value::as_str) {
        Some(NOT_FOUND) => return Ok(None),
        Some(error) => return Err(io::Error::other(error.to_owned())),
        None => {}
    }
    let field = |name: &str| answer.pointer(&format!("/parameters/record/{name}"));
    let uid = field("uid").and_then(Value::as_u64).and_then(|uid| u32::try_from(uid).ok());
    match (field("userName").and_then(Value::as_str), uid) {
        (Some(name), Some(uid)) => Ok(Some((name.to_owned(), uid))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a record without name or number")),
    }
}

#[cfg(test)]
mod tests {
    use super::user;
    use serde_json::json;

    #[test]
    fn a_number_nobody_or_an_error() {
        let record = json!({ "userName": "oc-1", "uid": 64950 });
        let found = json!({ "parameters": { "record": record, "incomplete": false } });
        assert_eq!(user(&found).unwrap(), Some(("oc-1".to_owned(), 64950)));
        let error = |name: &str| json!({ "error": format!("io.systemd.UserDatabase.{name}") });
        assert_eq!(user(&error("NoRecordFound")).unwrap(), None);
        for broken in [json!({}), error("BadService")] {
            assert!(user(&broken).is_err());
        }
    }
}
