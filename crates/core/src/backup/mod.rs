//! What a backup of a state directory is: which of its files it holds, what its manifest says, and how
//! each member of the archive begins.
//!
//! | | |
//! |---|---|
//! | `path` | a path below HOME, whose bytes are the agent's choice |
//! | `selection` | what is left out by default |
//! | `manifest` | what is in the archive, and the judgement of one that was read |
//! | `member` | the bytes before each member's data, made from the manifest alone |
//!
//! An archive is a plain tar below zstd, and is read without a parser of tar: of a manifest there is
//! one archive, and anything that differs from it by a byte is refused.

pub mod manifest;
pub mod member;
pub mod path;
pub mod selection;

/// How deep a tree may be. Each level takes a descriptor while it is walked.
pub const DEPTH: usize = 200;
/// How many entries a backup may have.
pub const ENTRIES: usize = 500_000;
/// How long all paths and targets of links may be together, in bytes.
pub const NAMES: usize = 64 << 20;
/// How long a manifest may be, in bytes.
pub const MANIFEST_LENGTH: u64 = 256 << 20;
/// How many bytes of holes all files of a backup may have together: zeros take time, and no room.
pub const HOLES: u64 = 1 << 30;
