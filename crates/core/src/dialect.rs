//! What differs between the generations of opencode, as data: chosen by the package's version.
//!
//! 1.18 is what the tests run. What stands here of 2.x comes from its documents, sources and reports,
//! and was not run: no registry that the tests reach has it.

/// How one generation of `opencode serve` is called and asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The first number of its versions, as `supervise --opencode` takes it.
    pub major: u32,
    /// Whether the tests run one of its versions.
    pub verified: bool,
    /// Whether levels of the log are written in lower case.
    pub lower_case_levels: bool,
    /// The variables that carry the password.
    pub password: &'static [&'static str],
    /// The variable that carries the user's name.
    pub username: &'static str,
    /// Whether it asks for a password that it makes itself, and prints, where none is given.
    pub always_asks: bool,
    /// What answers with JSON once the server serves its project.
    pub ready_path: &'static str,
    /// What answers with `{"healthy":true}` while the server lives.
    ///
    /// `/config` would be wrong here: measured on opencode 1.18.33, it takes 70 s after a project is
    /// disposed of when a plugin cannot be fetched, in which the server is well; and it costs a
    /// tenth more processor time.
    pub alive_path: &'static str,
    /// How it is asked whether a session works; `None` where nobody tried.
    pub sessions: Option<Sessions>,
}

/// How a server is asked for its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// What lists those of all directories, the last touched first: `[{"directory": …, "time": {"updated": …}}]`,
    /// in milliseconds since 1970.
    pub list: &'static str,
    /// What says which of those in `?directory=…` work: `{"ses_…": {"type": "idle" | "busy" | "retry"}}`. None
    /// but the idle ones may be missing.
    pub status: &'static str,
}

/// opencode 1.x.
pub const ONE: Dialect = Dialect {
    major: 1,
    verified: true,
    lower_case_levels: false,
    password: &["OPENCODE_SERVER_PASSWORD"],
    username: "OPENCODE_SERVER_USERNAME",
    always_asks: false,
    // The first request that goes through a project's configuration: `/global/health` is green
    // while that fails.
    ready_path: "/config",
    alive_path: "/global/health",
    sessions: Some(Sessions { list: "/experimental/session", status: "/session/status" }),
};

/// opencode 2.x. It takes the password from the older variable too, so both are set.
pub const TWO: Dialect = Dialect {
    major: 2,
    verified: false,
    lower_case_levels: true,
    password: &["OPENCODE_PASSWORD", "OPENCODE_SERVER_PASSWORD"],
    username: "OPENCODE_SERVER_USERNAME",
    always_asks: true,
    ready_path: "/api/health",
    alive_path: "/api/health",
    sessions: None,
};

impl Dialect {
    /// That of a version such as `1.18.33`. Where it is not known, what the tests run; what is newer
    /// than all of them is taken for the newest.
    pub fn of(version: Option<&str>) -> &'static Self {
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        Self::of_major(major.unwrap_or(ONE.major))
    }

    /// That of a version by its first number.
    pub fn of_major(major: u32) -> &'static Self {
        if major >= TWO.major { &TWO } else { &ONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_its_dialect() {
        for (version, major) in [
            (None, 1),
            (Some("1.18.33"), 1),
            (Some("0.9"), 1),
            (Some("2.0.5"), 2),
            (Some("3.1"), 2),
            (Some("local"), 1),
        ] {
            assert_eq!(Dialect::of(version).major, major, "{version:?}");
        }
    }
}
