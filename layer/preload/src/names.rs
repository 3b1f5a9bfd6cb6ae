//! Hooks of the functions that look names up. What libc sends inside of them goes past our names, so the session host is asked, and
//! the real functions make their results of the addresses that it gives.

use core::{
    cell::UnsafeCell,
    ffi::{c_char, c_int},
    ptr,
};

use libc::{addrinfo, hostent, size_t};

pub(crate) mod reverse;

use crate::{
    ask::{self, Question},
    calls::Outcome,
    hook::hooks,
    start, sys,
    wire::{ADDRESS_BYTES, PAYLOAD_BYTES, answer, ask as kinds, wants},
};

hooks! {
    fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, result: *mut *mut addrinfo) -> c_int, checked = addresses;
    fn gethostbyname(name: *const c_char) -> *mut hostent = |name| host_in_static(name, libc::AF_INET);
    fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent = host_in_static;
    fn gethostbyname_r(name: *const c_char, entry: *mut hostent, buffer: *mut c_char, size: size_t, result: *mut *mut hostent, error: *mut c_int) -> c_int = |name, entry, buffer, size, result, error| host(name, libc::AF_INET, entry, buffer, size, result, error);
    fn gethostbyname2_r(name: *const c_char, family: c_int, entry: *mut hostent, buffer: *mut c_char, size: size_t, result: *mut *mut hostent, error: *mut c_int) -> c_int = host;
}

/// Most addresses that the supervisor sends.
const ADDRESSES: usize = 32;
type Bytes = [u8; ADDRESSES * ADDRESS_BYTES];

/// Addresses of a name.
struct Found {
    bytes: Bytes,
    length: usize,
}

impl Found {
    /// The one address at `bytes`, of 4 or 16 bytes.
    fn one(family: c_int, bytes: *const u8, length: usize) -> Self {
        let mut found = Self { bytes: [0; ADDRESSES * ADDRESS_BYTES], length: ADDRESS_BYTES };
        // SAFETY: the caller's address has so many bytes.
        let address = unsafe { core::slice::from_raw_parts(bytes, length) };
        let kind = if family == libc::AF_INET { 4 } else { 6 };
        let entry = [kind];
        found.bytes.iter_mut().zip(entry.iter().chain(address)).for_each(|(to, from)| *to = *from);
        found
    }

    /// Family and bytes of each.
    fn each(&self) -> impl Iterator<Item = (c_int, &[u8])> {
        let whole = self.bytes.get(..self.length).unwrap_or_default();
        whole.chunks_exact(ADDRESS_BYTES).filter_map(|entry| match entry.split_first()? {
            (4, bytes) => Some((libc::AF_INET, bytes.get(..4)?)),
            (_, bytes) => Some((libc::AF_INET6, bytes)),
        })
    }
}

/// Asks for a name; addresses written out and empty names are for the real function.
fn look_up(name: *const c_char, family: c_int) -> Outcome<Result<Found, c_int>> {
    if name.is_null() || !start::wants(wants::NAMES) {
        return Outcome::GoOn;
    }
    // SAFETY: the name is the program's C string.
    let length = unsafe { sys::length(name) };
    // SAFETY: it has just been measured.
    let text = unsafe { core::slice::from_raw_parts(name.cast::<u8>(), length) };
    let number = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    if number || length >= PAYLOAD_BYTES || text.contains(&b':') {
        return Outcome::GoOn;
    }
    let mut found = Found { bytes: [0; ADDRESSES * ADDRESS_BYTES], length: 0 };
    let question = Question {
        words: [kinds::RESOLVE, 0, family.unsigned_abs().into(), 0, 0, 0, 0, 0],
        payload: (name.cast(), length),
        buffer: (found.bytes.as_mut_ptr(), ADDRESSES * ADDRESS_BYTES),
        ..Question::default()
    };
    match ask::ask(&question) {
        Some(answer) if answer.kind == answer::ADDRESSES && answer.value == 0 => {
            found.length = answer.length;
            Outcome::Value(Ok(found))
        }
        Some(answer) if answer.kind == answer::ADDRESSES => {
            Outcome::Value(Err(c_int::try_from(answer.value).unwrap_or(libc::EAI_AGAIN)))
        }
        _ => Outcome::GoOn,
    }
}

