//! `url`: the address of an instance, with its password, for those who may read it.

use instances_sys::files::Root;
use instances_sys::{installed, status};
use serde_json::json;

use super::Outcome;
use crate::args::Url;
use crate::exit::Exit;
use crate::out;

pub(crate) fn run(args: &Url) -> Outcome {
    let record = installed::instance(&Root::new("/".as_ref()), &args.name)?;
    let address = status::reachable(record.listen);
    let password = status::password(&record)?;
    let url = match &password {
        Some(password) => {
            format!(
                "http://{}:{}@{address}/",
                instances_sys::http::USER,
                percent(password.expose())
            )
        }
        None => format!("http://{address}/"),
    };
    if args.json.json {
        out::json(&json!({
            "version": 1,
            "url": url,
            "address": address,
            "username": password.as_ref().map(|_| instances_sys::http::USER),
            "password": password.as_ref().map(instances_sys::auth::Password::expose),
        }));
    } else {
        out::line(url);
    }
    Ok(Exit::Done)
}

/// A password as a URL takes it: an operator's own may hold any character.
fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_password_changes_where_a_url_leads() {
        assert_eq!(super::percent("p@evil.example/x ü"), "p%40evil.example%2Fx%20%C3%BC");
        assert_eq!(super::percent("aZ09-._~"), "aZ09-._~");
    }
}
