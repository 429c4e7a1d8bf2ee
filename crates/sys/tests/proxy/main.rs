//! The proxy with real sockets, each case in a network namespace of its own. The proxy is this very program too, without a
//! single capability.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test without the usual harness, which clippy does not recognise as one"
)]

mod copying;
mod hostile;
#[path = "../isolated/mod.rs"]
mod isolated;
mod stage;
mod waiting;

use std::process::ExitCode;

use isolated::Suite;

const SUITE: Suite =
    Suite { case: "INSTANCES_PROXY_CASE", needs: &["setpriv --help"], unshare: &[], threads: 2 };

const CASES: &[(&str, fn())] = &[
    ("bytes_of_any_number_and_both_halves_close", copying::bytes_of_any_number),
    ("what_goes_in_comes_out_whatever_the_schedule", copying::whatever_the_schedule),
    ("a_reset_is_passed_on_and_what_came_before_it_too", copying::resets),
    ("what_came_before_a_reset_is_the_slow_ones_too", copying::slow_after_a_reset),
    ("several_listeners_and_ipv6", copying::several_listeners),
    ("three_thousand_connections", copying::three_thousand),
    ("out_of_descriptors_others_wait", hostile::out_of_descriptors),
    ("as_many_as_units_allow_and_no_more", hostile::at_the_limit_of_units),
    ("who_never_reads_is_bounded_and_starves_nobody", hostile::who_never_reads),
    ("nothing_to_do_is_nothing_done", hostile::nothing_to_do),
    ("what_only_the_start_needed_is_left", hostile::small),
    ("a_supervisor_is_not_trusted", hostile::garbage),
    ("clients_are_held_until_ready", waiting::held_until_ready),
    ("a_client_that_goes_while_held_is_noticed", waiting::gone_while_held),
    ("after_a_crash_new_ones_wait_and_old_ones_end_as_the_server_does", waiting::crash),
    ("a_failed_start_is_told_and_the_next_client_starts_anew", waiting::failure),
    ("nobody_waits_for_ever", waiting::too_long),
    ("a_refused_connection_is_told", waiting::refused),
    ("drained_or_busy_and_nobody_is_lost", waiting::drain),
    ("quiet_connections_do_not_count", waiting::drain_active),
    ("stopping_and_sigterm_leave_time", waiting::ends),
    ("sigterm_leaves_a_moment_to_what_has_ended_alone", waiting::ends_at_once),
    ("reports_are_few", waiting::reports),
];

fn main() -> ExitCode {
    if std::env::var_os(stage::SERVE).is_some() {
        return stage::serve();
    }
    let Ok(case) = std::env::var(SUITE.case) else {
        return SUITE.run(CASES.iter().map(|(name, _)| *name));
    };
    let (_, run) = CASES.iter().find(|(name, _)| *name == case).unwrap();
    stage::prepare();
    run();
    ExitCode::SUCCESS
}
