//! System calls that the supervisor answers, by number and arguments as the kernel would get them.

use core::ffi::{c_char, c_int, c_long};

use crate::{
    addresses,
    ask::{self, Question},
    start, sys,
    wire::{PAYLOAD_BYTES, answer, ask as kinds, socket, wants},
};

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// The real function does it.
    GoOn,
    Value(T),
    /// It fails with this error number.
    Errno(c_int),
}

impl<T> Outcome<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::GoOn => Outcome::GoOn,
            Self::Value(value) => Outcome::Value(change(value)),
            Self::Errno(errno) => Outcome::Errno(errno),
        }
    }
}

/// Where the parts of a call lie among its arguments.
struct Shape {
    path: usize,
    /// Argument with the address of the result, and its size.
    result: Option<(usize, usize)>,
}

/// Path calls: those with a directory descriptor, which the others are put as.
fn shape(number: c_long, a: [usize; 6]) -> Option<Shape> {
    let shape = |path, result| Some(Shape { path, result });
    match number {
        libc::SYS_openat | libc::SYS_faccessat | libc::SYS_faccessat2 => shape(1, None),
        libc::SYS_newfstatat => shape(1, Some((2, size_of::<libc::stat>()))),
        libc::SYS_statx => shape(1, Some((4, STATX_BYTES))),
        libc::SYS_readlinkat => {
            let [_, _, _, size, ..] = a;
            shape(1, Some((2, size)))
        }
        libc::SYS_statfs => shape(0, Some((1, size_of::<libc::statfs>()))),
        libc::SYS_getxattr | libc::SYS_lgetxattr | libc::SYS_listxattr | libc::SYS_llistxattr => {
            shape(0, None)
        }
        _ => None,
    }
}

/// Size of struct statx (linux/stat.h).
const STATX_BYTES: usize = 256;

/// What becomes of a system call. Other calls than those in this file go on.
pub(crate) fn trapped(number: c_long, a: [usize; 6]) -> Outcome<i64> {
    let [a0, a1, a2, ..] = a;
    match number {
        libc::SYS_socket if start::wants(wants::NETWORK) && is_internet(a0, a1) => {
            let flags = int(a1);
            told(&question(number, a), flags & libc::SOCK_CLOEXEC != 0)
        }
        libc::SYS_listen if start::wants(wants::NETWORK) => {
            told(&Question { descriptor: Some(int(a0)), ..question(number, a) }, false)
        }
        libc::SYS_connect => connect(a),
        libc::SYS_bind if start::wants(wants::ADDRESSES) => addresses::asked(socket::BIND, a),
        libc::SYS_listen if start::wants(wants::ADDRESSES) => addresses::listening(int(a0), int(a1)),
        libc::SYS_uname if start::wants(wants::HOSTNAME) => {
            let buffer = core::ptr::with_exposed_provenance_mut(a0);
            told(&Question { buffer: (buffer, size_of::<libc::utsname>()), ..question(number, a) }, false)
        }
        // A ring would go past the library; programs fall back to plain calls.
        libc::SYS_io_uring_setup if start::started() => Outcome::Errno(libc::ENOSYS),
        _ => match shape(number, a) {
            Some(shape) if start::wants(wants::FILES) => path_call(number, a, &shape, a2),
            _ => Outcome::GoOn,
        },
    }
}

fn path_call(number: c_long, a: [usize; 6], shape: &Shape, flags: usize) -> Outcome<i64> {
    let at = |index: usize| a.get(index).copied().unwrap_or(0);
    let path = core::ptr::with_exposed_provenance::<c_char>(at(shape.path));
    if path.is_null() {
        return Outcome::GoOn;
    }
    // SAFETY: it is the program's own path argument, a C string by the contract of the function that it called.
    let length = unsafe { sys::length(path) };
    if length == 0 || length >= PAYLOAD_BYTES {
        return Outcome::GoOn;
    }
    let buffer = shape.result.map_or((core::ptr::null_mut(), 0), |(index, size)| {
        (core::ptr::with_exposed_provenance_mut::<u8>(at(index)), size)
    });
    let close_on_exec = number == libc::SYS_openat && int(flags) & libc::O_CLOEXEC != 0;
    told(&Question { payload: (path.cast(), length), buffer, ..question(number, a) }, close_on_exec)
}

