//! What the reader is told.

use std::ffi::OsString;

use instances_core::spec::InstanceName;

/// Whose packets are read, and where the service manager listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The instance.
    pub name: InstanceName,
    /// `--policy`: the name of the policy that refuses, for the records.
    pub policy: String,
    /// `NOTIFY_SOCKET`: where messages go, see `sd_notify(3)`.
    pub notify_socket: Option<OsString>,
}

/// What is wrong with the arguments.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// There is no instance.
    #[error("the name of an instance is missing")]
    NoName,
    /// It is none.
    #[error("{0:?} is not the name of an instance")]
    Name(OsString),
    /// There is no `--policy`.
    #[error("--policy is missing")]
    NoPolicy,
    /// It is no word.
    #[error("{0:?} is not a policy")]
    Policy(OsString),
    /// An argument that means nothing here.
    #[error("unexpected argument {0:?}")]
    Unexpected(OsString),
}

/// Parses what follows the word `events`: `NAME --policy POLICY`.
///
/// It is separate from the command line's own parser so that the reader, which is resident once for
/// each instance, need not load that.
///
/// # Errors
///
/// See [`UsageError`].
pub fn parse_args(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, UsageError> {
    let (mut name, mut policy) = (None, None);
    while let Some(word) = arguments.next() {
        if word == "--policy" && policy.is_none() {
            let value = arguments.next().ok_or(UsageError::NoPolicy)?;
            policy = Some(self::policy(value)?);
        } else if name.is_none() && !word.as_encoded_bytes().starts_with(b"-") {
            let parsed = word.to_str().and_then(|text| InstanceName::new(text).ok());
            name = Some(parsed.ok_or(UsageError::Name(word))?);
        } else {
            return Err(UsageError::Unexpected(word));
        }
    }
    Ok(Options {
        name: name.ok_or(UsageError::NoName)?,
        policy: policy.ok_or(UsageError::NoPolicy)?,
        notify_socket: std::env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty()),
    })
}

fn policy(value: OsString) -> Result<String, UsageError> {
    let plain = |text: &&str| {
        (1..=32).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    value.to_str().filter(plain).map(str::to_owned).ok_or(UsageError::Policy(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(String, String), UsageError> {
        let options = parse_args(line.split_whitespace().map(OsString::from))?;
        Ok((options.name.to_string(), options.policy))
    }

    #[test]
    fn arguments() {
        let expected = Ok(("web".to_owned(), "allow-list".to_owned()));
        assert_eq!(parse("web --policy allow-list"), expected);
        assert_eq!(parse("--policy allow-list web"), expected);
        assert_eq!(parse("--policy none"), Err(UsageError::NoName));
        assert_eq!(parse("web"), Err(UsageError::NoPolicy));
        assert_eq!(parse("web --policy"), Err(UsageError::NoPolicy));
        assert_eq!(parse("../x --policy none"), Err(UsageError::Name("../x".into())));
        assert_eq!(parse("web --policy N0"), Err(UsageError::Policy("N0".into())));
        for (line, odd) in [("web x --policy none", "x"), ("--verbose", "--verbose")] {
            assert_eq!(parse(line), Err(UsageError::Unexpected(odd.into())));
        }
    }
}
