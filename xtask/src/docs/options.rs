//! `docs/options.md`.

use instances_core::raw::OPTIONS;

pub(super) fn text() -> String {
    let mut text = format!(
        "{}# Options\n\n\
         A specification is TOML, or JSON where its name ends in `.json`. Each option may stand in\n\
         `[instances.NAME]`, and in `[defaults]` for every instance that says nothing itself. A list\n\
         replaces the default list; it does not add to it. `listen.port = 1` and a group `[….listen]`\n\
         with `port = 1` are the same. `opencode-instances options` prints this page;\n\
         [`schema/spec.schema.json`](../schema/spec.schema.json) says it to editors.\n\n\
         A name is a lower-case letter followed by lower-case letters, digits and hyphens, 22 characters at\n\
         most, without a hyphen at the end.\n\n\
         | option | type | default |\n|---|---|---|\n",
        super::HEADER
    );
    for option in OPTIONS {
        let anchor = option.key.to_lowercase().replace('.', "");
        let default = code(option.default);
        text += &format!("| [`{}`](#{anchor}) | {} | {default} |\n", option.key, option.type_name);
    }
    for option in OPTIONS {
        let lines: Vec<&str> = option.doc.trim().lines().map(str::trim).collect();
        text += &format!(
            "\n## `{}`\n\n{}\n\n- Type: {}\n- Default: {}\n- Example: `{} = {}`\n",
            option.key,
            lines.join("\n"),
            option.type_name,
            code(option.default),
            option.key,
            option.example
        );
    }
    text
}

/// A default that is TOML as code; one in words, or with its own marks, as it is.
fn code(default: &str) -> String {
    if default == "required" || default.contains('`') {
        default.to_owned()
    } else {
        format!("`{default}`")
    }
}
