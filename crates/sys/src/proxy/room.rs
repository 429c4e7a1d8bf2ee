//! How many connections there may be: each has two descriptors, and there is a limit of those.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are neither a connection's nor a pipe's: the standard three, signals, messages, the
/// file of failures, the supervisor, `epoll` itself, and some to spare.
const OTHERS: usize = 32;
/// What is asked for where there is no limit.
const MANY: u64 = 1 << 20;
/// The smallest share of descriptors that is left to pipes is one in so many.
const SHARE: usize = 8;

/// Raises the limit as far as it goes; how many descriptors there may be.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MANY);
    let raised =
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    let now = if raised.is_ok() { Some(wanted) } else { limit.current };
    usize::try_from(now.unwrap_or(MANY)).unwrap_or(usize::MAX)
}

/// How many descriptors pipes may have.
pub(super) fn pipes(descriptors: usize) -> usize {
    descriptors / SHARE
}

/// How many connections there may be beside so many listeners and descriptors of pipes.
pub(super) fn connections(descriptors: usize, listeners: usize, pipes: usize) -> usize {
    (descriptors.saturating_sub(OTHERS + listeners + pipes) / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_fits() {
        for (limit, expected) in [(64, 11), (1024, 431), (2210, 1024), (0, 1)] {
            let pipes = super::super::copy::Kit::new(pipes(limit)).descriptors();
            assert_eq!(connections(limit, 1, pipes), expected);
        }
    }
}
