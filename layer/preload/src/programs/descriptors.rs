//! Hooks of the exec functions that take the program as a descriptor.

use core::ffi::{c_char, c_int};

use super::{Call, Program, Strings, execute, failed, real_execve, run};
use crate::{
    calls::{Outcome, word},
    hook::hooks,
    start, sys,
};

hooks! {
    fn fexecve(descriptor: c_int, arguments: Strings, environment: Strings) -> c_int, checked = |descriptor, arguments, environment| {
        // SAFETY: the strings are our own or the program's.
        execute_descriptor(descriptor, arguments, environment, &|_, arguments, environment| unsafe { real::fexecve::call(descriptor, arguments, environment) })
    };
    fn execveat(directory: c_int, path: *const c_char, arguments: Strings, environment: Strings, flags: c_int) -> c_int = |directory, path, arguments, environment, flags| {
        // SAFETY: as above.
        execute_at(directory, path, arguments, environment, flags, &|_, arguments, environment| unsafe { real::execveat::call(directory, path, arguments, environment, flags) })
    };
}

fn execute_descriptor(
    descriptor: c_int,
    arguments: Strings,
    environment: Strings,
    itself: Call<'_>,
) -> Outcome<c_int> {
    if descriptor < 0 || !start::started() {
        return Outcome::GoOn;
    }
    failed(run(Program::Descriptor(descriptor), arguments, environment, itself, &real_execve))
}

fn execute_at(
    directory: c_int,
    path: *const c_char,
    arguments: Strings,
    environment: Strings,
    flags: c_int,
    itself: Call<'_>,
) -> Outcome<c_int> {
    if path.is_null() || !start::started() {
        return Outcome::GoOn;
    }
    // SAFETY: the path is the program's C string, whose first byte may be its NUL.
    let first = unsafe { path.cast::<u8>().read() };
    if first == 0 && flags & libc::AT_EMPTY_PATH != 0 {
        return execute_descriptor(directory, arguments, environment, itself);
    }
    if flags == 0 && (first == b'/' || directory == libc::AT_FDCWD) {
        return execute(path, arguments, environment);
    }
    let open = [word(directory), path.expose_provenance(), word(libc::O_PATH | libc::O_CLOEXEC), 0, 0, 0];
    // SAFETY: openat(2) reads the program's C string.
    let found = sys::int(unsafe { sys::call(libc::SYS_openat, open) });
    if found < 0 {
        return Outcome::GoOn;
    }
    let outcome = execute_descriptor(found, arguments, environment, itself);
    sys::close(found);
    outcome
}
