//! The pure half: text in, a complete description of the host's files and units out.

#![forbid(unsafe_code)]

pub mod layout;
