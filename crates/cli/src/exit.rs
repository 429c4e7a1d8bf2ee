//! The exit statuses; they are an interface.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: the operation failed.
    Failed,
    /// 2: the command line is wrong.
    Usage,
    /// 3: the specification is refused.
    Invalid,
    /// 4: something was found that the operator should look at.
    Finding,
}

impl Exit {
    /// All of them, by number.
    pub(crate) const ALL: [Self; 5] =
        [Self::Done, Self::Failed, Self::Usage, Self::Invalid, Self::Finding];

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Finding => 4,
        }
    }

    /// What it tells, for the reference.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done; for `check`, the specification is accepted",
            Self::Failed => "the operation failed; the reason is on standard error",
            Self::Usage => "the command line is wrong, or `explain` does not know the code",
            Self::Invalid => "the specification is refused; nothing was changed",
            Self::Finding => {
                "`status` found an instance that failed or does not answer; `doctor`, `audit` or `net` something that is not as it should be"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
