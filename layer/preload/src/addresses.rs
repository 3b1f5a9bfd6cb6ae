//! Hooks of the socket calls for a session without a netns: the program's sockets are in the machine's own network, so the addresses
//! that it passes and sees are rewritten.
//!
//! What an address becomes only the session host knows. It gets the socket itself beside the question, binds or connects it, and
//! knows it again by its cookie: duplicates, children and executed programs need nothing to be handed on. Where the kernel's answer
//! comes first (accept, getsockname, recvfrom) only the address in it is exchanged.

use core::{
    ffi::{c_int, c_uint, c_void},
    mem, ptr,
};

use libc::{mmsghdr, msghdr, size_t, sockaddr, sockaddr_storage, socklen_t, ssize_t, timespec};

use crate::{
    ask::{self, Question},
    calls::Outcome,
    hook::hooks,
    start, sys,
    wire::{answer, ask as kinds, socket, wants},
};

hooks! {
    fn bind(descriptor: c_int, address: *const sockaddr, length: socklen_t) -> c_int, checked = |descriptor, address, length| question(socket::BIND, descriptor, address, length);
    fn accept(descriptor: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, checked = |descriptor, address, length| {
        // SAFETY: the arguments are the program's own.
        accepted(address, length, || unsafe { real::accept::call(descriptor, address, length) })
    };
    fn accept4(descriptor: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int, checked = |descriptor, address, length, flags| {
        // SAFETY: the arguments are the program's own.
        accepted(address, length, || unsafe { real::accept4::call(descriptor, address, length, flags) })
    };
    fn getsockname(descriptor: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, checked = |descriptor, address, length| {
        // SAFETY: the arguments are the program's own.
        named(socket::LOCAL, descriptor, address, length, || unsafe { real::getsockname::call(descriptor, address, length) })
    };
    fn getpeername(descriptor: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, checked = |descriptor, address, length| {
        // SAFETY: the arguments are the program's own.
        named(socket::PEER, descriptor, address, length, || unsafe { real::getpeername::call(descriptor, address, length) })
    };
    fn getsockopt(descriptor: c_int, level: c_int, option: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int, checked = option_value;
    fn sendto(descriptor: c_int, bytes: *const c_void, count: size_t, flags: c_int, address: *const sockaddr, length: socklen_t) -> ssize_t, checked = send_to;
    fn sendmsg(descriptor: c_int, message: *const msghdr, flags: c_int) -> ssize_t, checked = send_message;
    fn sendmmsg(descriptor: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int = send_messages;
    fn recvfrom(descriptor: c_int, bytes: *mut c_void, count: size_t, flags: c_int, address: *mut sockaddr, length: *mut socklen_t) -> ssize_t, checked = receive_from;
    fn __recvfrom_chk(descriptor: c_int, bytes: *mut c_void, count: size_t, room: size_t, flags: c_int, address: *mut sockaddr, length: *mut socklen_t) -> ssize_t = |descriptor, bytes, count: size_t, room, flags, address, length| receive_from(descriptor, bytes, count.min(room), flags, address, length);
    fn recvmsg(descriptor: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, checked = receive_message;
    fn recvmmsg(descriptor: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, limit: *mut timespec) -> c_int = receive_messages;
}

const STORAGE: usize = size_of::<sockaddr_storage>();

/// An internet address as the kernel takes it.
#[derive(Clone, Copy)]
struct Address {
    storage: sockaddr_storage,
    length: usize,
}

impl Address {
    fn empty() -> Self {
        // SAFETY: sockaddr_storage is a plain structure for which zeroes are valid.
        Self { storage: unsafe { mem::zeroed() }, length: 0 }
    }

    const fn pointer(&self) -> *const sockaddr {
        (&raw const self.storage).cast()
    }

    fn length(&self) -> socklen_t {
        socklen_t::try_from(self.length).unwrap_or(0)
    }

    /// Copies it to a place of the program's with so much room, as the kernel does: cut off, with its full length.
    fn write(&self, place: *mut sockaddr, room: usize, length: *mut socklen_t) {
        // SAFETY: the place holds `room` bytes by the contract of the function that was called, the storage at least `self.length`.
        unsafe {
            ptr::copy_nonoverlapping(
                self.pointer().cast::<u8>(),
                place.cast::<u8>(),
                room.min(self.length).min(STORAGE),
            );
        }
        // SAFETY: the program's own length, which the kernel has just written to.
        unsafe { length.write(self.length()) };
    }
}

/// The family of an address of the program's.
fn family(address: *const sockaddr, length: usize) -> Option<c_int> {
    if address.is_null() || length < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the program passes `length` bytes, of which the family is the first two; it need not be aligned.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    Some(c_int::from(family))
}

fn is_internet(address: *const sockaddr, length: usize) -> bool {
    match family(address, length) {
        Some(libc::AF_INET) => length >= size_of::<libc::sockaddr_in>(),
        Some(libc::AF_INET6) => length >= size_of::<libc::sockaddr_in6>(),
        _ => false,
    }
}

/// Whether an internet address is one of the loopback, where everything of the session comes from.
fn is_loopback(address: *const sockaddr, length: usize) -> bool {
    if !is_internet(address, length) {
        return false;
    }
    let byte = |offset: usize| {
        // SAFETY: an internet address is at least as long as its structure, which the offsets below lie within.
        unsafe { address.cast::<u8>().wrapping_add(offset).read() }
    };
    if family(address, length) == Some(libc::AF_INET) {
        return byte(4) == 127;
    }
    let zeroes = (8..18).all(|offset| byte(offset) == 0);
    let mapped = byte(18) == 0xff && byte(19) == 0xff && byte(20) == 127;
    let own = (18..23).all(|offset| byte(offset) == 0) && byte(23) == 1;
    zeroes && (mapped || own)
}

/// A call by its arguments as the kernel would get them: descriptor, address, length.
pub(crate) fn asked(kind: u64, [descriptor, address, length, ..]: [usize; 6]) -> Outcome<i64> {
    let address = ptr::with_exposed_provenance::<sockaddr>(address);
    ask_about(kind, Some(crate::calls::int(descriptor)), address, length, 0, &mut Address::empty())
}

/// listen(2).
pub(crate) fn listening(descriptor: c_int, backlog: c_int) -> Outcome<i64> {
    ask_host(socket::LISTEN, Some(descriptor), (ptr::null(), 0), backlog, &mut Address::empty())
}

/// Asks about an internet address; others are left alone.
fn ask_about(
    kind: u64,
    descriptor: Option<c_int>,
    address: *const sockaddr,
    length: usize,
    number: c_int,
    into: &mut Address,
) -> Outcome<i64> {
    if !start::wants(wants::ADDRESSES) || !is_internet(address, length) {
        return Outcome::GoOn;
    }
    ask_host(kind, descriptor, (address.cast(), length.min(STORAGE)), number, into)
}

fn ask_host(
    kind: u64,
    descriptor: Option<c_int>,
    payload: (*const u8, usize),
    number: c_int,
    into: &mut Address,
) -> Outcome<i64> {
    let question = Question {
        words: [kinds::SOCKET, kind, number.unsigned_abs().into(), 0, 0, 0, 0, 0],
        payload,
        descriptor,
        buffer: ((&raw mut into.storage).cast(), STORAGE),
    };
    let Some(answered) = ask::ask(&question) else { return Outcome::GoOn };
    into.length = answered.length;
    match (answered.kind, c_int::try_from(answered.value)) {
        (answer::VALUE, Ok(value)) if value < 0 => Outcome::Errno(-value),
        (answer::VALUE, Ok(value)) => Outcome::Value(value.into()),
        _ => Outcome::GoOn,
    }
}

fn question(kind: u64, descriptor: c_int, address: *const sockaddr, length: socklen_t) -> Outcome<c_int> {
    let mut answer = Address::empty();
    ask_about(kind, Some(descriptor), address, length as usize, 0, &mut answer).map(crate::calls::result)
}

/// What a real call returned, as an outcome.
fn done<T: PartialOrd + Default>(result: T) -> Outcome<T> {
    if result < T::default() { Outcome::Errno(sys::errno()) } else { Outcome::Value(result) }
}

/// How much room the program has for an address.
fn room_of(address: *mut sockaddr, length: *mut socklen_t) -> usize {
    if address.is_null() || length.is_null() {
        return 0;
    }
    // SAFETY: the program's own length, which the call that it made reads as well.
    unsafe { length.read() as usize }
}

/// Exchanges an address that the kernel has just written.
fn exchange(
    kind: u64,
    descriptor: Option<c_int>,
    address: *mut sockaddr,
    room: usize,
    length: *mut socklen_t,
) {
    // SAFETY: the kernel has just written it.
    let written = (unsafe { length.read() } as usize).min(room);
    let mut answer = Address::empty();
    let told = ask_about(kind, descriptor, address, written, 0, &mut answer);
    if matches!(told, Outcome::Value(_)) && answer.length > 0 {
        answer.write(address, room, length);
    }
}

fn accepted(address: *mut sockaddr, length: *mut socklen_t, real: impl FnOnce() -> c_int) -> Outcome<c_int> {
    let room = room_of(address, length);
    if room == 0 || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    let outcome = done(real());
    if let Outcome::Value(descriptor) = outcome {
        exchange(socket::PEER, Some(descriptor), address, room, length);
    }
    outcome
}

fn named(
    kind: u64,
    descriptor: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    real: impl FnOnce() -> c_int,
) -> Outcome<c_int> {
    let room = room_of(address, length);
    if room == 0 || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    let outcome = done(real());
    if outcome == Outcome::Value(0) {
        exchange(kind, Some(descriptor), address, room, length);
    }
    outcome
}

/// getsockopt(2): how a connection attempt ended only the host knows exactly.
fn option_value(
    descriptor: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> Outcome<c_int> {
    if level != libc::SOL_SOCKET || option != libc::SO_ERROR || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    // SAFETY: the arguments are the program's own.
    let outcome = done(unsafe { real::getsockopt::call(descriptor, level, option, value, length) });
    // SAFETY: the call has succeeded, so the length is valid.
    if outcome != Outcome::Value(0) || (unsafe { length.read() } as usize) < size_of::<c_int>() {
        return outcome;
    }
    let place = value.cast::<c_int>();
    // SAFETY: the kernel has written an int there; it need not be aligned.
    let error = unsafe { place.read_unaligned() };
    if error != 0
        && let Outcome::Value(exact) =
            ask_host(socket::ERROR, Some(descriptor), (ptr::null(), 0), error, &mut Address::empty())
    {
        // SAFETY: as above.
        unsafe { place.write_unaligned(crate::calls::result(exact)) };
    }
    outcome
}

/// Where a datagram to this address has to go.
fn destination(descriptor: c_int, address: *const sockaddr, length: usize) -> Outcome<Address> {
    let mut to = Address::empty();
    match ask_about(socket::SEND, Some(descriptor), address, length, 0, &mut to) {
        Outcome::Value(_) if to.length > 0 => Outcome::Value(to),
        Outcome::Errno(errno) => Outcome::Errno(errno),
        _ => Outcome::GoOn,
    }
}

fn send_to(
    descriptor: c_int,
    bytes: *const c_void,
    count: size_t,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> Outcome<ssize_t> {
    match destination(descriptor, address, length as usize) {
        Outcome::Value(to) => {
            let (address, length) = (to.pointer(), to.length());
            // SAFETY: the address is ours, everything else the program's own.
            done(unsafe { real::sendto::call(descriptor, bytes, count, flags, address, length) })
        }
        Outcome::Errno(errno) => Outcome::Errno(errno),
        Outcome::GoOn => Outcome::GoOn,
    }
}

fn send_message(descriptor: c_int, message: *const msghdr, flags: c_int) -> Outcome<ssize_t> {
    if message.is_null() || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    // SAFETY: the program's own message.
    let mut own = unsafe { message.read() };
    match destination(descriptor, own.msg_name.cast(), own.msg_namelen as usize) {
        Outcome::Value(to) => {
            own.msg_name = to.pointer().cast_mut().cast();
            own.msg_namelen = to.length();
            // SAFETY: the address is ours, everything else the program's own.
            done(unsafe { real::sendmsg::call(descriptor, &raw const own, flags) })
        }
        Outcome::Errno(errno) => Outcome::Errno(errno),
        Outcome::GoOn => Outcome::GoOn,
    }
}

/// sendmmsg(2): one after the other; like the kernel it tells of an error only when nothing was sent.
fn send_messages(descriptor: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> Outcome<c_int> {
    if messages.is_null() || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    let mut sent = 0;
    for index in 0..count as usize {
        let entry = messages.wrapping_add(index);
        // SAFETY: the program's array holds `count` messages.
        let mut one = unsafe { entry.read() };
        let outcome = match send_message(descriptor, &raw const one.msg_hdr, flags) {
            // SAFETY: the message is the program's own.
            Outcome::GoOn => done(unsafe { real::sendmsg::call(descriptor, &raw const one.msg_hdr, flags) }),
            outcome => outcome,
        };
        match outcome {
            Outcome::Value(bytes) => {
                one.msg_len = c_uint::try_from(bytes).unwrap_or(0);
                // SAFETY: as above.
                unsafe { entry.write(one) };
                sent += 1;
            }
            Outcome::Errno(errno) if sent == 0 => return Outcome::Errno(errno),
            _ => break,
        }
    }
    Outcome::Value(sent)
}

fn receive_from(
    descriptor: c_int,
    bytes: *mut c_void,
    count: size_t,
    flags: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> Outcome<ssize_t> {
    let room = room_of(address, length);
    if room == 0 || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    // SAFETY: the arguments are the program's own.
    let outcome = done(unsafe { real::recvfrom::call(descriptor, bytes, count, flags, address, length) });
    if matches!(outcome, Outcome::Value(_)) {
        came_from(address, room, length);
    }
    outcome
}

/// Exchanges the source of a datagram.
fn came_from(address: *mut sockaddr, room: usize, length: *mut socklen_t) {
    // SAFETY: the kernel has just written it; a stream has no addresses and leaves it at 0.
    let written = (unsafe { length.read() } as usize).min(room);
    if is_loopback(address, written) {
        exchange(socket::RECEIVE, None, address, room, length);
    }
}

fn receive_message(descriptor: c_int, message: *mut msghdr, flags: c_int) -> Outcome<ssize_t> {
    if message.is_null() || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    // SAFETY: the program's own message.
    let room = unsafe { message.read() }.msg_namelen as usize;
    // SAFETY: the arguments are the program's own.
    let outcome = done(unsafe { real::recvmsg::call(descriptor, message, flags) });
    if matches!(outcome, Outcome::Value(_)) {
        message_came_from(message, room);
    }
    outcome
}

fn message_came_from(message: *mut msghdr, room: usize) {
    // SAFETY: the program's own message, which the kernel has just filled.
    let mut own = unsafe { message.read() };
    if own.msg_name.is_null() || room == 0 {
        return;
    }
    came_from(own.msg_name.cast(), room, &raw mut own.msg_namelen);
    // SAFETY: as above.
    unsafe { message.write(own) };
}

fn receive_messages(
    descriptor: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    limit: *mut timespec,
) -> Outcome<c_int> {
    /// Most messages whose room is remembered; programs pass a few dozen.
    const MOST: usize = 1024;
    if messages.is_null() || !start::wants(wants::ADDRESSES) {
        return Outcome::GoOn;
    }
    let count = (count as usize).min(MOST);
    let mut rooms = [0_usize; MOST];
    for (index, room) in rooms.iter_mut().enumerate().take(count) {
        // SAFETY: the program's array holds at least `count` messages.
        *room = unsafe { messages.wrapping_add(index).read() }.msg_hdr.msg_namelen as usize;
    }
    let asked = c_uint::try_from(count).unwrap_or(0);
    // SAFETY: the arguments are the program's own; fewer messages than it has room for.
    let outcome = done(unsafe { real::recvmmsg::call(descriptor, messages, asked, flags, limit) });
    if let Outcome::Value(received) = outcome {
        let received = usize::try_from(received).unwrap_or(0);
        for (index, room) in rooms.iter().enumerate().take(received) {
            // SAFETY: as above; the header is the first field of each.
            message_came_from(messages.wrapping_add(index).cast::<msghdr>(), *room);
        }
    }
    outcome
}
