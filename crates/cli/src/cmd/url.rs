//! `url`: the address of an instance, with its password, for those who may read it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instances_sys::files::Root;
use instances_sys::http::percent;
use instances_sys::installed::Record;
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
    let page = page(&record);
    let url = match &password {
        Some(password) => {
            let user = percent(&record.auth_username);
            format!("http://{user}:{}@{address}/{page}", percent(password.expose()))
        }
        None => format!("http://{address}/{page}"),
    };
    if args.json.json {
        out::json(&json!({
            "version": 1,
            "url": url,
            "address": address,
            "username": password.as_ref().map(|_| &record.auth_username),
            "password": password.as_ref().map(instances_sys::auth::Password::expose),
        }));
    } else {
        out::line(url);
    }
    Ok(Exit::Done)
}

/// Where the web page shows the project. Where the server does not start in it, the page would begin at
/// the file system's root.
fn page(record: &Record) -> String {
    if record.trust_project {
        return String::new();
    }
    format!("{}/session", URL_SAFE_NO_PAD.encode(&record.directory))
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_password_changes_where_a_url_leads() {
        use instances_sys::http::percent;
        assert_eq!(percent("p@evil.example/x ü"), "p%40evil.example%2Fx%20%C3%BC");
        assert_eq!(percent("aZ09-._~"), "aZ09-._~");
    }
}
