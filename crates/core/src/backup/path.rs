//! Paths below HOME and targets of links: any bytes, and how they are written as text.
//!
//! Text is what can be shown on a terminal: every byte that is part of no plain character is `\xNN`,
//! and so is a backslash. Each has one spelling.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::no_control;

/// The longest path that the kernel takes.
const PATH_LENGTH: usize = 4095;
/// The longest name in a directory.
const NAME_LENGTH: usize = 255;

/// Bytes of the agent's choice, which are shown escaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Any bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(&self.0))
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        written(&bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        read(&text).map(Self).ok_or("it is not written as a backup writes it")
    }
}

fn written(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hidden = |text: &mut String, bytes: &[u8]| {
        text.extend(bytes.iter().map(|byte| format!("\\x{byte:02x}")));
    };
    let mut buffer = [0; 4];
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let one = c.encode_utf8(&mut buffer);
            if c == '\\' || no_control(one).is_err() {
                hidden(&mut text, one.as_bytes());
            } else {
                text.push(c);
            }
        }
        hidden(&mut text, chunk.invalid());
    }
    text
}

fn read(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split("\\x");
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    (written(&bytes) == text).then_some(bytes)
}

/// A path below HOME: parts that are names, and no way out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct TreePath(Bytes);

impl TreePath {
    /// Refuses what is absolute, leads out, has several spellings, or is longer than the kernel takes.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, &'static str> {
        let bytes = bytes.into();
        if bytes.len() > PATH_LENGTH {
            return Err("it is longer than the kernel takes");
        }
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return Err("it is absolute, empty, or has an empty part"),
                b"." | b".." => return Err("it has a part that is no name"),
                _ if part.contains(&0) => return Err("it contains a zero byte"),
                _ if part.len() > NAME_LENGTH => return Err("a part is longer than a name may be"),
                _ => {}
            }
        }
        Ok(Self(Bytes(bytes)))
    }

    /// A name below this path.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn join(above: Option<&Self>, name: &[u8]) -> Result<Self, &'static str> {
        match above {
            None => Self::new(name),
            Some(above) => Self::new([above.as_bytes(), b"/", name].concat()),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The names from HOME on.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.as_bytes().split(|byte| *byte == b'/')
    }

    /// The last name.
    pub fn name(&self) -> &[u8] {
        self.parts().last().unwrap_or_default()
    }

    /// How many names it has.
    pub fn depth(&self) -> usize {
        self.parts().count()
    }

    /// The directory above, as bytes; nothing right below HOME.
    pub fn above(&self) -> Option<&[u8]> {
        let at = self.as_bytes().iter().rposition(|byte| *byte == b'/')?;
        self.as_bytes().get(..at)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<Bytes> for TreePath {
    type Error = &'static str;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        Self::new(bytes.0)
    }
}

impl From<TreePath> for Bytes {
    fn from(path: TreePath) -> Self {
        path.0
    }
}

/// A directory before what is in it, and that before the directory's next neighbour.
impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(other.parts())
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        for (bytes, text) in [
            (&b"plain name"[..], "plain name"),
            ("grün".as_bytes(), "grün"),
            (b"a\nb\x1b[2J", "a\\x0ab\\x1b[2J"),
            (b"back\\slash", "back\\x5cslash"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
        ] {
            assert_eq!(Bytes::new(bytes).to_string(), text);
        }
    }

    #[test]
    fn what_leads_out_is_no_path() {
        for bad in [&b""[..], b"/etc", b"../x", b"a/../b", b"a//b", b"a/", b".", b"a/./b", b"a\0b"]
        {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        assert!(TreePath::new(vec![b'a'; 256]).is_err());
        assert!(TreePath::new("a/".repeat(3000) + "a").is_err());
        assert!(TreePath::new("...").is_ok());
    }

    #[test]
    fn a_directory_comes_right_before_what_is_in_it() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let mut paths = ["a.b", "a/z", "a", "a/b/c", "a/b", "a-b"].map(path);
        paths.sort();
        assert_eq!(paths.map(|path| path.to_string()), ["a", "a/b", "a/b/c", "a/z", "a-b", "a.b"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn any_bytes_come_back_from_their_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = String::from(Bytes::new(bytes.clone()));
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(Bytes::try_from(text).unwrap().0, bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(\\\\|\\\\x|\\\\x0|\\\\xff|[a-f0-9é/.]){0,12}") {
            if let Ok(bytes) = Bytes::try_from(text.clone()) {
                prop_assert_eq!(String::from(bytes), text);
            }
        }
    }
}
