//! `cargo xtask fuzz`: libFuzzer on the reader of specifications, with the pinned toolchain.
//!
//! cargo-fuzz would do the same with `--sanitizer none`: the coverage that guides libFuzzer comes
//! from an LLVM pass that the stable compiler has too; only sanitizers need a nightly one, and they
//! would find little in a crate that forbids unsafe code.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use instances_lab::{install, place};

use crate::engine::cargo;

/// What cargo-fuzz passes to the compiler.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Runs the fuzzer for so long; fails with the text that broke something.
pub(crate) fn run(seconds: u32) -> Result<()> {
    // libFuzzer is C++.
    install::tool("c++", "g++")?;
    let workspace = place::workspace();
    let target = workspace.join("target/fuzz");
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--release", "--manifest-path=fuzz/Cargo.toml"]);
    build.arg("--target-dir").arg(&target).env("RUSTFLAGS", COVERAGE.join(" "));
    if !build.status().context("cannot start cargo")?.success() {
        bail!("the fuzzer does not build");
    }
    // What it finds is kept outside of the repository; its seeds are only read.
    let (corpus, artifacts) = (target.join("corpus"), target.join("artifacts"));
    for directory in [&corpus, &artifacts] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut fuzzer = Command::new(target.join(place::TARGET).join("release/spec"));
    fuzzer.arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.arg(format!("-dict={}", workspace.join("fuzz/spec.dict").display()));
    fuzzer.args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    fuzzer.args(["-verbosity=0"]).arg(&corpus).arg(workspace.join("fuzz/corpus/spec"));
    fuzzer.current_dir(&workspace).env_remove("RUST_BACKTRACE");
    let status = fuzzer.status().context("cannot start the fuzzer")?;
    if !status.success() {
        bail!("a text broke the reader; it is in {}", artifacts.display());
    }
    Ok(())
}
