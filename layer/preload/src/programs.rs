//! Hooks of the functions that execute programs. The library is handed on by the environment; a program that cannot load it is
//! executed through a helper, when the supervisor says so, which puts it under a filter.

use core::{
    ffi::{c_char, c_int},
    ptr,
};

use libc::{pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};

pub(crate) mod descriptors;
pub(crate) mod lists;

use crate::{
    ask::{self, Question},
    calls::Outcome,
    decimal,
    hook::hooks,
    start, sys,
    wire::{PAYLOAD_BYTES, SOCKET_VARIABLE, answer, ask as kinds},
};

/// NULL-terminated array of C strings.
type Strings = *const *const c_char;

hooks! {
    fn execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int = execute;
    fn execv(path: *const c_char, arguments: Strings) -> c_int = |path, arguments| execute(path, arguments, start::environment());
    fn execvp(file: *const c_char, arguments: Strings) -> c_int = |file, arguments| execute_found(file, arguments, start::environment());
    fn execvpe(file: *const c_char, arguments: Strings, environment: Strings) -> c_int = execute_found;
    fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int = spawn;
    fn posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t, attributes: *const posix_spawnattr_t, arguments: Strings, environment: Strings) -> c_int = spawn_found;
}

/// Room for the strings of an array; a larger one is passed on as it is.
const STRINGS: usize = 1024;

/// A NULL-terminated array that is put together here.
struct Array {
    strings: [*const c_char; STRINGS],
    length: usize,
}

impl Array {
    const fn new() -> Self {
        Self { strings: [ptr::null(); STRINGS], length: 0 }
    }

    /// Adds a string; false when only the NULL has room left.
    fn push(&mut self, string: *const c_char) -> bool {
        match self.strings.get_mut(self.length) {
            Some(slot) if self.length + 1 < STRINGS => {
                *slot = string;
                self.length += 1;
                true
            }
            _ => false,
        }
    }

    fn push_all(&mut self, strings: &[*const c_char]) -> bool {
        strings.iter().all(|string| self.push(*string))
    }

    /// Adds what an array holds, but for what `skip` says.
    fn extend(&mut self, strings: Strings, skip: impl Fn(*const c_char) -> bool) -> bool {
        let mut index = 0;
        while !strings.is_null() {
            // SAFETY: the array is the program's own and ends with NULL, where this loop ends as well.
            let string = unsafe { strings.wrapping_add(index).read() };
            if string.is_null() {
                break;
            }
            if !skip(string) && !self.push(string) {
                return false;
            }
            index += 1;
        }
        true
    }

    const fn pointer(&self) -> Strings {
        self.strings.as_ptr()
    }
}

/// What the supervisor says about a program.
enum Verdict {
    Load,
    Helper,
}

/// Path of the helper, as the supervisor gave it.
type HelperPath = [u8; PAYLOAD_BYTES];

/// A program as an exec function names it.
#[derive(Clone, Copy)]
enum Program {
    Path(*const c_char),
    Descriptor(c_int),
}

fn verdict(program: Program, helper: &mut HelperPath) -> Verdict {
    let (payload, descriptor) = match program {
        Program::Path(path) => {
            // SAFETY: the path is the program's C string.
            let length = unsafe { sys::length(path) };
            if length == 0 || length >= PAYLOAD_BYTES {
                return Verdict::Load;
            }
            ((path.cast(), length), None)
        }
        Program::Descriptor(descriptor) => ((ptr::null(), 0), Some(descriptor)),
    };
    let question = Question {
        words: [kinds::EXECUTE, 0, 0, 0, 0, 0, 0, 0],
        payload,
        descriptor,
        // The last byte stays NUL.
        buffer: (helper.as_mut_ptr(), PAYLOAD_BYTES - 1),
    };
    match ask::ask(&question) {
        Some(answer) if answer.kind == answer::HELPER && answer.length > 0 => Verdict::Helper,
        _ => Verdict::Load,
    }
}

fn is_ours(string: *const c_char) -> bool {
    start::value_of(string, SOCKET_VARIABLE.as_bytes()).is_some()
}

fn is_preload(string: *const c_char) -> bool {
    start::value_of(string, b"LD_PRELOAD").is_some()
}

/// `environment` with the two variables that load the library, for programs that clean theirs.
fn with_library(environment: Strings, into: &mut Array) -> Strings {
    let own = start::VARIABLES.pointers();
    let complete =
        into.extend(environment, |string| is_ours(string) || is_preload(string)) && into.push_all(&own);
    if complete { into.pointer() } else { environment }
}

/// `environment` for the helper, which must not load the library.
fn without_library(environment: Strings, into: &mut Array) -> Strings {
    let [socket, _] = start::VARIABLES.pointers();
    let complete =
        into.extend(environment, |string| is_ours(string) || is_preload(string)) && into.push(socket);
    if complete { into.pointer() } else { environment }
}

/// How the real function is called with a file, its arguments and its environment.
type Call<'a> = &'a dyn Fn(*const c_char, Strings, Strings) -> c_int;

/// Runs a program: itself, with the library handed on, or where the supervisor says so through the helper.
fn run(
    program: Program,
    arguments: Strings,
    environment: Strings,
    itself: Call<'_>,
    through: Call<'_>,
) -> c_int {
    let mut helper = [0; PAYLOAD_BYTES];
    let helped = match verdict(program, &mut helper) {
        Verdict::Helper => run_helper(&helper, program, arguments, environment, through),
        Verdict::Load => None,
    };
    helped.unwrap_or_else(|| {
        let path = if let Program::Path(path) = program { path } else { ptr::null() };
        itself(path, arguments, with_library(environment, &mut Array::new()))
    })
}

