//! What is almost well-formed: seeds, changed in a few places. The same ones in every run.

/// How many each test makes.
pub(crate) const COUNT: usize = 10_000;

/// Numbers that follow from each other.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// As Sebastiano Vigna's `SplitMix64` has it.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap().max(1);
        usize::try_from(self.next() % end).unwrap()
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// What lengths, counts and offsets are when somebody means harm.
const NUMBERS: &[u16] = &[0, 1, 3, 4, 7, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xc00c, 0xffff];

/// One of the seeds with a few of its bytes changed, at most `longest` long.
pub(crate) fn bytes(dice: &mut Dice, seeds: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(6) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below((bytes.len() - at).min(24) + 1);
        match dice.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
            2 | 3 if at + 2 <= bytes.len() => {
                let number = NUMBERS[dice.below(NUMBERS.len())];
                let number =
                    if dice.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                bytes[at..at + 2].copy_from_slice(&number);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].repeat(1 + dice.below(40));
                bytes.splice(at..at, again);
            }
            7 => {
                let other = &seeds[dice.below(seeds.len())];
                bytes.splice(at.., other[dice.below(other.len())..].iter().copied());
            }
            _ => {
                let some: Vec<u8> =
                    (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
                bytes.splice(at..at, some);
            }
        }
    }
    bytes.truncate(longest);
    bytes
}

/// What means something in a text, or should mean nothing.
const WORDS: &[&str] = &[
    "\0",
    "\u{feff}",
    "\u{202e}",
    "\u{2028}",
    "e\u{301}",
    "👩‍👩‍👧",
    "\u{10ffff}",
    "\r",
    "\t",
    "\u{1b}[2J",
    "\u{85}",
    "\\u0000",
    "\\ud800",
    "\\udc00\\ud800",
    "\\x",
    "\\",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "#",
    "=",
    "==",
    ".",
    "..",
    ",",
    ",,",
    ":",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "{}",
    "[]",
    "null",
    "true",
    "false",
    "nan",
    "-inf",
    "1979-05-27T07:32:00Z",
    "1e999",
    "-1e-999",
    "1e-400",
    "0x7fffffffffffffffff",
    "-0",
    "+0",
    "00",
    "1_0",
    "1__0",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "4294967296",
    "65536",
    "-1",
    "0.1",
    "1.",
    ".1",
    "%n",
    "%%",
    "$$",
    "${HOME}",
    "../",
    "/",
    "//",
    "/proc/self/root",
    "::ffff:0:0/0",
    "0.0.0.0/0",
    "1.2.3.4/33",
    "*",
    "*.",
    "xn--",
    "~",
    " ",
    "\n[defaults]\n",
    "\n[instances.web]\n",
    "\n[[instances]]\n",
    "\ninstances.web.listen.port = 1\n",
    "listen",
    "network",
    "sandbox",
];

/// One of the seeds with a few of its lines, words and characters changed.
pub(crate) fn text(dice: &mut Dice, seeds: &[String]) -> String {
    let mut text = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(3) {
        let at = boundary(dice, &text);
        match dice.below(12) {
            0 => text.truncate(at),
            1 => drop(text.drain(at..next(&text, at))),
            2 | 3 => text.insert_str(at, dice.pick(WORDS)),
            4 => text.insert(
                at,
                char::from_u32(u32::try_from(dice.below(0x11_0000)).unwrap()).unwrap_or('\u{fffd}'),
            ),
            // A line twice, which is a key or a table twice; or somewhere else.
            5 | 6 => {
                let lines: Vec<&str> = text.split_inclusive(['\n', ',']).collect();
                let line =
                    lines.get(dice.below(lines.len())).copied().unwrap_or_default().to_owned();
                text.insert_str(at, &line);
            }
            // A word or a number for another.
            7 | 8 => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
                let (before, after) = text.split_at(at);
                let start = before.rfind(|c| !word(c)).map_or(0, |at| next(&text, at));
                let end = after.find(|c| !word(c)).map_or(text.len(), |end| at + end);
                let new = if dice.below(3) == 0 {
                    "9".repeat(1 + dice.below(400))
                } else {
                    dice.pick(WORDS).to_owned()
                };
                text.replace_range(start..end, &new);
            }
            9 => {
                let open =
                    dice.pick(&["[", "{", "{\"a\":", "[{\"a\":", "a.", "[[", "{a=", "\"", "\\\""]);
                let often = 1 << dice.below(12);
                text.insert_str(at, &open.repeat(often));
            }
            10 => {
                let long = dice
                    .pick(&["a", "é", "/a", "a,", "\"a\",", "\\n", "%", " ", "0", "👩", "a.", "#"]);
                text.insert_str(at, &long.repeat(dice.below(2000)));
            }
            _ => {
                let other = &seeds[dice.below(seeds.len())];
                let from = boundary(dice, other);
                text.truncate(at);
                text.push_str(other.split_at(from).1);
            }
        }
    }
    text
}

/// A place between two characters.
fn boundary(dice: &mut Dice, text: &str) -> usize {
    let at = dice.below(text.len() + 1);
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The place behind the character at another.
fn next(text: &str, at: usize) -> usize {
    at + text.split_at(at).1.chars().next().map_or(0, char::len_utf8)
}
