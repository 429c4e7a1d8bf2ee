//! Cases that each run in a process of their own, in namespaces of their own: the host is never touched.
//!
//! The process is the test program itself, started again through `unshare`, with the name of the case in its
//! environment.

use std::env;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// A program of such cases.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    /// The variable with the name of the case.
    pub(crate) case: &'static str,
    /// Commands that must work, or the cases cannot run.
    pub(crate) needs: &'static [&'static str],
    /// What `unshare` takes beside new mounts and a new network.
    pub(crate) unshare: &'static [&'static str],
    /// How many run at a time, unless the command line says so.
    pub(crate) threads: usize,
}

impl Suite {
    pub(crate) fn run(self, cases: impl Iterator<Item = &'static str>) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(self.threads);
        let missing = self.missing();
        if let Some(reason) = &missing {
            println!("SKIP: {reason}");
        }
        if missing.is_some() && env::var_os("CI").is_some() {
            return ExitCode::FAILURE;
        }
        let trial = |name: &'static str| {
            Trial::test(name, move || self.isolated(name)).with_ignored_flag(missing.is_some())
        };
        libtest_mimic::run(&arguments, cases.map(trial).collect()).exit_code()
    }

    /// Why the cases cannot run here.
    fn missing(self) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        let works = |command: &str| {
            let status = Command::new("sh").args(["-c", command]).stdout(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let needs = ["unshare -m -n true", "ip -V"].iter().chain(self.needs);
        needs
            .into_iter()
            .find(|command| !works(command))
            .map(|command| format!("\"{command}\" does not work"))
    }

    fn isolated(self, case: &str) -> Result<(), Failed> {
        // Two minutes: a case that hangs is a failure, not a wait.
        let output = Command::new("timeout")
            .args(["-k", "5", "120", "unshare", "-m", "-n", "--propagation", "private"])
            .args(self.unshare)
            .arg("--")
            .arg(env::current_exe()?)
            .env(self.case, case)
            .output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }
}
