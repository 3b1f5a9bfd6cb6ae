//! mirrord-tui: the command line. It starts session hosts, watches them and prints what they report; it holds no state of a session.
#![forbid(unsafe_code)]

mod cli;
mod demo;
mod failure;
mod output;
mod ui;
mod viewer;

use std::process::ExitCode;

use clap::Parser;
use mirrord_session::role::Role;

fn main() -> ExitCode {
    // The one executable is also every helper process of a session: asked first, so that those start without parsing anything.
    if let Some(role) = Role::from_args(std::env::args_os()) {
        return ExitCode::from(role.run());
    }
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
