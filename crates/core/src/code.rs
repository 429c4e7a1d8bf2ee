//! The stable codes of all diagnostics, with the text that `explain CODE` prints.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::diagnostic::Severity;

macro_rules! codes {
    ($($name:ident $text:literal $title:literal $explanation:literal)*) => {
        /// A diagnostic's stable code. `E…` refuses the specification, `W…` remarks on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as printed, `E0301`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// One line: what the code means.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Why it is refused and what to do, in Markdown.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    Syntax "E0101" "the text is not valid TOML or JSON"
"The file could not be read as TOML, or as JSON where its name ends in `.json`. Nothing else is
checked until it can be read."
    UnknownKey "E0102" "a key that is not an option"
"Every key must be an option's name, so that a typing error cannot silently leave a protection out.
`opencode-instances options` prints all of them."
    WrongType "E0103" "a value of the wrong type"
"The option takes another type. TOML and JSON write the same types; numbers and booleans are not
quoted."
    MissingOption "E0104" "a required option is missing"
"`directory` has no default: it is the project that the agent may write to, and no other place can
be guessed safely."
    DuplicateKey "E0105" "the same key twice"
"JSON allows a key twice and most readers keep the last one; here that would hide an option."
    BadName "E0201" "an instance name that cannot be a unit and user name"
"A name becomes part of unit names (`opencode-NAME.service`), of a user's name (`opencode-NAME`) and
of paths. It is a lower-case letter followed by lower-case letters, digits and hyphens."
    LongName "E0202" "an instance name longer than 22 characters"
"A Linux user name has at most 31 characters and `opencode-` takes nine of them."
    RelativePath "E0203" "a path that is not absolute"
"Units have no current directory that a relative path could start from."
    PathNotCanonical "E0204" "a path with `.`, `..`, `//` or a trailing slash"
"Two spellings of one place would defeat the checks that keep instances apart, so each place has
one spelling. Symbolic links are not resolved here: `check` never looks at the file system."
    PathNotBindable "E0205" "a path that systemd cannot bind"
"systemd's `BindPaths=` cannot express quotes or backslashes, and `WorkingDirectory=` loses
leading and trailing spaces. Rename the directory, or reach it through a symbolic link whose own
path has none of these."
    ControlCharacter "E0206" "a control character"
"Line breaks and other control characters could start a new directive in a unit file. No option
needs them."
    BadPort "E0207" "a port outside 1-65535"
"Port 0 means `any free port` to a kernel; a listener must be found again, so it needs a number."
    BadAddress "E0208" "not an IP address"
"`listen.address` takes an IPv4 or IPv6 address without brackets, port or zone. Names are not
resolved: what is listened on must not depend on a resolver."
    BadLogLevel "E0209" "not a log level"
"opencode 1.x accepts DEBUG, INFO, WARN and ERROR, in upper case, and refuses to start otherwise."
    BadAccount "E0210" "not a user or group name"
"Users and groups are named, not numbered: a lower-case letter or underscore, then lower-case
letters, digits, underscores and hyphens, 31 characters at most. `root` and the system's own
accounts are refused: the sandbox rests on the instance's user owning nothing else."
    ProtectedPath "E0211" "a path that belongs to the system"
"Binding this path into the sandbox would hand the agent a part of the host (its configuration, its
devices, its run-time sockets, every home) or be hidden by the sandbox's own private directories.
Give the project or the state a directory of its own."
    ReservedArgument "E0212" "a server argument that the unit sets itself"
"The address, port, log level and working directory of the server carry the isolation (the server listens
only inside its namespace), so they have options of their own."
    LongPath "E0213" "a path that is too long"
"Linux limits a path to 4,095 bytes and each of its parts to 255."
    BroadGroup "E0214" "a group that is root in disguise"
"Membership of this group gives the host away (container engines, disks, the shadow file, the
journal of every other instance)."
    EndpointTaken "E0301" "two instances listen on the same endpoint"
"An endpoint is an address and a port. A wildcard address (`0.0.0.0`, `::`) takes the port on every
address."
    UserShared "E0302" "one user for two instances"
"Two instances with one user could read each other's state and signal each other's processes."
    StateShared "E0303" "state directories that are the same or nested"
"A state directory is the HOME of exactly one instance."
    StateInProject "E0304" "a state directory inside a project, or the reverse"
"The agent writes to both. Nested, one instance's project would reach a state directory, with its
sessions and keys, or the state's owner could replace the project's parent directory."
    ProjectInState "E0305" "a project directory inside another instance's state"
"The owner of that state could rename or replace the project, and the project's agent would sit
inside another instance's HOME."
    OpenListener "E0306" "a listener for the network without authentication"
"An opencode server runs commands for whoever can reach it. Without a password it may only listen on
a loopback address."
    NestedProjects "E0307" "one project directory inside another's"
"The instance with the outer directory could replace everything in the inner one, and could make the
inner one's server run its plugins. Give each instance its own directory; two instances may share
one directory exactly, which is reported as a warning."
    WritablePackage "E0308" "a package that an agent can write"
"The package is what the server and its supervisor start. Inside a project or a state directory, an
agent could replace it, and so run its own program as another instance."
    SharedProject "W0401" "two instances share one project directory"
"What one of them writes (a build script, `.opencode/` plugins), the other one executes. Their state,
network and processes stay apart; their project does not."
    NoInstance "W0402" "no instance is enabled"
"There is nothing to install. `apply` removes what an earlier specification installed."
    OpenLoopback "W0403" "authentication is off"
"Every local user of the host can reach a loopback listener, and so run commands as the instance's
user inside its sandbox."
}

impl Code {
    /// Errors refuse, warnings remark.
    pub fn severity(self) -> Severity {
        if self.as_str().starts_with('E') { Severity::Error } else { Severity::Warning }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The text is not a diagnostic's code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no diagnostic has the code {0:?}")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let wanted = text.trim().to_ascii_uppercase();
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == wanted)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        let texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let mut sorted = texts.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(texts, sorted);
    }

    #[test]
    fn a_code_is_found_in_any_case() {
        assert_eq!("e0301".parse::<Code>(), Ok(Code::EndpointTaken));
        assert!("E9999".parse::<Code>().is_err());
    }
}
