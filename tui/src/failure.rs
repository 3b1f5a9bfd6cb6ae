//! How a failure of the program itself reaches the user: one sentence, its causes, and what to do.

use std::process::ExitCode;

use mirrord_session::{
    cluster::ClusterError, local::LocalError, registry::RegistryError, starter::StartError,
};

/// Exit code of failures of the program itself, as docker(1), env(1) and timeout(1) use it; 126 and 127 speak of the command.
pub(crate) const OWN_FAILURE: u8 = 125;

/// A failure that carries advice.
#[derive(Debug)]
pub(crate) struct Hinted {
    pub(crate) text: String,
    pub(crate) hint: String,
    pub(crate) code: u8,
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Hinted {}

/// Prints the error with its causes and hint on stderr.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    say("", error);
    ExitCode::from(error.chain().find_map(code).unwrap_or(OWN_FAILURE))
}

/// Prints a failure that does not end the program.
pub(crate) fn warn(error: &anyhow::Error) {
    say("warning: ", error);
}

#[expect(clippy::print_stderr, reason = "the one place where the program speaks of its own failure")]
fn say(kind: &str, error: &anyhow::Error) {
    eprintln!("mirrord-tui: {kind}{error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because {cause}");
    }
    if let Some(hint) = error.chain().find_map(hint).filter(|hint| !hint.is_empty()) {
        eprintln!("  hint: {}", hint.replace('\n', "\n    "));
    }
}

/// The exit code of an error, for those that have one of their own.
fn code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    let hinted = error.downcast_ref::<Hinted>().map(|error| error.code);
    hinted.or_else(|| error.downcast_ref::<LocalError>().and_then(LocalError::exit_code))
}

/// What to do about an error, for those that know it.
fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let hinted = error.downcast_ref::<Hinted>().map(|error| error.hint.clone());
    hinted
        .or_else(|| error.downcast_ref::<StartError>().map(|error| error.hint().to_owned()))
        .or_else(|| error.downcast_ref::<RegistryError>().map(|error| error.hint().to_owned()))
        .or_else(|| error.downcast_ref::<LocalError>().and_then(LocalError::hint))
        .or_else(|| error.downcast_ref::<ClusterError>().map(ClusterError::hint))
}
