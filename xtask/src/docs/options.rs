//! `docs/reference/configuration.md`.

use instances_core::raw::{FLEET, Kind, OPTIONS, OptionDoc};

/// What comes before the options: written by hand, and no function of the code.
const GUIDE: &str = include_str!("configuration.md");

/// How the options are to be read.
const REFERENCE: &str = "
## Options

A specification is TOML, or JSON where its name ends in `.json`. Each option may stand in
`[instances.NAME]`, and in `[defaults]` for every instance that says nothing itself. A list or table
of an instance replaces that of `[defaults]`; it does not add to it. `listen.port = 1` and a group
`[….listen]` with `port = 1` are the same. In JSON an option that is `null` is not set, as if it did not
stand there. `opencode-instances options` prints them;
[`schema/spec.schema.json`](../../schema/spec.schema.json) says them to editors.

On NixOS each option stands in `services.opencode.instances.<name>` and in
`services.opencode.defaults`, in Nix's own syntax; [`nixos.md`](../how-to/nixos.md) says how.

A name is a lower-case letter followed by lower-case letters, digits and hyphens, 22 characters at
most, without a hyphen at the end.

| option | type | default |
|---|---|---|
";

pub(super) fn text() -> String {
    let mut text = format!("{}{GUIDE}{REFERENCE}", super::HEADER);
    for option in OPTIONS {
        let anchor = option.key.to_lowercase().replace('.', "");
        let default = code(option.default);
        text +=
            &format!("| [`{}`](#{anchor}) | {} | {default} |\n", option.key, option.kind.words());
    }
    for option in OPTIONS {
        text += &entry("", option);
    }
    text += THE_FLEET;
    for option in FLEET {
        text += &entry("fleet.", option);
    }
    text
}

/// How the options of `[fleet]` are to be read.
const THE_FLEET: &str = "
## Options of the fleet

These stand in `[fleet]`, and on NixOS in `services.opencode.fleet`. `fleet.resources` limits all servers together, whatever
each one may use, and is that of `opencode.slice`. A change of an option of the fleet changes no instance and restarts none.
";

fn entry(prefix: &str, option: &OptionDoc) -> String {
    let lines: Vec<&str> = option.doc.trim().lines().map(str::trim).collect();
    format!(
        "\n### `{prefix}{}`\n\n{}\n\n- Type: {}\n- Default: {}\n- Example: `{prefix}{} = {}`\n{}",
        option.key,
        lines.join("\n"),
        option.kind.words(),
        code(option.default),
        option.key,
        option.example,
        on_nixos(option.kind).map_or_else(String::new, |words| format!("- On NixOS: {words}\n"))
    )
}

/// What `services.opencode` takes where that is another type, or has another default.
fn on_nixos(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Package => Some("a package; `pkgs.opencode`"),
        Kind::Packages => {
            Some("a list of packages, or of absolute paths outside the store as strings")
        }
        Kind::Path => Some("a string with an absolute path outside the store"),
        Kind::SecretPath => {
            Some("null, or a string with an absolute path outside the store; `null`")
        }
        Kind::Directives => Some("an attribute set of directives"),
        Kind::OptionalPath => Some("null, a path or a package; `null`"),
        Kind::Script => Some("null or lines; `null`"),
        Kind::Variables => Some("an attribute set of strings, numbers, booleans and paths"),
        Kind::SecretPaths => Some(
            "a string with an absolute path outside the store, or a list of such strings; `[ ]`",
        ),
        Kind::Secrets => Some("an attribute set of strings with absolute paths outside the store"),
        Kind::Settings => Some("an attribute set, as `pkgs.formats.json` takes it"),
        Kind::Content => Some("null, lines, a path, a package, or `{ file = …; }`; `null`"),
        Kind::Contents => Some("an attribute set of lines, paths, packages, or `{ file = …; }`"),
        Kind::Flag
        | Kind::Port
        | Kind::OneOf(_)
        | Kind::Address
        | Kind::Account
        | Kind::Accounts
        | Kind::Texts
        | Kind::Username
        | Kind::Ports
        | Kind::HostNames
        | Kind::Cidr
        | Kind::Amount
        | Kind::Binds
        | Kind::SomeOf(_)
        | Kind::Devices
        | Kind::Tasks
        | Kind::Seconds => None,
        Kind::OptionalAmount | Kind::OptionalPercent | Kind::OptionalShare | Kind::OptionalSize => {
            Some("null or such a string; `null`")
        }
        Kind::OptionalWeight | Kind::OptionalCount => Some("null or such a number; `null`"),
        Kind::OptionalOneOf(_) => Some("null or one of these; `null`"),
        Kind::Cidrs => Some("a list of strings, or of `{ cidr = …; ports = […]; protocol = …; }`"),
    }
}

/// A default that is TOML as code; one in words, or with its own marks, as it is.
fn code(default: &str) -> String {
    if default == "required" || default.contains('`') {
        default.to_owned()
    } else {
        format!("`{default}`")
    }
}
