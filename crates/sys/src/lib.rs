//! The effects: each module talks to one interface of the kernel or of systemd.

pub mod accounts;
pub mod apply;
pub mod audit;
pub mod auth;
pub mod caller;
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
pub mod net;
mod notify;
pub mod opencode;
mod passed;
pub mod places;
pub mod proxy;
pub mod refusal;
#[cfg(test)]
mod script;
pub mod secrets;
pub mod setup;
mod shell;
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
