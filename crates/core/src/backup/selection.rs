//! What a backup leaves out unless all is asked for: what comes back by itself.

use super::path::TreePath;

/// Each directory below HOME that is left out, and what it holds.
pub const LEFT_OUT: [(&str, &str); 8] = [
    (".cache", "caches: models, packages of plugins, programs that opencode fetched"),
    (".npm", "npm's cache"),
    (".config/opencode/node_modules", "packages that opencode installs again"),
    (".opencode/node_modules", "the same"),
    (".local/share/opencode/log", "opencode's log, which is in the journal too"),
    (".local/share/opencode/repos", "clones that opencode fetches again"),
    (
        ".local/share/opencode/tool-output",
        "long outputs of tools, which opencode removes by itself",
    ),
    (".local/state/opencode/locks", "locks of the server that ran"),
];

/// Whether it is one of them. What is below one is not asked for.
pub fn is_left_out(path: &TreePath) -> bool {
    LEFT_OUT.iter().any(|(directory, _)| directory.as_bytes() == path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_holds_paths_and_nothing_beside_them() {
        for (directory, _) in LEFT_OUT {
            assert!(is_left_out(&TreePath::new(directory).unwrap()));
            assert!(!is_left_out(&TreePath::new(format!("{directory}s")).unwrap()));
        }
        let database = TreePath::new(".local/share/opencode/opencode.db").unwrap();
        assert!(!is_left_out(&database));
    }
}
