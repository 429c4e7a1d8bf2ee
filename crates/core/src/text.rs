//! The narrow types of the specification: names, paths and arguments that are already legal.
//!
//! Each constructor reports what is wrong with its own text; where the text stands is the caller's
//! knowledge. Illegal values cannot be represented, so nothing after this module checks again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::diagnostic::Code;

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {help}")]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The reason, as the words beside the caret.
    pub reason: String,
    /// The smallest change that would be accepted.
    pub help: String,
}

impl Refusal {
    fn new(code: Code, reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), help: help.into() }
    }
}

macro_rules! text_type {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_type! {
    /// An instance's name: `[a-z][a-z0-9-]{0,21}`, so that `opencode-NAME` is a legal user name.
    InstanceName
}
text_type! {
    /// A user's or group's name: `[a-z_][a-z0-9_-]{0,30}`.
    AccountName
}
text_type! {
    /// A canonical absolute path that systemd can bind and change into.
    AbsPath
}
text_type! {
    /// An argument of the server: no control characters.
    Argument
}

text_type! {
    /// What is assigned to a directive in systemd's own syntax: one line, read alike by systemd and by
    /// NixOS's `switch-to-configuration`.
    DirectiveText
}

impl<'de> Deserialize<'de> for AbsPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The longest instance name: a user name has 31 characters and `opencode-` takes nine.
pub const NAME_MAX: usize = 22;

impl InstanceName {
    /// Refuses anything but `[a-z][a-z0-9-]{0,21}`.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !first || !text.bytes().all(legal) || text.ends_with('-') {
            let help = match legal_name(text) {
                Some(name) => format!("rename it to `{name}`"),
                None => "use a lower-case letter first, as in `web`".to_owned(),
            };
            return Err(Refusal::new(
                Code::BadName,
                "a name starts with a lower-case letter, goes on with lower-case letters, digits and \
                 hyphens, and does not end in a hyphen",
                help,
            ));
        }
        if text.len() > NAME_MAX {
            let short = text.get(..NAME_MAX).unwrap_or_default().trim_end_matches('-');
            return Err(Refusal::new(
                Code::LongName,
                format!("{} characters, at most {NAME_MAX} fit a user's name", text.len()),
                format!("shorten it, for example to `{short}`"),
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// `opencode-NAME`, the user and group that are made for the instance when none is named.
    pub fn account(&self) -> AccountName {
        AccountName(format!("opencode-{}", self.0))
    }
}

impl FromStr for InstanceName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::new(text)
    }
}

impl TryFrom<String> for InstanceName {
    type Error = Refusal;

    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::new(&text)
    }
}

impl<'de> Deserialize<'de> for InstanceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The nearest legal name, if anything of the text can stay.
fn legal_name(text: &str) -> Option<String> {
    let folded: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let name: String = folded
        .trim_start_matches(|c: char| !c.is_ascii_lowercase())
        .chars()
        .take(NAME_MAX)
        .collect();
    let name = name.trim_end_matches('-').to_owned();
    (!name.is_empty()).then_some(name)
}

/// Accounts whose files and processes are the system's own.
const SYSTEM_ACCOUNTS: &[&str] = &[
    "root",
    "daemon",
    "bin",
    "sys",
    "sync",
    "mail",
    "proxy",
    "www-data",
    "backup",
    "nobody",
    "nogroup",
    "messagebus",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
    "systemd-journal",
];

/// Groups whose members can become root, read secrets or every instance's log, change the host's
/// network, or listen to its wires and keys; on the distributions and on NixOS.
const BROAD_GROUPS: &[&str] = &[
    // Root itself, and who may become it.
    "root",
    "wheel",
    "sudo",
    "admin",
    // Whole disks, memory, password hashes, secrets, logs.
    "disk",
    "kmem",
    "shadow",
    "keys",
    "adm",
    "systemd-journal",
    // Containers and machines, which can be told to show the host's files.
    "docker",
    "podman",
    "lxd",
    "incus",
    "incus-admin",
    "libvirt",
    "libvirtd",
    "libvirt-qemu",
    "qemu-libvirtd",
    "kvm",
    "vboxusers",
    // The network and what goes over it, keyboards.
    "networkmanager",
    "netdev",
    "wireshark",
    "input",
    // Who builds what root installs.
    NIX_BUILDER,
];

