//! The effects: each module talks to one interface of the kernel or of systemd.

pub mod accounts;
pub mod applied;
pub mod apply;
pub mod audit;
pub mod auth;
pub mod backup;
pub mod caller;
#[cfg(test)]
#[path = "../../core/tests/malformed/counted.rs"]
mod counted;
pub mod dns;
pub mod doctor;
pub mod environment;
pub mod events;
pub mod facts;
pub mod files;
pub mod http;
pub mod installed;
mod journal;
pub mod lock;
#[cfg(test)]
#[path = "../../core/tests/malformed/mutants.rs"]
#[expect(dead_code, reason = "texts are for specifications")]
mod mutants;
pub mod net;
mod notify;
pub mod opencode;
mod passed;
pub mod places;
mod program;
pub mod proxy;
pub mod refusal;
pub mod sandbox_root;
#[cfg(test)]
mod script;
pub mod secrets;
pub mod setup;
pub mod shell;
pub mod sockets;
pub mod status;
pub mod supervise;
pub mod systemctl;
pub mod terminal;
pub mod terminate;
pub mod trust;
pub mod turns;
mod userdb;
mod way;
