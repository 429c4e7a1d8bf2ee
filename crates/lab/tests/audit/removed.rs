//! Each control is taken away once, and the audit says so.
