//! Commands in messages: what an operator copies out of one must do what it says.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A path as one word of a command line, as bash and its like read it; an ordinary one as it is.
pub fn word(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(b);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.as_bytes().iter().all(plain) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        // A line break would end the message's line, and other bytes would not come out as they are.
        _ => {
            let shown = |b: &u8| match b {
                b'\'' | b'\\' => format!("\\{}", char::from(*b)),
                b' '..=b'~' => char::from(*b).to_string(),
                _ => format!("\\{b:03o}"),
            };
            format!("$'{}'", path.as_os_str().as_bytes().iter().map(shown).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::process::Command;

    #[test]
    fn a_shell_reads_each_path_as_it_is() {
        assert_eq!(word("/srv/web-1/a_b.c"), "/srv/web-1/a_b.c");
        assert_eq!(word("/srv/my web"), "'/srv/my web'");
        let odd: [&[u8]; 11] = [
            b"/srv/it's",
            b"/srv/$(reboot)",
            b"/srv/`reboot`;reboot&",
            b"/srv/~ *?[a]{b,c}",
            b"/srv/\"a\" \\b",
            b"/srv/#a !b",
            "/srv/gr\u{fc}n".as_bytes(),
            b"/srv/a\nb\tc'\\d 1\x011",
            b"/srv/\xff'\\x",
            b"",
            b"''",
        ];
        for bytes in odd {
            let script = format!("printf %s {}", word(OsStr::from_bytes(bytes)));
            let said = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(
                (said.stdout.as_slice(), said.stderr.as_slice()),
                (bytes, &b""[..]),
                "{script}"
            );
        }
    }
}
