//! The helper of the libc attachment: puts a program that cannot load the library under a filter of its own, then becomes it.
//!
//! A program starts it in place of the one that it wanted to execute. The filter's listener goes to the supervisor; from then on
//! the program and its descendants are under the syscall attachment.

use std::{
    ffi::{CString, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use mirrord_preload::wire::{SOCKET_VARIABLE, ask};

use crate::{
    filter::{self, Architecture},
    launch,
    supervisor::{ask_as_the_library, exchange, wanted},
    sys::process,
};

/// Exit code of a shell for what cannot be executed.
const NOT_EXECUTED: u8 = 126;

/// Becomes the program; `arguments` are its path, or an empty one and the number of its descriptor, and its own arguments from
/// number 0 on. Returns only on failure, with an exit code.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> u8 {
    become_it(arguments).map_or_else(|error| error, |()| NOT_EXECUTED)
}

fn become_it(arguments: Vec<OsString>) -> Result<(), u8> {
    let strings: Result<Vec<CString>, _> =
        arguments.into_iter().map(|argument| CString::new(argument.into_vec())).collect();
    let strings = strings.map_err(|_| NOT_EXECUTED)?;
    let (path, arguments) = strings.split_first().ok_or(NOT_EXECUTED)?;
    // A program without the session is better than none: the supervisor may be gone, and with it everything soon.
    drop(enter_filter());
    let environment = std::env::vars_os().filter(|(name, _)| name != SOCKET_VARIABLE && name != "LD_PRELOAD");
    let environment: Vec<CString> = environment
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    let error = if path.is_empty() {
        let (number, arguments) = arguments.split_first().ok_or(NOT_EXECUTED)?;
        let descriptor = number.to_str().ok().and_then(|number| number.parse().ok()).ok_or(NOT_EXECUTED)?;
        process::execute_descriptor(descriptor, arguments, &environment)
    } else {
        process::execute(path, arguments, &environment)
    };
    Err(if error.kind() == io::ErrorKind::NotFound { 127 } else { NOT_EXECUTED })
}

fn enter_filter() -> io::Result<()> {
    let socket = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from).ok_or(io::ErrorKind::NotFound)?;
    let bits = exchange(&ask_as_the_library(&socket)?, ask::FILTER, None)?;
    // Made before the filter is on: connect(2) may be among what it traps, and nobody would answer yet.
    let connection = ask_as_the_library(&socket)?;
    let program = filter::build(&Architecture::NATIVE, wanted(bits.cast_unsigned()));
    let listener = launch::install(&program)?;
    exchange(&connection, ask::LISTENER, Some(&listener)).map(drop)
}
