//! What can be typed after `cargo xtask`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use instances_lab::Release;

use crate::{bench, deb, demo, docs, fuzz, guest, lab, test};

/// The project's own chores
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what is missing, then run every check and every test
    Test,
    /// Boot a machine with two projects in it and show what one agent can reach of the other
    Demo {
        /// Keep the machine, with its servers on this host's loopback, until Enter is pressed
        #[arg(long)]
        keep: bool,
    },
    /// Make the Debian package, and print where it is
    Deb {
        /// The one that tests install: of the engine that machines run, which is built faster
        #[arg(long)]
        lab: bool,
    },
    /// Write the documents that are generated from the code: references and the JSON Schema
    Docs {
        /// Write nothing; fail if a document is not what the code says
        #[arg(long)]
        check: bool,
    },
    /// Measure, and print ratios to a baseline of the same run
    Bench {
        /// How often an instance and its baseline are measured in turn
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// For how many seconds the processor time of idle servers is counted
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        window: u64,
        /// Measure this part alone
        #[arg(long)]
        only: Option<bench::Only>,
        #[command(flatten)]
        sizes: bench::Sizes,
        /// Put each part that was measured in the place of its section of docs/reference/benchmarks.md
        #[arg(long)]
        write: bool,
    },
    /// Feed arbitrary texts to the reader of specifications
    Fuzz {
        /// For how long
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Look after test machines
    #[command(subcommand)]
    Lab(Lab),
}

#[derive(Debug, Subcommand)]
enum Lab {
    /// Install what machines need, and build their roots
    Install,
    /// Boot a machine and open a shell in it; it ends with the shell
    Shell {
        /// The Debian release to boot
        #[arg(long, default_value = "trixie")]
        release: Release,
    },
    /// Run a command in a virtual machine whose root is this host's, or open a shell in it; it ends with that
    Guest {
        /// Run the tests that need it, instead
        #[arg(long, conflicts_with = "command")]
        tests: bool,
        /// The command and its arguments, after `--`
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Print the median time of some boots
    BootTime {
        /// The Debian release to boot
        #[arg(long, default_value = "trixie")]
        release: Release,
        /// How many boots
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
        boots: u32,
    },
}

impl Cli {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.chore {
            Chore::Test => return test::run(),
            Chore::Bench { rounds, window, only, sizes, write } => {
                let window = Duration::from_secs(window);
                bench::run(bench::Effort { rounds, window }, only, &sizes, write)?;
            }
            Chore::Fuzz { seconds } => fuzz::run(seconds)?,
            Chore::Deb { lab: false } => deb::run()?,
            Chore::Deb { lab: true } => deb::for_tests()?,
            Chore::Demo { keep } => demo::run(keep)?,
            Chore::Docs { check } => docs::run(check)?,
            Chore::Lab(Lab::Install) => lab::install()?,
            Chore::Lab(Lab::Shell { release }) => lab::shell(release)?,
            Chore::Lab(Lab::Guest { tests: true, .. }) => return guest::tests(),
            Chore::Lab(Lab::Guest { command, .. }) => return guest::run(&command),
            Chore::Lab(Lab::BootTime { release, boots }) => lab::boot_time(release, boots)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
