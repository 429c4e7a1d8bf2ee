//! What is tried from inside an instance: the one catalogue, read by the audit, by the tests and by
//! `docs/explanation/threat-model.md`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::network::{Network, permits};

/// The catalogue's text.
const TEXT: &str = include_str!("catalogue.toml");

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attempt {
    /// Its name, which stays.
    pub id: String,
    /// What it tries to reach.
    pub group: String,
    /// What it tries, as in "read /etc/shadow".
    pub what: String,
    /// The control that stops it.
    pub control: String,
    /// What stops it too, where the control alone is not seen to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defence: Option<String>,
    /// A place that an operator may show on purpose; it is not tried then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_shown: Option<String>,
    /// Whether the operator's policy may allow it; it is not tried then.
    #[serde(default)]
    pub unless_allowed: bool,
    /// Whether any answer but a refusal is a success: the call is made with senseless arguments.
    #[serde(default)]
    pub reaches: bool,
    /// How.
    #[serde(rename = "try")]
    pub how: Try,
}

/// How something is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Try {
    /// Read the first byte of a file.
    Read(String),
    /// See an entry of a directory.
    List(String),
    /// Make a file in a directory.
    Create(String),
    /// Make a device of the host's memory in a directory.
    Node(String),
    /// Open a file for writing.
    Append(String),
    /// Learn that there is something.
    Exists(String),
    /// Connect to a Unix socket.
    Unix(String),
    /// Enter the namespace that a file stands for.
    Enter(String),
    /// Read a file that the audit has laid out in the host's directory of that name.
    Canary(String),
    /// Hear the word that the audit has a listener on the host say.
    Hear(String),
    /// Send something to an address and a port.
    Leave(String, String),
    /// Make a socket: family, type, protocol.
    Socket(String, String, i32),
    /// Make a system call: its name, then numbers and texts.
    Call(Vec<Word>),
    /// Make a namespace.
    Unshare(String),
    /// Give a file these permission bits.
    Mode(u32),
    /// Find one of these of the process's own status that is not zero, or for `NoNewPrivs` not one.
    Status(Vec<String>),
    /// See a process of another user.
    Processes(bool),
    /// See a device that no sandbox needs.
    Devices(bool),
    /// Make a call as a program of another architecture does.
    Calls32(bool),
    /// Have a limit that is not zero.
    Limit(String),
    /// Have a mask of permission bits without one of these.
    Umask(u32),
}

/// A word of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// A number.
    Number(i64),
    /// A text, passed by its address.
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    attempt: Vec<Attempt>,
}

/// Every attempt, with its placeholders.
///
/// # Errors
///
/// When the catalogue is not what this program reads, which a test rules out.
pub fn all() -> Result<Vec<Attempt>, Malformed> {
    toml::from_str::<Catalogue>(TEXT).map(|catalogue| catalogue.attempt).map_err(Malformed)
}

/// The catalogue is not what this program reads.
#[derive(Debug, thiserror::Error)]
#[error("the catalogue of attempts cannot be read")]
pub struct Malformed(#[source] toml::de::Error);

/// One installed instance, as attempts name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its name.
    pub name: String,
    /// Its project.
    pub directory: String,
    /// Its HOME.
    pub state: String,
    /// Where clients connect on the host.
    pub listen: std::net::SocketAddr,
}

/// What the placeholders stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The instance from inside which it is tried.
    pub own: Party,
    /// The others.
    pub others: Vec<Party>,
    /// The addresses that the host holds, without loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
    /// What the sandbox shows on purpose.
    pub shown: Vec<String>,
    /// What may be reached.
    pub network: Network,
    /// The number of the server's first process, inside.
    pub supervisor: i64,
}

impl Scene {
    /// What is tried there: each attempt for each party or address that it names.
    pub fn attempts(&self, all: &[Attempt]) -> Vec<Attempt> {
        all.iter().flat_map(|attempt| self.each(attempt)).collect()
    }

    fn each(&self, attempt: &Attempt) -> Vec<Attempt> {
        let own = [
            ("{name}", self.own.name.clone()),
            ("{directory}", self.own.directory.clone()),
            ("{state}", self.own.state.clone()),
            ("{supervisor}", self.supervisor.to_string()),
        ];
        let named = replaced(attempt, &own);
        let holds = |mark: &str| mentions(&named, mark);
        let mut each = if holds("{other.") {
            self.others.iter().filter_map(|other| self.against(&named, other)).collect()
        } else if holds("{host.address}") {
            let address = |ip: &IpAddr| replaced(&named, &[("{host.address}", ip.to_string())]);
            self.addresses.iter().map(address).collect()
        } else {
            vec![named]
        };
        each.retain(|one| !self.on_purpose(one));
        each
    }

    fn against(&self, attempt: &Attempt, other: &Party) -> Option<Attempt> {
        let ip = match other.listen.ip() {
            ip if ip.is_unspecified() => self.addresses.first().copied(),
            // Inside it would be another loopback; `host-loopback` tries the host's.
            ip if ip.is_loopback() => None,
            ip => Some(ip),
        };
        match ip {
            Some(ip) => Some(Self::with(attempt, other, ip)),
            None if mentions(attempt, "{other.address}") => None,
            None => Some(Self::with(attempt, other, other.listen.ip())),
        }
    }

