//! Harness of the end-to-end tests: the built program, run as root or as an ordinary user in a world of its own, driven from
//! outside like a person would, and checked for what it leaves behind.
//!
//! A test makes a [`World`], starts pods and sessions in it, waits for states (never for time), and drops it: the drop fails the
//! test when something is left.

mod leftovers;
mod session;
mod user;
mod wait;
mod world;

pub use session::{ExecOutput, Session};
pub use user::User;
pub use wait::{LIMIT, wait_for, wait_until};
pub use world::{Pod, World};

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
