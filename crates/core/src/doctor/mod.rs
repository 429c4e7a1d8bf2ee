//! Whether a host can hold the promises: findings, each with its remedy, from what was seen of the host.

pub mod code;
pub mod firewall;
mod judge;
pub mod observed;

use serde::Serialize;

pub use self::code::Code;
pub use self::judge::judge;
pub use self::observed::Observed;

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its code.
    pub code: Code,
    /// What, with its place.
    pub what: String,
    /// The smallest change that mends it; for a remark what can be done, or nothing.
    pub remedy: String,
}
