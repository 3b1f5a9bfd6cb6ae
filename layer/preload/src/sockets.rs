//! Hooks of the socket calls that the syscall attachment traps as well: with a session netns a socket is the only thing that must come
//! from elsewhere. And of two calls beside them that also tell of the machine: uname(2), and system calls by number.

use core::ffi::{c_char, c_int, c_long, c_void};

use crate::{
    calls::{Outcome, result, trapped, word},
    hook::hooks,
};

hooks! {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int, checked = |domain, kind, protocol| {
        call(libc::SYS_socket, [word(domain), word(kind), word(protocol), 0, 0, 0])
    };
    fn listen(descriptor: c_int, backlog: c_int) -> c_int, checked = |descriptor, backlog| {
        call(libc::SYS_listen, [word(descriptor), word(backlog), 0, 0, 0, 0])
    };
    fn connect(descriptor: c_int, address: *const libc::sockaddr, length: libc::socklen_t) -> c_int, checked = connect_detour;
    fn uname(buffer: *mut libc::utsname) -> c_int, checked = |buffer: *mut libc::utsname| {
        call(libc::SYS_uname, [buffer.expose_provenance(), 0, 0, 0, 0, 0])
    };
    fn gethostname(buffer: *mut c_char, size: usize) -> c_int, checked = host_name;
    /// Programs that make their system calls by number: libuv, some of Rust's and Go's.
    fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long = |number, a, b, c, d, e, f| {
        trapped(number, [a, b, c, d, e, f])
    };
}

fn connect_detour(
    descriptor: c_int,
    address: *const libc::sockaddr,
    length: libc::socklen_t,
) -> Outcome<c_int> {
    let address = address.cast::<c_void>().expose_provenance();
    call(libc::SYS_connect, [word(descriptor), address, length as usize, 0, 0, 0])
}

/// gethostname(3), which libc makes of uname(2) inside.
fn host_name(buffer: *mut c_char, size: usize) -> Outcome<c_int> {
    // SAFETY: utsname is a plain structure for which zeroes are valid.
    let mut names = unsafe { core::mem::zeroed::<libc::utsname>() };
    let outcome = call(libc::SYS_uname, [(&raw mut names).expose_provenance(), 0, 0, 0, 0, 0]);
    if outcome != Outcome::Value(0) {
        return outcome;
    }
    let length = names.nodename.iter().position(|byte| *byte == 0).unwrap_or(0);
    if length >= size {
        return Outcome::Errno(libc::ENAMETOOLONG);
    }
    // SAFETY: the program's buffer holds `size` bytes, and the name with its NUL is no longer.
    unsafe { core::ptr::copy_nonoverlapping(names.nodename.as_ptr(), buffer, length + 1) };
    outcome
}

fn call(number: c_long, arguments: [usize; 6]) -> Outcome<c_int> {
    trapped(number, arguments).map(result)
}
