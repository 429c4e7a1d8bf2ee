//! `completions` and `man`, from the one description in `args`.

use clap::{Command, CommandFactory as _};

use super::Outcome;
use crate::args::{Cli, Completions, Shell};
use crate::exit::Exit;
use crate::out;

pub(crate) fn completions(args: &Completions) -> Exit {
    let mut command = visible();
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Elvish => clap_complete::Shell::Elvish,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "opencode-instances", &mut text);
    out::raw(&text);
    Exit::Done
}

/// One page for all commands: each with the help that it prints itself.
pub(crate) fn man() -> Outcome {
    let command = visible();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    for subcommand in command.get_subcommands() {
        let name = format!("opencode-instances {}", subcommand.get_name());
        let help = subcommand.clone().bin_name(name).render_long_help().to_string();
        page.extend_from_slice(format!(".SS {}\n.nf\n", subcommand.get_name()).as_bytes());
        page.extend_from_slice(preformatted(&help).as_bytes());
        page.extend_from_slice(b".fi\n");
    }
    let (statuses, specification) = (crate::args::STATUSES, crate::args::DEFAULT_SPEC);
    let rest = format!(
        ".SH EXIT STATUS\n{statuses}\n.SH FILES\n.TP\n.I {specification}\nThe specification.\n"
    );
    page.extend_from_slice(rest.as_bytes());
    out::raw(&page);
    Ok(Exit::Done)
}

/// The command line without the commands that only units call.
fn visible() -> Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    let mut command = Command::new("opencode-instances")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true);
    if let Some(about) = all.get_about() {
        command = command.about(about.clone());
    }
    command.subcommands(shown)
}

/// Text for roff to leave as it is: no line is a request, no backslash an escape.
fn preformatted(text: &str) -> String {
    let safe = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") }
    };
    text.lines().map(safe).collect()
}
