//! What a client is told that cannot be connected: HTTP, since that is what clients of opencode speak.

use std::rc::Rc;

use crate::notify::one_line;

/// The most characters of a reason.
const MAX_REASON: usize = 600;

/// Why there is no server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why<'a> {
    /// The start failed; the reason is anybody's words.
    Failed(&'a str),
    /// It has been starting for as long as a client waits.
    Starting,
    /// It ends.
    Stopping,
    /// It is there and takes no connection.
    Refused,
}

/// The whole answer, for the instance of this name.
pub(super) fn unavailable(instance: Option<&str>, why: Why<'_>) -> Rc<[u8]> {
    let name = instance.map(|name| one_line(name, 64)).filter(|name| !name.is_empty());
    let subject = match &name {
        Some(name) => format!("the instance {name}"),
        None => "the instance".to_owned(),
    };
    let first = match why {
        Why::Failed(reason) => {
            let reason = one_line(reason, MAX_REASON);
            let reason = if reason.is_empty() { "no reason was given" } else { reason.as_str() };
            format!("{subject} cannot be started: {reason}")
        }
        Why::Starting => format!("{subject} is still starting"),
        Why::Stopping => format!("{subject} is being stopped"),
        Why::Refused => format!("{subject} takes no connection"),
    };
    let name = name.as_deref().unwrap_or("NAME");
    let body = format!("{first}\nsee `opencode-instances status {name}`\n");
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(instance: Option<&str>, why: Why<'_>) -> String {
        String::from_utf8(unavailable(instance, why).to_vec()).unwrap()
    }

    #[test]
    fn an_answer() {
        let answer = text(Some("web"), Why::Failed("ü is missing"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            body,
            "the instance web cannot be started: ü is missing\nsee `opencode-instances status web`\n"
        );
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    }

    #[test]
    fn a_reason_stays_in_its_line() {
        let evil = "a\r\n\r\nHTTP/1.1 200 OK\u{1b}[2J\0\u{85}b";
        let answer = text(Some("x\r\nSet-Cookie: y"), Why::Failed(evil));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("Set-Cookie"));
        assert_eq!(body.lines().count(), 2);
        assert!(body.chars().all(|one| one == '\n' || !one.is_control()), "{body:?}");
        let long = text(None, Why::Failed(&"r".repeat(9000)));
        assert!(long.len() < 2000, "{}", long.len());
        assert!(text(None, Why::Failed(" \n")).contains("no reason was given"));
    }
}
