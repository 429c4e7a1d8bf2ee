//! The table and the tests: no row without a case, and no case without a row.

use std::collections::BTreeSet;
use std::fs;

use instances_lab::faults::{Fault, all};
use instances_lab::progress::say;
use instances_lab::{Machine, place};

/// What is done for one row, by the name of its function.
pub(crate) type Case = (&'static str, fn(&mut Machine, &Fault));

/// Does all rows whose tests are in a file of this directory.
pub(crate) fn each(file: &str, machine: &mut Machine, cases: &[Case]) {
    let prefix = format!("lab/tests/faults/{file}::");
    let rows: Vec<Fault> = all().unwrap();
    let rows = rows.iter().filter_map(|row| Some((row.test.strip_prefix(&prefix)?, row)));
    let rows: Vec<(&str, &Fault)> = rows.collect();
    let (of_rows, of_cases): (BTreeSet<_>, BTreeSet<_>) =
        (rows.iter().map(|row| row.0).collect(), cases.iter().map(|case| case.0).collect());
    assert_eq!(of_rows, of_cases, "{file}: rows, and cases");
    for (name, row) in rows {
        say(&format!("{}: {}", row.command, row.fault));
        let (_, case) = cases.iter().find(|case| case.0 == name).unwrap();
        case(machine, row);
    }
}

/// Every word of the row is in what was said.
pub(crate) fn assert_says(row: &Fault, said: &str) {
    for words in &row.says {
        assert!(said.contains(words), "{}: no {words:?} in {said}", row.test);
    }
}

#[test]
fn every_row_names_a_function_that_is_there() {
    let rows = all().unwrap();
    for row in &rows {
        let (file, function) = row.place().unwrap();
        let path = place::workspace().join("crates").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {function}(")), "{}", row.test);
        assert!(row.outcome.ends_with('.') && row.fault.len() > 10, "{}", row.test);
    }
    let commands: BTreeSet<&str> = rows.iter().map(|row| row.command.as_str()).collect();
    for command in ["apply", "remove", "setup", "backup", "restore"] {
        assert!(commands.contains(command), "{command}");
        for fault in ["SIGKILL", "no room", "power cut"] {
            let mut of = rows.iter().filter(|row| row.command == command);
            let none = command == "remove" && fault == "no room";
            assert!(none || of.any(|row| row.fault.contains(fault)), "{command}: {fault}");
        }
    }
}
