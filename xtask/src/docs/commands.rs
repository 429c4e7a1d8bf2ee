//! `docs/reference/commands.md`: each command's own help.

use clap::Command;

/// The width of the help texts.
const WIDTH: usize = 100;

pub(super) fn text() -> String {
    let mut root = opencode_instances::command().term_width(WIDTH);
    root.build();
    let mut text = format!(
        "{}# Commands\n\n\
         Results go to standard output, everything else to standard error. With `--json` the result is one\n\
         object with a `version`. These are the programs' own help texts; `opencode-instances man` prints a\n\
         man page, `opencode-instances completions SHELL` a shell's completions.\n\n",
        super::HEADER
    );
    text += &format!(
        "```text\n{}\n```\n\n## Exit statuses\n\n| status | meaning |\n|---|---|\n",
        help(&mut root)
    );
    for (code, meaning) in opencode_instances::exit_statuses() {
        text += &format!("| {code} | {meaning} |\n");
    }
    text += "\n";
    let (hidden, shown): (Vec<_>, Vec<_>) =
        root.get_subcommands().cloned().partition(Command::is_hide_set);
    for mut command in shown {
        section(&mut command, &mut text);
    }
    text += "# Called by units\n\n\
        These commands are hidden from the help. Units call them with exactly the arguments that `render`\n\
        writes; they are no interface, and may change with any version.\n\n";
    for mut command in hidden {
        section(&mut command, &mut text);
    }
    format!("{}\n", text.trim_end())
}

fn section(command: &mut Command, text: &mut String) {
    let mut parts: Vec<Command> = command.get_subcommands().cloned().collect();
    parts.retain(|part| part.get_name() != "help");
    if parts.is_empty() {
        *text += &format!("## {}\n\n```text\n{}\n```\n\n", name(command), help(command));
    }
    for mut part in parts {
        section(&mut part, text);
    }
}

/// The words to type, without the program.
fn name(command: &Command) -> String {
    let whole = command.get_bin_name().unwrap_or_else(|| command.get_name());
    whole.trim_start_matches("opencode-instances").trim().to_owned()
}

fn help(command: &mut Command) -> String {
    let help = command.render_help().to_string();
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