/// The group of Nix's build users, and what their names begin with: `nixbld1`, `nixbld2` and so on.
const NIX_BUILDER: &str = "nixbld";

impl AccountName {
    fn new(text: &str, what: &str) -> Result<Self, Refusal> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if !first || !text.bytes().all(legal) || text.len() > 31 {
            return Err(Refusal::new(
                Code::BadAccount,
                "a lower-case letter or underscore, then lower-case letters, digits, underscores and \
                 hyphens, 31 characters at most",
                format!("name an existing {what}, or remove the line to have one made"),
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// A user that an instance may run as: legal, and not one of the system's own.
    pub fn user(text: &str) -> Result<Self, Refusal> {
        let name = Self::new(text, "user")?;
        if SYSTEM_ACCOUNTS.contains(&text) || is_nix_builder(text) {
            return Err(Refusal::new(
                Code::BadAccount,
                format!("`{text}` is one of the system's own users"),
                "remove the line to have a user made for the instance",
            ));
        }
        Ok(name)
    }

    /// A group that an instance may run in.
    pub fn group(text: &str) -> Result<Self, Refusal> {
        let name = Self::new(text, "group")?;
        if BROAD_GROUPS.contains(&text) {
            return Err(Refusal::new(
                Code::BroadGroup,
                format!("members of `{text}` can reach beyond the sandbox"),
                "use a group that owns nothing but the files the agent should share",
            ));
        }
        Ok(name)
    }
}

fn is_nix_builder(user: &str) -> bool {
    let number = user.strip_prefix(NIX_BUILDER);
    number.is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The longest path the kernel takes, without its terminating zero.
const PATH_LENGTH_MAX: usize = 4095;
/// The longest part of a path.
const PART_LENGTH_MAX: usize = 255;

impl AbsPath {
    /// Refuses relative and non-canonical paths and those that systemd cannot bind.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        no_control(text)?;
        if !text.starts_with('/') {
            return Err(Refusal::new(
                Code::RelativePath,
                "not absolute",
                format!(
                    "start it with a slash, as in `/srv/{}`",
                    canonical(text).trim_start_matches('/')
                ),
            ));
        }
        if text.contains(['\'', '"', '\\']) {
            return Err(Refusal::new(
                Code::PathNotBindable,
                "systemd cannot bind a path with a quote or a backslash",
                "rename the directory, or use a symbolic link without them",
            ));
        }
        if text.split('/').any(|part| {
            part.starts_with(char::is_whitespace) || part.ends_with(char::is_whitespace)
        }) {
            return Err(Refusal::new(
                Code::PathNotBindable,
                "systemd drops spaces at the edge of a name",
                "rename the directory so that no part starts or ends with a space",
            ));
        }
        let clean = canonical(text);
        if clean != text {
            return Err(Refusal::new(
                Code::PathNotCanonical,
                "not canonical",
                format!("write `{clean}`"),
            ));
        }
        if text.len() > PATH_LENGTH_MAX || text.split('/').any(|part| part.len() > PART_LENGTH_MAX)
        {
            return Err(Refusal::new(
                Code::LongPath,
                format!("{} bytes", text.len()),
                format!("at most {PATH_LENGTH_MAX} bytes, and {PART_LENGTH_MAX} for each part"),
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// A path of this program's own, known to be legal.
    pub(crate) fn literal(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

/// The path without `.`, `..`, empty parts and a trailing slash, by text alone.
fn canonical(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl Argument {
    /// Refuses control characters.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        no_control(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl DirectiveText {
    /// Refuses what would not stay on its line.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        no_control(text)?;
        let refuse =
            |reason: &str, help: &str| Err(Refusal::new(Code::BadDirectiveValue, reason, help));
        if text.trim() != text {
            return refuse("systemd drops spaces at the ends", "remove the space");
        }
        if text.ends_with('\\') {
            return refuse("a backslash at the end joins the next line", "remove the backslash");
        }
        if text.starts_with(['"', '\'']) {
            return refuse(
                "NixOS reads a value that starts with a quote differently from systemd",
                "start the quotes after the first character, as in `A=\"b c\"`",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Refuses control characters, and what shows a text as another.
pub(crate) fn no_control(text: &str) -> Result<(), Refusal> {
    match text.chars().find(|c| c.is_control() || is_deceptive(*c)) {
        None => Ok(()),
        Some(found) => Err(Refusal::new(
            Code::ControlCharacter,
            format!("contains U+{:04X}", u32::from(found)),
            "remove it; no option needs line breaks or other control characters",
        )),
    }
}

/// What systemd refuses as text (noncharacters), and what shows a text as another (the controls of
/// writing direction).
fn is_deceptive(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0xFDD0..=0xFDEF | 0x200E | 0x200F | 0x202A..=0x202E | 0x2066..=0x2069)
        || code & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<(), Code> {
        AbsPath::new(text).map(drop).map_err(|refusal| refusal.code)
    }

    #[test]
    fn names_fit_units_and_users() {
        for name in ["a", "web", "a-b", "a1", "abcdefghijklmnopqrstuv"] {
            assert!(InstanceName::new(name).is_ok(), "{name}");
        }
        for name in ["", "A", "1a", "-a", "a_b", "a.b", "a@b", "a b", "ä", "a-", "a\n"] {
            assert_eq!(InstanceName::new(name).map_err(|r| r.code), Err(Code::BadName), "{name:?}");
        }
        let long = "abcdefghijklmnopqrstuvw";
        assert_eq!(InstanceName::new(long).map_err(|r| r.code), Err(Code::LongName));
        assert_eq!(
            InstanceName::new("My Web!").map_err(|r| r.help),
            Err("rename it to `my-web`".into())
        );
    }

    #[test]
    fn paths_have_one_spelling() {
        for good in ["/", "/srv", "/srv/my project", "/srv/ü:%$;#", "/a/...", "/a/.b"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        assert_eq!(path("srv"), Err(Code::RelativePath));
        for bad in ["/srv/", "//srv", "/srv/../etc", "/./srv", "/srv//x"] {
            assert_eq!(path(bad), Err(Code::PathNotCanonical), "{bad}");
        }
        for bad in ["/a'b", "/a\"b", "/a\\b", "/a ", "/ a", "/a /b", "/a\u{3000}"] {
            assert_eq!(path(bad), Err(Code::PathNotBindable), "{bad}");
        }
        for bad in ["/a\nExecStart=x", "/a\u{fffe}b", "/a\u{202e}b", "/a\u{1ffff}"] {
            assert_eq!(path(bad), Err(Code::ControlCharacter), "{bad:?}");
        }
        assert_eq!(path(&format!("/{}", "x".repeat(256))), Err(Code::LongPath));
    }

    #[test]
    fn accounts_are_neither_the_systems_nor_root_in_disguise() {
        assert!(AccountName::user("alice").is_ok());
        assert!(AccountName::user("nixbld-helper").is_ok());
        for bad in ["root", "0", "", "Alice", "a:b", "www-data", "nixbld", "nixbld1", "nixbld32"] {
            assert_eq!(AccountName::user(bad).map_err(|r| r.code), Err(Code::BadAccount), "{bad}");
        }
        assert!(AccountName::group("www-data").is_ok());
        let broad =
            ["docker", "libvirtd", "keys", "networkmanager", "wireshark", "input", "vboxusers"];
        for bad in broad.into_iter().chain(["incus", "incus-admin", "nixbld"]) {
            assert_eq!(AccountName::group(bad).map_err(|r| r.code), Err(Code::BroadGroup), "{bad}");
        }
    }
}
