//! Harness of the end-to-end tests: the built program, run as root or as an ordinary user in a world of its own, driven from
//! outside like a person would, and checked for what it leaves behind.
//!
//! A test makes a [`World`], starts pods and sessions in it, waits for states (never for time), and drops it: the drop fails the
//! test when something is left.

mod agent_image;
mod cluster;
mod event_log;
mod finish;
mod leftovers;
mod pod;
mod process;
mod screen;
mod session;
mod stolen;
mod terminal;
mod user;
mod wait;
mod world;

pub use cluster::{Cluster, GONE, Namespace, PortForward};
pub use event_log::{is, request};
pub use finish::{Finished, finish, finish_within};
pub use pod::Pod;
pub use process::{Family, peak_memory, signal};
pub use screen::Screen;
pub use session::{Ended, Session};
pub use stolen::{Stolen, kubeconfig_through};
pub use terminal::Terminal;
pub use user::User;
pub use wait::{LIMIT, wait_for, wait_none, wait_until};
pub use world::World;

/// Path of the program under test: `MIRRORD_TUI_BIN`, which `cargo xtask test` sets, else the release build of this checkout.
#[must_use]
pub fn program() -> std::path::PathBuf {
    std::env::var_os("MIRRORD_TUI_BIN").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/mirrord-tui").into(),
        Into::into,
    )
}

/// Path of a victim program built by `tests/victims/build.sh`, or `None` when it is not there; the caller then says so aloud.
#[must_use]
pub fn victim(name: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("MIRRORD_TUI_VICTIMS").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/victims").into(),
        std::path::PathBuf::from,
    );
    Some(folder.join(name)).filter(|path| path.exists())
}

/// The victim's path as text; when it was not built, says that the test is skipped.
#[must_use]
pub fn victim_or_skip(name: &str, test: &str) -> Option<String> {
    let path = victim(name);
    if path.is_none() {
        skip(test, &format!("the victim {name} is not built"));
    }
    path.map(|path| path.to_string_lossy().into_owned())
}

/// Says that a test did not run; `cargo xtask test` counts these lines.
pub fn skip(test: &str, reason: &str) {
    println!("skipped: {test}: {reason}");
}

/// Whether a program is on the machine.
#[must_use]
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs `test` for every user that this run of the suite can be.
pub fn for_every_user(test: impl Fn(User)) {
    for user in User::all() {
        println!("as {user}");
        test(*user);
    }
}