/// getaddrinfo(3): the real one is asked for each address by its number, so that service, types and memory are its own matter.
fn addresses(
    node: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    result: *mut *mut addrinfo,
) -> Outcome<c_int> {
    // SAFETY: addrinfo is a plain structure for which zeroes are valid: any family and type.
    let mut own = unsafe { core::mem::zeroed::<addrinfo>() };
    if !hints.is_null() {
        // SAFETY: the program's hints are an addrinfo, of which only the first four fields are set.
        own = unsafe { hints.read() };
    }
    if own.ai_flags & libc::AI_NUMERICHOST != 0 {
        return Outcome::GoOn;
    }
    let found = match look_up(node, own.ai_family) {
        Outcome::Value(Ok(found)) => found,
        Outcome::Value(Err(error)) => return Outcome::Value(error),
        _ => return Outcome::GoOn,
    };
    let wants_name = own.ai_flags & libc::AI_CANONNAME != 0;
    own.ai_flags &= !(libc::AI_CANONNAME | libc::AI_ADDRCONFIG);
    own.ai_flags |= libc::AI_NUMERICHOST;
    let (mut first, mut last) = (ptr::null_mut::<addrinfo>(), ptr::null_mut::<addrinfo>());
    let mut error = libc::EAI_NONAME;
    for (family, bytes) in found.each() {
        let mapped = own.ai_family == libc::AF_INET6 && family == libc::AF_INET;
        let wrong = own.ai_family == libc::AF_INET && family != libc::AF_INET;
        if wrong || (mapped && own.ai_flags & libc::AI_V4MAPPED == 0) {
            continue;
        }
        let text = Text::new(bytes, mapped);
        let mut part = ptr::null_mut();
        // SAFETY: the number is our C string, the service the program's; `own` and `part` are locals.
        let failed =
            unsafe { real::getaddrinfo::call(text.pointer(), service, &raw const own, &raw mut part) };
        if failed != 0 || part.is_null() {
            error = failed;
            continue;
        }
        if first.is_null() {
            first = part;
        } else {
            // SAFETY: `last` is the end of the list so far, which is ours until it is given to the program.
            let mut end = unsafe { last.read() };
            end.ai_next = part;
            // SAFETY: as above.
            unsafe { last.write(end) };
        }
        last = end_of(part);
    }
    if first.is_null() {
        return Outcome::Value(error);
    }
    if wants_name {
        // SAFETY: strdup(3) copies the program's C string; freeaddrinfo(3) frees it with the list.
        let name = unsafe { libc::strdup(node) };
        // SAFETY: `first` is a list that is ours until it is given to the program.
        let mut head = unsafe { first.read() };
        head.ai_canonname = name;
        // SAFETY: as above.
        unsafe { first.write(head) };
    }
    // SAFETY: the program's own pointer for the result.
    unsafe { result.write(first) };
    Outcome::Value(0)
}

/// The last entry of a list.
fn end_of(mut entry: *mut addrinfo) -> *mut addrinfo {
    loop {
        // SAFETY: the list comes from getaddrinfo(3): every entry is valid, the last has no next.
        let next = unsafe { entry.read() }.ai_next;
        if next.is_null() {
            return entry;
        }
        entry = next;
    }
}

/// An address as a C string; an IPv4 address may be mapped into IPv6.
struct Text {
    bytes: [u8; 48],
    length: usize,
}

impl Text {
    fn new(address: &[u8], mapped: bool) -> Self {
        let mut text = Self { bytes: [0; 48], length: 0 };
        if address.len() == 4 {
            text.push(if mapped { b"::ffff:" } else { b"" });
            for (index, byte) in address.iter().enumerate() {
                text.push(if index == 0 { b"" } else { b"." });
                text.decimal(*byte);
            }
        } else {
            for (index, pair) in address.chunks_exact(2).enumerate() {
                text.push(if index == 0 { b"" } else { b":" });
                pair.iter().for_each(|byte| text.hexadecimal(*byte));
            }
        }
        text
    }

    /// The last byte stays NUL.
    fn push(&mut self, part: &[u8]) {
        let room = self.bytes.get_mut(self.length..47).unwrap_or_default();
        room.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        self.length += part.len();
    }

    fn decimal(&mut self, byte: u8) {
        if byte >= 100 {
            self.push(&[b'0' + byte / 100]);
        }
        if byte >= 10 {
            self.push(&[b'0' + byte / 10 % 10]);
        }
        self.push(&[b'0' + byte % 10]);
    }

