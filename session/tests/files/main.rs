//! Path calls from the program to the target and back: a real supervisor, the real host's side, and a target played by a folder or
//! read by a real agent. As root and as an ordinary user.
//!
//! Each test runs in a process of its own. What a machine does not allow is printed as `skipped: NAME: reason`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::exit,
    reason = "a test program"
)]

mod content;
mod directory;
mod events;
mod figures;
mod runner;
mod target;
mod world;

use mirrord_session::role::Role;
use runner::Test;

/// All tests; the names are what a filter on the command line is compared with.
const TESTS: &[Test] = &[
    Test::new("small_files_agree_with_their_stat", content::small),
    Test::new("a_changed_file_is_read_anew", content::changed),
    Test::new("files_of_any_mode_are_readable", content::modes),
    Test::new("copies_are_bounded", content::many),
    Test::new("large_files_are_read_in_pieces", content::large),
    Test::new("huge_files_are_served_or_refused", content::huge),
    // Without /dev/fuse, which is root's on some machines, no file is served (see the test of large files).
    Test::as_root("a_served_file_survives_a_new_agent_link", content::reopened),
    Test::new("changing_and_special_files", content::special),
    Test::new("name_service_says_dns", content::name_service),
    Test::new("directories_have_names_and_types", directory::types),
    Test::new("a_hundred_thousand_entries", directory::large),
    Test::new("coreutils_work_in_a_remote_directory", directory::coreutils),
    Test::new("every_call_is_an_event", events::emitted),
    Test::new("a_broken_agent_link_is_an_io_error", events::broken),
    Test::new("nothing_is_left", events::nothing_left),
    Test::new("through_a_real_agent", figures::agent),
    Test::new("figures", figures::all),
];

fn main() {
    match Role::from_args(std::env::args_os()) {
        Some(role) => std::process::exit(role.run().into()),
        None => runner::main(TESTS),
    }
}
