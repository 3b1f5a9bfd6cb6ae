//! Hooks of the functions that look the name of an address up, likewise.
#![expect(clippy::too_many_arguments, reason = "gethostbyaddr_r(3) has eight")]

use core::{
    ffi::{c_char, c_int, c_void},
    ptr,
};

use libc::{hostent, sockaddr, socklen_t};

use super::{Found, give, in_static};
use crate::{
    ask::{self, Question},
    calls::Outcome,
    hook::hooks,
    start, sys,
    wire::{answer, ask as kinds, wants},
};

hooks! {
    fn getnameinfo(address: *const sockaddr, length: socklen_t, host: *mut c_char, host_room: socklen_t, service: *mut c_char, service_room: socklen_t, flags: c_int) -> c_int, checked = |address, length, host, host_room, service, service_room, flags| {
        named(address, length, host, host_room, flags, &|host, host_room, flags| {
            // SAFETY: what is ours of the arguments is valid, the rest is the program's own.
            unsafe { real::getnameinfo::call(address, length, host, host_room, service, service_room, flags) }
        })
    };
    fn gethostbyaddr(address: *const c_void, length: socklen_t, family: c_int) -> *mut hostent = |address, length, family| {
        in_static(|entry, buffer, size, result, error| host(address, length, family, entry, buffer, size, result, error))
    };
    fn gethostbyaddr_r(address: *const c_void, length: socklen_t, family: c_int, entry: *mut hostent, buffer: *mut c_char, size: usize, result: *mut *mut hostent, error: *mut c_int) -> c_int = host;
}

/// Longest name in text form with its NUL (NI_MAXHOST of netdb.h).
const NAME: usize = 1025;
type Name = [u8; NAME];

/// Bytes of an address: 4 or 16 of them.
struct Address {
    bytes: *const u8,
    length: usize,
}

impl Address {
    /// The `length` bytes at `place` as an address of this family.
    fn new(place: *const u8, length: usize, family: c_int) -> Option<Self> {
        let wanted = match family {
            libc::AF_INET => 4,
            libc::AF_INET6 => 16,
            _ => return None,
        };
        (!place.is_null() && length >= wanted).then_some(Self { bytes: place, length: wanted })
    }

    /// That in a socket address.
    fn of(address: *const sockaddr, length: usize) -> Option<Self> {
        if address.is_null() || length < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: the program passes `length` bytes, of which the family is the first two; it need not be aligned.
        let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() }.into();
        // sin_addr and sin6_addr.
        let offset = if family == libc::AF_INET { 4 } else { 8 };
        Self::new(address.cast::<u8>().wrapping_add(offset), length - offset, family)
    }

    /// Asks for its name.
    fn name(&self, into: &mut Name) -> Outcome<Result<(), c_int>> {
        if !start::wants(wants::NAMES) {
            return Outcome::GoOn;
        }
        let question = Question {
            words: [kinds::NAME, 0, 0, 0, 0, 0, 0, 0],
            payload: (self.bytes, self.length),
            // The last byte stays NUL.
            buffer: (into.as_mut_ptr(), NAME - 1),
            ..Question::default()
        };
        match ask::ask(&question) {
            Some(answer) if answer.kind == answer::ADDRESSES => Outcome::Value(match answer.value {
                0 if answer.length > 0 => Ok(()),
                0 => Err(libc::EAI_NONAME),
                error => Err(c_int::try_from(error).unwrap_or(libc::EAI_AGAIN)),
            }),
            _ => Outcome::GoOn,
        }
    }
}

/// The real getnameinfo(3) with room for the host's name and flags of ours.
type Itself<'a> = &'a dyn Fn(*mut c_char, socklen_t, c_int) -> c_int;

/// getnameinfo(3): the name is put in here, everything else the real one does; numbers as well where there is no name.
fn named(
    address: *const sockaddr,
    length: socklen_t,
    host: *mut c_char,
    host_room: socklen_t,
    flags: c_int,
    itself: Itself<'_>,
) -> Outcome<c_int> {
    let wanted = !host.is_null() && host_room > 0 && flags & libc::NI_NUMERICHOST == 0;
    let Some(address) = Address::of(address, length as usize).filter(|_| wanted) else {
        return Outcome::GoOn;
    };
    let mut name = [0; NAME];
    match address.name(&mut name) {
        Outcome::Value(Ok(())) => {}
        Outcome::Value(Err(libc::EAI_NONAME)) if flags & libc::NI_NAMEREQD == 0 => {
            return Outcome::Value(itself(host, host_room, flags | libc::NI_NUMERICHOST));
        }
        Outcome::Value(Err(error)) => return Outcome::Value(error),
        _ => return Outcome::GoOn,
    }
    // The service, and whether the arguments are right. It refuses to give a number where a name is required.
    let failed = itself(host, host_room, (flags | libc::NI_NUMERICHOST) & !libc::NI_NAMEREQD);
    if failed != 0 && failed != libc::EAI_OVERFLOW {
        return Outcome::Value(failed);
    }
    // SAFETY: the name ends with a NUL, as the last byte is never written.
    let length = unsafe { sys::length(name.as_ptr().cast()) };
    if length >= host_room as usize {
        return Outcome::Value(libc::EAI_OVERFLOW);
    }
    // SAFETY: the program's buffer holds `host_room` bytes, more than the name with its NUL.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr(), host.cast(), length + 1) };
    Outcome::Value(0)
}

fn host(
    address: *const c_void,
    length: socklen_t,
    family: c_int,
    entry: *mut hostent,
    buffer: *mut c_char,
    size: usize,
    result: *mut *mut hostent,
    error: *mut c_int,
) -> Outcome<c_int> {
    let Some(address) = Address::new(address.cast(), length as usize, family) else { return Outcome::GoOn };
    let mut name = [0; NAME];
    let found = match address.name(&mut name) {
        Outcome::Value(Ok(())) => Ok(Found::one(family, address.bytes, address.length)),
        Outcome::Value(Err(error)) => Err(error),
        _ => return Outcome::GoOn,
    };
    give(name.as_ptr().cast(), family, found, entry, buffer, size, result, error)
}
