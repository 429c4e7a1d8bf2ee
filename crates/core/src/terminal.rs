//! Text on a terminal: what may go there, how wide it is, and where its lines break.
//!
//! A server's words, and what the journal gives back of them, are an agent's to choose.

/// The text with everything escaped that a terminal acts on, or that looks like nothing or like another
/// place: control characters, line breaks, what turns the direction of text, what has no width.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '"' | '\'' | '\\' => shown.push(one),
            _ => shown.extend(one.escape_debug()),
        }
    }
    shown
}

/// How many columns a text takes, and never fewer: what is beyond the first scripts counts twice.
pub fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

fn width_of(one: char) -> usize {
    if u32::from(one) < 0x1100 || ('\u{2010}'..='\u{2027}').contains(&one) { 1 } else { 2 }
}

/// The text in lines of at most `columns`, broken at spaces, and within a word that is longer than a line.
/// Nothing but spaces at the breaks is left out.
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let space = usize::from(!line.is_empty());
        if width(&line) + space + width(word) <= columns {
            line.extend([" "].iter().take(space).copied());
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for one in word.chars() {
            if width(&line) + width_of(one) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(one);
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        for (text, expected) in [
            ("a plain 'word' \\ — \"é\"", "a plain 'word' \\ — \"é\""),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\nb\rc\td\0", "a\\nb\\rc\\td\\0"),
            ("\u{202e}txt\u{200b}\u{2028}", "\\u{202e}txt\\u{200b}\\u{2028}"),
        ] {
            assert_eq!(harmless(text), expected);
        }
    }

    #[test]
    fn lines_break_at_spaces_and_lose_nothing() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrapped("漢字漢", 4), ["漢字", "漢"]);
        assert!(wrapped("  ", 4).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_harmless_and_fits(text in any::<String>(), columns in 2_usize..40) {
            let shown = harmless(&text);
            prop_assert!(!shown.contains(char::is_control));
            let lines = wrapped(&shown, columns);
            prop_assert!(lines.iter().all(|line| width(line) <= columns));
            let joined = |text: &str| text.replace(' ', "");
            prop_assert_eq!(joined(&lines.concat()), joined(&shown));
        }
    }
}