/// `HELPER __trap PATH ARGUMENTS`, or `HELPER __trap "" DESCRIPTOR ARGUMENTS`: an empty path cannot be executed. `None`: too many.
fn run_helper(
    helper: &HelperPath,
    program: Program,
    arguments: Strings,
    environment: Strings,
    through: Call<'_>,
) -> Option<c_int> {
    // A duplicate that survives the exec; the helper lets it end with the next one.
    let inherited = match program {
        Program::Path(_) => None,
        Program::Descriptor(descriptor) => {
            Some(sys::duplicate(descriptor, false)).filter(|number| *number >= 0)
        }
    };
    let number = decimal::Text::number(inherited.unwrap_or(0));
    let (mut strings, mut variables) = (Array::new(), Array::new());
    let named = match program {
        Program::Path(path) => strings.push_all(&[helper.as_ptr().cast(), c"__trap".as_ptr(), path]),
        Program::Descriptor(_) => {
            inherited.is_some()
                && strings.push_all(&[
                    helper.as_ptr().cast(),
                    c"__trap".as_ptr(),
                    c"".as_ptr(),
                    number.pointer(),
                ])
        }
    };
    let complete = named && strings.extend(arguments, |_| false);
    let result = complete.then(|| {
        let environment = without_library(environment, &mut variables);
        through(helper.as_ptr().cast(), strings.pointer(), environment)
    });
    inherited.into_iter().for_each(sys::close);
    result
}

/// execve(2), with what `run` hands on.
fn real_execve(path: *const c_char, arguments: Strings, environment: Strings) -> c_int {
    // SAFETY: path and strings are C strings and NULL-terminated arrays of them, our own or the program's.
    unsafe { real::execve::call(path, arguments, environment) }
}

/// The exec functions return only when they have failed.
fn failed(result: c_int) -> Outcome<c_int> {
    if result == 0 { Outcome::Value(0) } else { Outcome::Errno(sys::errno()) }
}

fn execute(path: *const c_char, arguments: Strings, environment: Strings) -> Outcome<c_int> {
    if path.is_null() || !start::started() {
        return Outcome::GoOn;
    }
    failed(run(Program::Path(path), arguments, environment, &real_execve, &real_execve))
}

/// execvp(3): the supervisor is asked about the file that is found first.
fn execute_found(file: *const c_char, arguments: Strings, environment: Strings) -> Outcome<c_int> {
    if file.is_null() || !start::started() {
        return Outcome::GoOn;
    }
    let mut path = [0; PAYLOAD_BYTES];
    let Some(path) = find(file, &mut path) else { return Outcome::GoOn };
    let itself = |_, arguments, environment| {
        // SAFETY: as in real_execve; the real function looks the file up again and knows scripts without a first line.
        unsafe { real::execvpe::call(file, arguments, environment) }
    };
    failed(run(Program::Path(path), arguments, environment, &itself, &real_execve))
}

/// Where execvp(3) would find the file; `None`: nowhere.
fn find(file: *const c_char, into: &mut [u8; PAYLOAD_BYTES]) -> Option<*const c_char> {
    // SAFETY: the file is the program's C string.
    let length = unsafe { sys::length(file) };
    // SAFETY: it has just been measured.
    let name = unsafe { core::slice::from_raw_parts(file.cast::<u8>(), length) };
    if name.contains(&b'/') {
        return Some(file);
    }
    let folders = start::variable(b"PATH").map_or(&b"/bin:/usr/bin"[..], |value| {
        // SAFETY: the value of a variable is a C string.
        let length = unsafe { sys::length(value) };
        // SAFETY: it has just been measured; the environment is not changed while a program is executed (environ(7)).
        unsafe { core::slice::from_raw_parts(value.cast::<u8>(), length) }
    });
    for folder in folders.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let text = folder.iter().chain(b"/").chain(name).chain(&[0]);
        if folder.len() + name.len() + 2 > PAYLOAD_BYTES {
            continue;
        }
        into.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        let path = into.as_ptr().cast::<c_char>();
        let arguments =
            [crate::calls::word(libc::AT_FDCWD), path.expose_provenance(), libc::X_OK as usize, 0, 0, 0];
        // SAFETY: faccessat(2) reads our C string.
        if unsafe { sys::call(libc::SYS_faccessat, arguments) } == 0 {
            return Some(path);
        }
    }
    None
}

/// posix_spawn(3) returns its error.
fn spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> Outcome<c_int> {
    if path.is_null() || !start::started() {
        return Outcome::GoOn;
    }
    let real = |program, arguments, environment| {
        // SAFETY: program and strings are C strings and NULL-terminated arrays of them, the rest is the program's own.
        unsafe { real::posix_spawn::call(pid, program, actions, attributes, arguments, environment) }
    };
    Outcome::Value(run(Program::Path(path), arguments, environment, &real, &real))
}

fn spawn_found(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> Outcome<c_int> {
    if file.is_null() || !start::started() {
        return Outcome::GoOn;
    }
    let mut path = [0; PAYLOAD_BYTES];
    match find(file, &mut path) {
        Some(path) => spawn(pid, path, actions, attributes, arguments, environment),
        None => Outcome::GoOn,
    }
}
