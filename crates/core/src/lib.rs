//! The pure half: text in, a complete description of the host's files and units out.
//!
//! `text → RawSpec → Spec → Desired → Plan`, each arrow one function with one input and one output
//! type. Nothing here reads a clock, a file, the environment or the network.

#![forbid(unsafe_code)]

pub mod attend;
pub mod audit;
pub mod backup;
pub mod blocked;
pub mod bound;
pub mod code;
pub mod config;
pub mod content;
pub mod controls;
mod cross;
pub mod desired;
pub mod devices;
pub mod diagnostic;
pub mod dialect;
pub mod doctor;
pub mod events;
pub mod facts;
pub mod format;
pub mod guard;
mod host_files;
pub mod json;
mod keys;
pub mod layout;
pub mod lower;
pub mod network;
pub mod nft;
pub mod node;
pub mod opencode;
pub mod openmetrics;
pub mod overrides;
pub mod plan;
mod protected;
pub mod raw;
pub mod recent;
pub mod resources;
pub mod sockets;
pub mod spec;
pub mod special;
pub mod suited;
pub mod terminal;
pub mod text;
pub mod unit;
pub mod units;
