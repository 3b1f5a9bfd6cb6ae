//! The syscall attachment against the running kernel: a real supervisor, a host played by the test, and small C programs.
//!
//! Each test runs in a process of its own, as root a second time as an ordinary user. What a machine does not allow is printed as
//! `skipped: NAME: reason`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::exit,
    reason = "a test program"
)]

mod ends;
mod figures;
mod files;
mod host;
mod launch;
mod network;
mod processes;
mod runner;
mod signals;
mod victims;

use runner::Test;

/// All tests; the names are what a filter on the command line is compared with.
const TESTS: &[Test] = &[
    Test::new("a_command_runs_and_its_end_is_told", launch::runs),
    Test::new("exit_codes_and_signals_are_told", launch::exit_codes),
    Test::new("a_command_that_cannot_start_is_told_apart", launch::errors),
    Test::new("a_script_without_magic_runs_in_the_shell", launch::script),
    Test::new("signals_and_descriptors_are_the_callers", launch::signal_state),
    Test::new("the_process_group_is_joined", launch::process_group),
    Test::new("a_terminal_is_taken", launch::terminal),
    Test::new("large_environments_arrive", launch::large_environment),
    Test::new("remote_files_are_read", files::read),
    Test::new("local_and_missing_paths_are_decided_by_rule", files::decided),
    Test::new("writing_is_local_or_refused", files::writing),
    Test::new("directories_list_and_relative_calls_are_remote", files::directories),
    Test::new("attributes_of_remote_files_are_empty", files::attributes),
    Test::as_root("another_root_is_left_alone", files::other_root),
    Test::new("unreadable_processes_stay_local", files::undumpable),
    Test::new("errors_of_the_target_arrive", files::errors),
    Test::new("path_calls_survive_signals", signals::path_calls),
    Test::new("path_calls_survive_signals_in_threads", signals::threads),
    Test::new("sockets_survive_signals", signals::sockets),
    Test::new("sockets_come_from_the_holder", network::kinds),
    Test::new("a_burst_of_sockets_is_served", network::burst),
    Test::new("without_a_holder_there_is_no_network", network::holder_gone),
    Test::new("listeners_are_told", network::listen),
    Test::new("unix_connections_go_to_the_relay", network::unix),
    Test::new("the_name_is_the_targets", processes::hostname),
    Test::new("children_read_the_same_files", processes::children),
    Test::new("starts_and_exits_are_told", processes::exits),
    Test::new("programs_on_the_skip_list_run_outside", processes::skipped),
    Test::new("many_processes_start_and_end", processes::many),
    Test::new("programs_in_other_namespaces_belong_to_the_session", processes::namespaces),
    Test::new("privileges_are_given_up_only_where_needed", processes::privileges),
    Test::new("programs_executed_by_descriptor_are_named", processes::executed_by_descriptor),
    Test::new("rings_are_refused", processes::rings),
    Test::new("debuggers_work_inside", processes::debuggers),
    Test::new("the_tree_dies_with_its_supervisor", ends::supervisor_killed),
    Test::new("the_tree_dies_with_the_host", ends::host_gone),
    Test::new("the_tree_dies_with_its_guardian", ends::guardian_terminated),
    Test::new("the_tree_can_be_signalled", ends::signalled),
    Test::new("figures", figures::all),
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("__supervisor") => std::process::exit(mirrord_layer::supervisor::run_inherited().code().into()),
        Some("__mounts") => std::process::exit(i32::from(mirrord_layer::mounts::run_inherited().is_err())),
        _ => runner::main(TESTS),
    }
}