    fn with(attempt: &Attempt, other: &Party, ip: IpAddr) -> Attempt {
        replaced(
            attempt,
            &[
                ("{other.name}", other.name.clone()),
                ("{other.directory}", other.directory.clone()),
                ("{other.state}", other.state.clone()),
                ("{other.address}", ip.to_string()),
                ("{other.port}", other.listen.port().to_string()),
            ],
        )
    }

    /// Whether the operator declared that it succeeds.
    fn on_purpose(&self, attempt: &Attempt) -> bool {
        let is_below = crate::bound::is_below;
        let shown = attempt.unless_shown.as_deref().is_some_and(|place| {
            self.shown.iter().any(|path| is_below(path, place) || is_below(place, path))
        });
        let allowed = match &attempt.how {
            Try::Leave(address, _) if attempt.unless_allowed => {
                address.parse().is_ok_and(|ip| permits(&self.network, ip))
            }
            _ => false,
        };
        shown || allowed
    }
}

/// Whether a text of the attempt has the mark.
fn mentions(attempt: &Attempt, mark: &str) -> bool {
    serde_json::to_string(attempt).is_ok_and(|text| text.contains(mark))
}

/// The attempt with the marks replaced in every text of it.
fn replaced(attempt: &Attempt, marks: &[(&str, String)]) -> Attempt {
    let text = |text: &String| {
        marks.iter().fold(text.clone(), |text, (mark, value)| text.replace(mark, value))
    };
    let how = match &attempt.how {
        Try::Read(path) => Try::Read(text(path)),
        Try::List(path) => Try::List(text(path)),
        Try::Create(path) => Try::Create(text(path)),
        Try::Append(path) => Try::Append(text(path)),
        Try::Exists(path) => Try::Exists(text(path)),
        Try::Unix(path) => Try::Unix(text(path)),
        Try::Enter(path) => Try::Enter(text(path)),
        Try::Leave(address, port) => Try::Leave(text(address), text(port)),
        Try::Call(words) => Try::Call(words.iter().map(|word| called(word, &text)).collect()),
        other => other.clone(),
    };
    Attempt {
        what: text(&attempt.what),
        unless_shown: attempt.unless_shown.as_ref().map(text),
        how,
        ..attempt.clone()
    }
}

/// A mark alone is a number.
fn called(word: &Word, text: &dyn Fn(&String) -> String) -> Word {
    let Word::Text(marked) = word else { return word.clone() };
    let plain = text(marked);
    match plain.parse() {
        Ok(number) if plain != *marked => Word::Number(number),
        _ => Word::Text(plain),
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was refused: how.
    Refused(String),
    /// It succeeded: what was seen.
    Succeeded(String),
    /// It could not be tried, or did not end: why.
    Untried(String),
}

/// An attempt with what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What was tried.
    pub attempt: Attempt,
    /// What became of it.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn party(name: &str, listen: &str) -> Party {
        Party {
            name: name.to_owned(),
            directory: format!("/srv/{name}"),
            state: format!("/var/lib/{name}"),
            listen: listen.parse().unwrap(),
        }
    }

    fn scene() -> Scene {
        Scene {
            own: party("own", "127.0.0.1:4101"),
            others: vec![party("a", "127.0.0.1:4102"), party("b", "0.0.0.0:4103")],
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            shown: vec!["/srv/own".to_owned()],
            network: Network::default(),
            supervisor: 1,
        }
    }

    #[test]
    fn the_catalogue_is_read_and_each_attempt_names_a_control() {
        let all = all().unwrap();
        assert!(all.len() > 100, "{}", all.len());
        let ids: BTreeSet<&str> = all.iter().map(|attempt| attempt.id.as_str()).collect();
        assert_eq!(ids.len(), all.len(), "two have one name");
        for attempt in &all {
            let control = &attempt.control;
            assert!(crate::audit::why(control).is_some(), "{}: no control {control}", attempt.id);
        }
    }

    #[test]
    fn every_placeholder_is_replaced() {
        let expanded = scene().attempts(&all().unwrap());
        for attempt in &expanded {
            for mark in ["{name}", "{directory}", "{state}", "{other.", "{host.", "{supervisor}"] {
                assert!(!mentions(attempt, mark), "{attempt:?}");
            }
        }
        let of = |id: &str| expanded.iter().filter(|attempt| attempt.id == id).collect::<Vec<_>>();
        assert_eq!(of("list-other-state").len(), 2);
        assert_eq!(of("host-address").len(), 2);
        let listeners: Vec<&Try> = of("other-listener").iter().map(|one| &one.how).collect();
        let leave = |ip: &str, port: &str| Try::Leave(ip.to_owned(), port.to_owned());
        assert_eq!(listeners, [&leave("192.0.2.1", "4103")]);
    }

    #[test]
    fn what_is_declared_is_not_tried() {
        let has = |scene: &Scene, id: &str| {
            scene.attempts(&all().unwrap()).iter().any(|attempt| attempt.id == id)
        };
        let mut scene = scene();
        assert!(has(&scene, "list-homes") && has(&scene, "private-10"));
        scene.shown.push("/home/alice/project".to_owned());
        scene.network.policy = crate::network::Policy::Unrestricted;
        assert!(!has(&scene, "list-homes") && !has(&scene, "private-10"));
        assert!(has(&scene, "host-address") && has(&scene, "list-root-home"));
    }
}
