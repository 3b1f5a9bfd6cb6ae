//! What the library knows of its session, read from the environment when it is loaded. Nothing is allocated; afterwards it is only
//! read.

use core::{
    cell::UnsafeCell,
    ffi::c_char,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use crate::{
    ask, sys,
    wire::{self, PAYLOAD_BYTES},
};

/// Path of the supervisor's socket and value of LD_PRELOAD, with their NUL.
pub(crate) struct Text<const N: usize> {
    bytes: UnsafeCell<[u8; N]>,
    length: AtomicU64,
}

// SAFETY: the bytes are written once, by the thread that wins the start, before `STATE` says READY (release); everybody else reads
// them after having seen that (acquire).
unsafe impl<const N: usize> Sync for Text<N> {}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; N]), length: AtomicU64::new(0) }
    }

    /// Length without the NUL.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.length.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn pointer(&self) -> *const u8 {
        self.bytes.get().cast()
    }

    /// Takes a copy of a C string when there is room for it.
    fn set(&self, text: *const c_char) {
        // SAFETY: `text` is the value of a variable of the environment: a C string.
        let length = unsafe { sys::length(text) };
        if length >= N {
            return;
        }
        let bytes = self.bytes.get().cast::<u8>();
        // SAFETY: both are valid for `length` bytes (just measured, and less than N); only the thread that starts writes here.
        unsafe { core::ptr::copy_nonoverlapping(text.cast::<u8>(), bytes, length) };
        self.length.store(length as u64, Ordering::Relaxed);
    }
}

/// Longest path of a unix socket (sun_path of linux/un.h).
pub(crate) static SOCKET: Text<108> = Text::new();
/// The variables that load the library, as they stood in the environment.
pub(crate) static VARIABLES: Variables = Variables { socket: Text::new(), preload: Text::new() };

/// Both with their names.
pub(crate) struct Variables {
    socket: Text<160>,
    preload: Text<PAYLOAD_BYTES>,
}

impl Variables {
    /// As entries of an environment.
    pub(crate) fn pointers(&self) -> [*const c_char; 2] {
        [self.socket.pointer().cast(), self.preload.pointer().cast()]
    }
}

static STATE: AtomicU8 = AtomicU8::new(NEW);
const NEW: u8 = 0;
const STARTING: u8 = 1;
const READY: u8 = 2;
static WANTED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Whether the session wants to hear of these calls. Before the library has started: no.
pub(crate) fn wants(what: u64) -> bool {
    started() && WANTED.load(Ordering::Relaxed) & what != 0
}

/// Whether there is a session; starts the library at the first call, which may come before its constructor runs.
pub(crate) fn started() -> bool {
    match STATE.load(Ordering::Acquire) {
        READY => {}
        NEW => start(),
        // Another thread is at it, or a signal handler of this one runs: the call goes its usual way.
        _ => return false,
    }
    SOCKET.length() > 0
}

/// Reads the environment and says hello.
pub(crate) fn start() {
    if STATE.compare_exchange(NEW, STARTING, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return;
    }
    if let (Some(socket), Some(preload)) =
        (variable(wire::SOCKET_VARIABLE.as_bytes()), variable(b"LD_PRELOAD"))
    {
        SOCKET.set(socket);
        VARIABLES.socket.set(entry_of(socket, wire::SOCKET_VARIABLE.as_bytes()));
        VARIABLES.preload.set(entry_of(preload, b"LD_PRELOAD"));
    }
    let hello = ask::Question { words: [wire::ask::HELLO, 0, 0, 0, 0, 0, 0, 0], ..ask::Question::default() };
    if SOCKET.length() > 0
        && let Some(answer) = ask::ask(&hello)
    {
        WANTED.store(answer.value.cast_unsigned(), Ordering::Relaxed);
    }
    STATE.store(READY, Ordering::Release);
}

/// The whole entry that this value stands in.
fn entry_of(value: *const c_char, name: &[u8]) -> *const c_char {
    // SAFETY: `variable` found the value behind the name and a `=`, which lie in the same string.
    unsafe { value.sub(name.len() + 1) }
}

/// The environment of this process.
pub(crate) fn environment() -> *const *const c_char {
    // SAFETY: libc defines `environ`; reading a pointer is atomic on our architectures, and programs may not change it while others
    // read it (environ(7)).
    unsafe { (&raw const environ).read() }
}

/// Value of a variable of this process.
pub(crate) fn variable(name: &[u8]) -> Option<*const c_char> {
    let mut entry = environment();
    if entry.is_null() {
        return None;
    }
    loop {
        // SAFETY: the array ends with a null pointer, which ends this loop.
        let text = unsafe { entry.read() };
        if text.is_null() {
            return None;
        }
        if let Some(value) = value_of(text, name) {
            return Some(value);
        }
        // SAFETY: the end has not been reached, so there is a next entry.
        entry = unsafe { entry.add(1) };
    }
}

/// What stands behind `NAME=`.
pub(crate) fn value_of(text: *const c_char, name: &[u8]) -> Option<*const c_char> {
    for (index, byte) in name.iter().chain(b"=").enumerate() {
        // SAFETY: all bytes before this one were equal to those of the name, which holds no NUL, so the string goes on to here.
        let found = unsafe { text.cast::<u8>().wrapping_add(index).read() };
        if found != *byte {
            return None;
        }
    }
    // SAFETY: the string is at least as long as the name and its `=`.
    Some(unsafe { text.add(name.len() + 1) })
}