    fn hexadecimal(&mut self, byte: u8) {
        let digit = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + (digit - 10) };
        self.push(&[digit(byte >> 4), digit(byte & 15)]);
    }

    fn pointer(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

// netdb.h
const HOST_NOT_FOUND: c_int = 1;
const TRY_AGAIN: c_int = 2;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// What gethostbyname(3) returns lies here; like libc's own it is overwritten by the next call.
struct Static(UnsafeCell<(hostent_bytes::Entry, [u8; PAYLOAD_BYTES])>);
// SAFETY: gethostbyname(3) is documented as unsafe for threads; programs call it from one.
unsafe impl Sync for Static {}

mod hostent_bytes {
    /// Room for a `struct hostent`, aligned as one.
    #[repr(C, align(8))]
    pub(super) struct Entry(pub(super) [u8; size_of::<libc::hostent>()]);
}

static STATIC: Static =
    Static(UnsafeCell::new((hostent_bytes::Entry([0; size_of::<hostent>()]), [0; PAYLOAD_BYTES])));

fn host_in_static(name: *const c_char, family: c_int) -> Outcome<*mut hostent> {
    in_static(|entry, buffer, size, result, error| host(name, family, entry, buffer, size, result, error))
}

/// The function without a buffer, made of the one with one.
fn in_static(
    reentrant: impl FnOnce(*mut hostent, *mut c_char, size_t, *mut *mut hostent, *mut c_int) -> Outcome<c_int>,
) -> Outcome<*mut hostent> {
    let place = STATIC.0.get();
    // SAFETY: the address of a field of a static.
    let entry = unsafe { (&raw mut (*place).0) }.cast::<hostent>();
    // SAFETY: as above.
    let buffer = unsafe { (&raw mut (*place).1) }.cast::<c_char>();
    let (mut result, mut error) = (ptr::null_mut(), 0);
    match reentrant(entry, buffer, PAYLOAD_BYTES, &raw mut result, &raw mut error) {
        Outcome::Value(_) => {
            // SAFETY: __h_errno_location(3) has no preconditions.
            let own = unsafe { __h_errno_location() };
            // SAFETY: it is the calling thread's own variable.
            unsafe { own.write(error) };
            Outcome::Value(result)
        }
        _ => Outcome::GoOn,
    }
}

/// gethostbyname_r(3): name, no aliases, addresses of one family, all of it in the program's buffer.
fn host(
    name: *const c_char,
    family: c_int,
    entry: *mut hostent,
    buffer: *mut c_char,
    size: size_t,
    result: *mut *mut hostent,
    error: *mut c_int,
) -> Outcome<c_int> {
    let Outcome::Value(found) = look_up(name, family) else { return Outcome::GoOn };
    give(name, family, found, entry, buffer, size, result, error)
}

/// Gives what was found to the program.
#[expect(clippy::too_many_arguments, reason = "as gethostbyname2_r(3) has them, and what was found")]
fn give(
    name: *const c_char,
    family: c_int,
    found: Result<Found, c_int>,
    entry: *mut hostent,
    buffer: *mut c_char,
    size: size_t,
    result: *mut *mut hostent,
    error: *mut c_int,
) -> Outcome<c_int> {
    let (code, value, fault) = match found {
        Err(libc::EAI_AGAIN) => (0, ptr::null_mut(), TRY_AGAIN),
        Err(_) => (0, ptr::null_mut(), HOST_NOT_FOUND),
        Ok(found) => match lay_out(name, family, &found, entry, buffer, size) {
            Some(0) => (0, ptr::null_mut(), HOST_NOT_FOUND),
            Some(_) => (0, entry, 0),
            None => (libc::ERANGE, ptr::null_mut(), -1),
        },
    };
    // SAFETY: the program's own pointers for result and error.
    unsafe { result.write(value) };
    // SAFETY: as above.
    unsafe { error.write(fault) };
    Outcome::Value(code)
}

/// Writes an entry; how many addresses it has, `None`: the buffer is too small.
fn lay_out(
    name: *const c_char,
    family: c_int,
    found: &Found,
    entry: *mut hostent,
    buffer: *mut c_char,
    size: size_t,
) -> Option<usize> {
    const POINTER: usize = size_of::<*mut c_char>();
    let count = found.each().filter(|(of, _)| *of == family).count();
    let width = if family == libc::AF_INET6 { 16 } else { 4 };
    // SAFETY: the name is the program's C string.
    let length = unsafe { sys::length(name) };
    let pad = buffer.align_offset(POINTER);
    let pointers = (count + 2) * POINTER;
    if pad + pointers + count * width + length + 1 > size {
        return None;
    }
    // SAFETY: what is written below lies within `size` bytes, as has just been checked: padding, pointers, addresses, name.
    let list = unsafe { buffer.add(pad) }.cast::<*mut c_char>();
    // SAFETY: as above.
    let mut next = unsafe { buffer.add(pad + pointers) };
    for (index, (_, bytes)) in found.each().filter(|(of, _)| *of == family).enumerate() {
        // SAFETY: as above; each address has `width` bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), next.cast(), width) };
        // SAFETY: as above.
        unsafe { list.wrapping_add(index).write(next) };
        // SAFETY: as above.
        next = unsafe { next.add(width) };
    }
    // SAFETY: the list has two more places: its end, and an empty list of aliases.
    unsafe { list.wrapping_add(count).write(ptr::null_mut()) };
    // SAFETY: as above.
    let aliases = unsafe { list.add(count + 1) };
    // SAFETY: as above.
    unsafe { aliases.write(ptr::null_mut()) };
    // SAFETY: the name with its NUL has room behind the addresses.
    unsafe { ptr::copy_nonoverlapping(name, next, length + 1) };
    let value = hostent {
        h_name: next,
        h_aliases: aliases,
        h_addrtype: family,
        h_length: c_int::try_from(width).unwrap_or(4),
        h_addr_list: list,
    };
    // SAFETY: the program's own struct hostent.
    unsafe { entry.write(value) };
    Some(count)
}