fn connect(a: [usize; 6]) -> Outcome<i64> {
    let unix = if start::wants(wants::UNIX) { unix_connect(a) } else { Outcome::GoOn };
    if unix == Outcome::GoOn && start::wants(wants::ADDRESSES) {
        return addresses::asked(socket::CONNECT, a);
    }
    unix
}

/// connect(2): only unix sockets with a path are asked about.
fn unix_connect(a: [usize; 6]) -> Outcome<i64> {
    let [descriptor, address, length, ..] = a;
    let address = core::ptr::with_exposed_provenance::<u8>(address);
    let header = size_of::<libc::sa_family_t>();
    if address.is_null() || length <= header {
        return Outcome::GoOn;
    }
    // SAFETY: the program passes `length` bytes, of which the family is the first two; it need not be aligned.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    // SAFETY: there is at least one byte behind the family.
    let path = unsafe { address.add(header) };
    // SAFETY: as above.
    if c_int::from(family) != libc::AF_UNIX || unsafe { path.read() } == 0 {
        return Outcome::GoOn;
    }
    let room = (length - header).min(size_of::<libc::sockaddr_un>() - header);
    // SAFETY: the program passes at least `room` bytes behind the family; the path ends at its NUL.
    let end = (0..room).find(|index| unsafe { path.wrapping_add(*index).read() } == 0).unwrap_or(room);
    let ask = Question {
        payload: (path, end),
        descriptor: Some(int(descriptor)),
        ..question(libc::SYS_connect, a)
    };
    told(&ask, false)
}

pub(crate) fn question(number: c_long, a: [usize; 6]) -> Question {
    let [a0, a1, a2, a3, a4, a5] = a.map(|argument| argument as u64);
    let number = number.cast_unsigned();
    Question { words: [kinds::CALL, number, a0, a1, a2, a3, a4, a5], ..Question::default() }
}

/// Asks and turns the answer into an outcome.
pub(crate) fn told(question: &Question, close_on_exec: bool) -> Outcome<i64> {
    let Some(told) = ask::ask(question) else { return Outcome::GoOn };
    match (told.kind, told.descriptor) {
        (answer::DESCRIPTOR, Some(descriptor)) => handed_out(descriptor, close_on_exec),
        (answer::VALUE, _) => match c_int::try_from(told.value) {
            Ok(value) if value < 0 => Outcome::Errno(-value),
            _ => Outcome::Value(told.value),
        },
        _ => Outcome::GoOn,
    }
}

/// The number that the real call would have given: the lowest that is free. The one that the descriptor came under is not, as the
/// connection to the supervisor took a number before it.
fn handed_out(descriptor: c_int, close_on_exec: bool) -> Outcome<i64> {
    let lowest = sys::duplicate(descriptor, close_on_exec);
    sys::close(descriptor);
    if lowest < 0 { Outcome::Errno(-lowest) } else { Outcome::Value(lowest.into()) }
}

/// Whether these are the first arguments of an internet stream or datagram socket.
fn is_internet(domain: usize, kind: usize) -> bool {
    /// SOCK_TYPE_MASK of linux/net.h.
    const TYPE: c_int = 0xf;
    [libc::AF_INET, libc::AF_INET6].contains(&int(domain))
        && [libc::SOCK_STREAM, libc::SOCK_DGRAM].contains(&(int(kind) & TYPE))
}

/// A result as functions of libc return it.
pub(crate) fn result(value: i64) -> c_int {
    c_int::try_from(value).unwrap_or(-1)
}

/// The low half of an argument, as the kernel reads an `int`.
pub(crate) fn int(argument: usize) -> c_int {
    #[expect(clippy::cast_possible_truncation, reason = "the kernel takes the low half, too")]
    let low = argument as u32;
    low.cast_signed()
}

pub(crate) const fn word(value: c_int) -> usize {
    value.cast_unsigned() as usize
}
