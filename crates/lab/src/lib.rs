//! The test machine: a real systemd, booted in half a second, that leaves nothing behind.
//!
//! [`Image`] is a cached Debian root, [`Machine`] a booted copy-on-write copy of one. A machine
//! lives in namespaces of its own below one process that ends when its owner does, however the
//! owner ends: no process, mount or file of it survives, and the empty control groups that do
//! are removed by the next boot.
//!
//! Booting needs root, cgroup2 and a few Debian packages; [`install::missing`] brings the latter.

mod agent;
mod cgroup;
mod collect;
pub mod faults;
pub mod fleet;
pub mod guest;
mod image;
pub mod install;
mod internet;
mod leader;
mod machine;
mod model;
pub mod nixos;
pub mod openmetrics;
pub mod place;
pub mod progress;
mod reach;
mod run;
mod skip;
pub mod stand_in;

pub use agent::Agent;
pub use image::{Image, Release};
pub use internet::{ADDRESSES, GREETING, HOST, Internet};
pub use machine::{Machine, Options};
pub use model::Model;
pub use reach::Forward;
pub use run::Output;
pub use skip::{lacking, outside, unavailable, without};
