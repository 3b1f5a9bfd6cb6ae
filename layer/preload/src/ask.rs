//! Asks the supervisor: connect, send, receive, close. Whatever fails means that the call goes its usual way.

use core::{
    ffi::{c_int, c_void},
    mem, ptr,
};

use crate::{start, sys, wire};

/// A question with what goes beside it.
pub(crate) struct Question {
    pub(crate) words: [u64; 8],
    /// A path or name.
    pub(crate) payload: (*const u8, usize),
    /// A descriptor of the program.
    pub(crate) descriptor: Option<c_int>,
    /// Where bytes of the answer go.
    pub(crate) buffer: (*mut u8, usize),
}

impl Default for Question {
    fn default() -> Self {
        Self { words: [0; 8], payload: (ptr::null(), 0), descriptor: None, buffer: (ptr::null_mut(), 0) }
    }
}

/// What came back.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) kind: u64,
    pub(crate) value: i64,
    /// Close-on-exec.
    pub(crate) descriptor: Option<c_int>,
    /// Bytes in the buffer.
    pub(crate) length: usize,
}

/// Longer than the supervisor waits for the session host, so that its answer comes first.
const TIMEOUT_SECONDS: i64 = 35;

/// Room for one descriptor beside a message (cmsg(3)).
#[repr(C, align(8))]
struct Control {
    length: usize,
    level: c_int,
    kind: c_int,
    descriptor: c_int,
    padding: c_int,
}
const CONTROL_BYTES: usize = size_of::<Control>();
const CONTROL_LENGTH: usize = CONTROL_BYTES - size_of::<c_int>();

/// Asks and waits; `None`: there is nobody to ask, or no descriptor left to ask with.
pub(crate) fn ask(question: &Question) -> Option<Answer> {
    let socket = sys::unix_socket();
    if socket < 0 {
        return None;
    }
    let answer =
        if connect(socket) && send(socket, question) { receive(socket, question.buffer) } else { None };
    sys::close(socket);
    answer
}

fn connect(socket: c_int) -> bool {
    // SAFETY: sockaddr_un is a plain structure for which zeroes are valid.
    let mut address = unsafe { mem::zeroed::<libc::sockaddr_un>() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(1);
    // SAFETY: the text holds at most 107 bytes and a NUL, which sun_path has room for; both are valid for that length.
    unsafe {
        ptr::copy_nonoverlapping(
            start::SOCKET.pointer(),
            (&raw mut address.sun_path).cast::<u8>(),
            start::SOCKET.length(),
        );
    }
    let limit = libc::timeval { tv_sec: TIMEOUT_SECONDS, tv_usec: 0 };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let arguments = [
            number(socket),
            number(libc::SOL_SOCKET),
            number(option),
            (&raw const limit).addr(),
            size_of::<libc::timeval>(),
            0,
        ];
        // SAFETY: setsockopt(2) reads one timeval, which is a local.
        unsafe { sys::call(libc::SYS_setsockopt, arguments) };
    }
    let arguments = [number(socket), (&raw const address).addr(), size_of::<libc::sockaddr_un>(), 0, 0, 0];
    // SAFETY: connect(2) reads one sockaddr_un of the length given, which is a local.
    repeat(|| unsafe { sys::call(libc::SYS_connect, arguments) }) == 0
}

fn send(socket: c_int, question: &Question) -> bool {
    let (payload, length) = question.payload;
    let mut parts = [
        libc::iovec { iov_base: question.words.as_ptr().cast_mut().cast(), iov_len: wire::QUESTION_BYTES },
        libc::iovec { iov_base: payload.cast_mut().cast(), iov_len: length },
    ];
    let mut control = Control {
        length: CONTROL_LENGTH,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        descriptor: question.descriptor.unwrap_or(-1),
        padding: 0,
    };
    let control = question.descriptor.map(|_| (&raw mut control).cast::<c_void>());
    let message = message(&mut parts, control.unwrap_or(ptr::null_mut()));
    let arguments = [number(socket), (&raw const message).addr(), number(libc::MSG_NOSIGNAL), 0, 0, 0];
    // SAFETY: sendmsg(2) reads the message, its two parts (the question's words; the payload, valid for its length by whoever made
    // the question) and the control block, which all outlive the call.
    repeat(|| unsafe { sys::call(libc::SYS_sendmsg, arguments) }) > 0
}

fn receive(socket: c_int, (buffer, room): (*mut u8, usize)) -> Option<Answer> {
    let mut fixed = [0_u64; 2];
    let mut parts = [
        libc::iovec { iov_base: fixed.as_mut_ptr().cast(), iov_len: wire::ANSWER_BYTES },
        libc::iovec { iov_base: buffer.cast(), iov_len: room },
    ];
    let mut control = Control { length: 0, level: 0, kind: 0, descriptor: -1, padding: 0 };
    let mut message = message(&mut parts, (&raw mut control).cast());
    let arguments = [number(socket), (&raw mut message).addr(), number(libc::MSG_CMSG_CLOEXEC), 0, 0, 0];
    // SAFETY: recvmsg(2) writes the message, its two parts (our two words; the buffer, valid for its length by whoever made the
    // question) and the control block, which all outlive the call.
    let count = repeat(|| unsafe { sys::call(libc::SYS_recvmsg, arguments) });
    let length = usize::try_from(count).ok()?.checked_sub(wire::ANSWER_BYTES)?;
    let carries = control.length >= CONTROL_LENGTH && control.kind == libc::SCM_RIGHTS;
    let [kind, value] = fixed;
    let descriptor = (carries && control.descriptor >= 0).then_some(control.descriptor);
    Some(Answer { kind, value: value.cast_signed(), descriptor, length })
}

fn message(parts: &mut [libc::iovec; 2], control: *mut c_void) -> libc::msghdr {
    // SAFETY: msghdr is a plain structure for which zeroes are valid; musl's has padding of its own.
    let mut message = unsafe { mem::zeroed::<libc::msghdr>() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 2;
    message.msg_control = control;
    message.msg_controllen = if control.is_null() { 0 } else { CONTROL_BYTES };
    message
}

/// Again, as long as signals interrupt it; their handlers have run.
fn repeat(mut call: impl FnMut() -> isize) -> isize {
    loop {
        let result = call();
        if result != -(libc::EINTR as isize) {
            return result;
        }
    }
}

const fn number(value: c_int) -> usize {
    value.cast_unsigned() as usize
}
