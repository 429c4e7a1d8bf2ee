//! The effects: each module talks to one interface of the kernel or of systemd.
