//! Specifications that are odd but legal.

use anyhow::{Result, anyhow};
use instances_core::lower::read;
use instances_core::node::Format;
use instances_core::spec::{AbsPath, Spec};
use serde_json::{Map, Value, json};

/// What means something to systemd, to a shell or to a parser, and letters of more than one byte.
const MARKS: &[&str] = &[
    "a", "b", "7", "%", "%%", "%n", "%h", ":", "\\:", "$", "$$", "${HOME}", "$MAINPID", ";", " ; ",
    "#", "!", "@", "&", "*", "(", ")", "[", "]", "{", "}", "<", ">", "|", "~", "^", "=", "+", ",",
    ".", "?", "-", "_", " ", "  ", "\u{a0}", "\u{3000}", "ü", "漢", "🎉", "'", "\"", "\\", "\\x20",
    "\\n", "`", "/",
];

/// Numbers that look random and are the same each time.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }

    fn text(&mut self, length: usize) -> String {
        (0..length).filter_map(|_| MARKS.get(self.roll(MARKS.len())).copied()).collect()
    }

    fn path(&mut self, below: &str) -> String {
        loop {
            let length = 1 + self.roll(8);
            let path = format!("{below}{}", self.text(length));
            if AbsPath::new(&path).is_ok() {
                return path;
            }
        }
    }

    fn name(&mut self) -> String {
        let letters = "abcdefgh_0-9";
        let length = 1 + self.roll(20);
        let rest = (0..length).filter_map(|_| letters.chars().nth(self.roll(letters.len())));
        format!("g{}", rest.collect::<String>())
    }
}

/// A specification with this many instances, no two of which get in each other's way.
pub(crate) fn spec(count: usize) -> Result<Spec> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut instances = Map::new();
    while instances.len() < count {
        let number = instances.len();
        let instance = instance(&mut dice, number);
        let alone = json!({ "instances": { "i": instance } }).to_string();
        // An argument may be one that the engine itself sets, which it refuses.
        if read(&alone, Format::Json).is_ok() {
            instances.insert(format!("i{number}"), instance);
        }
    }
    let all = json!({ "instances": instances }).to_string();
    let (spec, _) = read(&all, Format::Json).map_err(|errors| anyhow!("{errors:#?}"))?;
    Ok(spec)
}

fn instance(dice: &mut Dice, number: usize) -> Value {
    let mut instance = json!({
        "directory": dice.path(&format!("/srv/{number}-")),
        "listen": { "port": 10_000 + number },
        "package": dice.path(&format!("/opt/{number}-")),
        "auth": { "enable": dice.roll(2) == 0 },
        "extraArgs": (0..dice.roll(5)).map(|_| { let length = dice.roll(9); dice.text(length) }).collect::<Vec<_>>(),
        "extraGroups": (0..dice.roll(3)).map(|_| dice.name()).collect::<Vec<_>>(),
    });
    if let (0, Some(fields)) = (dice.roll(2), instance.as_object_mut()) {
        let default = dice.roll(2) == 0;
        let parent = if default { "/var/lib/opencode/instance-state" } else { "/data" };
        fields.insert("stateDir".into(), dice.path(&format!("{parent}/{number}-")).into());
    }
    if let (0, Some(listen)) = (dice.roll(3), instance.pointer_mut("/listen")) {
        listen["address"] = "2001:db8::1".into();
    }
    instance
}
