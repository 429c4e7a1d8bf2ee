//! The page about Debian, whose commands the test runs.

use std::fs;

use instances_lab::{Machine, fleet, place};

pub(crate) struct Page(String);

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let path = place::workspace().join(path);
        Self(fs::read_to_string(path).unwrap())
    }

    /// Runs the block with that word where the packages are; the first command that fails ends it. Returns what all of
    /// them said.
    pub(crate) fn run(&self, machine: &Machine, word: &str) -> String {
        let begin = format!("```sh debian {word}\n");
        let (_, rest) = self.0.split_once(&begin).unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        machine.put("/root/block.sh", format!("set -eux\ncd /root\n{block}"), 0o644).unwrap();
        let output = machine.run_for(fleet::PATIENCE, ["sh", "/root/block.sh"]).unwrap();
        assert!(output.success(), "{word}: {output}");
        format!("{}{}", output.stdout, output.stderr)
    }
}
