//! What opencode asks of a configuration beyond its schema.

use super::placeholder::{Placeholders, placeholders};
use super::settings::{Mismatch, Step, name};
use crate::json::Json;

/// The language servers that opencode 1.18.33 brings. Any other one says what it is for.
const LANGUAGE_SERVERS: &[&str] = &[
    "deno",
    "typescript",
    "vue",
    "eslint",
    "oxlint",
    "biome",
    "gopls",
    "ruby-lsp",
    "ty",
    "pyright",
    "elixir-ls",
    "zls",
    "csharp",
    "razor",
    "fsharp",
    "sourcekit-lsp",
    "rust",
    "clangd",
    "svelte",
    "astro",
    "jdtls",
    "kotlin-ls",
    "yaml-ls",
    "lua-ls",
    "php intelephense",
    "prisma",
    "dart",
    "ocaml-lsp",
    "bash",
    "terraform",
    "texlab",
    "dockerfile",
    "gleam",
    "clojure-lsp",
    "nixd",
    "tinymist",
    "haskell-language-server",
    "julials",
];

/// Whether a key moved from the configuration to the one of the terminal interface. opencode takes
/// it out of a configuration without a word.
pub(super) fn belongs_to_tui(key: &str) -> bool {
    matches!(key, "theme" | "keybinds" | "tui")
}

/// What breaks a rule that the schema leaves out.
pub(super) fn judge(settings: &Json) -> Vec<Mismatch> {
    let mut found = Vec::new();
    open_placeholders(settings, &mut Vec::new(), &mut found);
    servers_without_extensions(settings, &mut found);
    found
}

/// A placeholder without an end reads on, over the end of its string, to the next `}`.
fn open_placeholders(json: &Json, path: &mut Vec<Step>, found: &mut Vec<Mismatch>) {
    let check = |text: &str, path: &[Step], found: &mut Vec<Mismatch>| {
        if let Placeholders::Open(start) = placeholders(text) {
            found.push(Mismatch {
                path: path.to_vec(),
                message: format!("`{}` has a `{start}` without its `}}`", name(path)),
                expected: "a closing brace in the same string".to_owned(),
                help: format!(
                    "close it, as in `{start}NAME}}`; opencode reads on to the next `}}`"
                ),
            });
        }
    };
    match json {
        Json::Text(text) => check(text, path, found),
        Json::List(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Item(index));
                open_placeholders(item, path, found);
                path.pop();
            }
        }
        Json::Table(entries) => {
            for (key, value) in entries {
                path.push(Step::Key(key.clone()));
                check(key, path, found);
                open_placeholders(value, path, found);
                path.pop();
            }
        }
        Json::Boolean(_) | Json::Integer(_) | Json::Float(_) => {}
    }
}

/// opencode drops a language server of its user's that does not say which files it is for.
fn servers_without_extensions(settings: &Json, found: &mut Vec<Mismatch>) {
    let Some(Json::Table(servers)) = settings.get("lsp") else { return };
    for (server, options) in servers {
        let dropped = matches!(options.get("command"), Some(Json::List(_)))
            && options.get("extensions").is_none()
            && options.get("disabled") != Some(&Json::Boolean(true))
            && !LANGUAGE_SERVERS.contains(&server.as_str());
        if dropped {
            let path = vec![Step::Key("lsp".to_owned()), Step::Key(server.clone())];
            found.push(Mismatch {
                message: format!("`{}` has no `extensions`", name(&path)),
                path,
                expected: "the key `extensions`".to_owned(),
                help: "add `extensions`, as in `[\".ext\"]`; opencode does not bring this server"
                    .to_owned(),
            });
        }
    }
}
