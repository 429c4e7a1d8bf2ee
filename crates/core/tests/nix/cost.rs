//! What an instance makes an evaluation allocate, which no load of the machine changes. How long it
//! takes is for `cargo xtask bench` to say.

use crate::evaluate::{nix, nixpkgs_lib};
use serde_json::Value;

/// What the evaluation of `count` instances allocates, in bytes.
fn allocated(lib: &str, by: &str, count: u32) -> Option<f64> {
    let count = count.to_string();
    let given = ["--argstr", "nixpkgsLib", lib, "--argstr", "by", by, "--argstr", "count", &count];
    let file = ["--eval", "--strict", "nix/tests/eval/bench.nix"];
    let output = nix(&[&file[..], &given[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stderr).unwrap();
    let figures: Value = serde_json::from_str(said.get(said.find("{\n")?..)?).unwrap();
    figures.pointer("/gc/totalBytes")?.as_f64()
}

#[test]
fn an_instance_costs_little_beside_its_accounts() {
    let Some(lib) = nixpkgs_lib() else { return };
    let lib = lib.to_str().unwrap();
    let each = |by| Some((allocated(lib, by, 100)? - allocated(lib, by, 0)?) / 100.0);
    let (module, accounts, hand) =
        (each("module").unwrap(), each("accounts").unwrap(), each("hand").unwrap());
    assert!(module - accounts < 685_000.0, "{module} with {accounts} for the accounts");
    assert!(module < hand / 2.0, "{module}, and {hand} by hand");
}
