//! What a record of a refusal looks like in the journal: written by the services of an instance,
//! read by `blocked`.

/// `MESSAGE_ID=` of a refusal: packets of one flow, or questions for one name.
pub const REFUSED: &str = "5b0d3c1f7a9e4c6fb8d2a64e90c1f7b3";
/// `MESSAGE_ID=` of what was refused but could not be told.
pub const LOST: &str = "e27f4a9c06d84b15a3b97c5d21f8e640";

/// The netfilter log group that the rules of a namespace write to.
pub const GROUP: u16 = 1;

/// `OPENCODE_PROTOCOL=` of a name that was not resolved.
pub const DNS: &str = "dns";
/// `OPENCODE_PROTOCOL=` of flows beyond those that are told apart.
pub const OTHER: &str = "other";

/// The most bytes of a name in the DNS's text form.
const MAX_NAME: usize = 253;

/// Whether it is a name of a host in its text form, and nothing that a terminal or a table could
/// take for something else.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        for name in ["example.org", "_dmarc.example.org", "a", "xn--bcher-kva.example"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "a\u{1b}[2J", "bücher", "*.org", "a\nb", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
