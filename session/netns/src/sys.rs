//! Socket calls that rustix does not wrap. Private to the crate; every function here is safe to call.
#![expect(
    unsafe_code,
    reason = "setsockopt, getsockopt and bind with arguments of families that rustix does not know"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use libc::{c_int, sock_filter, socklen_t};

/// setsockopt(2) with the bytes of an option.
pub(crate) fn set_option(socket: impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let len = socklen_t::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: setsockopt(2) reads `len` bytes at the pointer; both come from one slice that outlives the call.
    let code =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// setsockopt(2) with an int.
pub(crate) fn set_int(socket: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_option(socket, level, name, &value.to_ne_bytes())
}

/// getsockopt(2) into a buffer; returns how many bytes the kernel wrote.
pub(crate) fn option(socket: impl AsFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<usize> {
    let mut len =
        socklen_t::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: getsockopt(2) writes at most `len` bytes at the pointer and the new length at `&mut len`; the slice has that many.
    let code = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    };
    if code == 0 { Ok(crate::bytes::index(len).min(value.len())) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a classic BPF program, or replaces the attached one in one step (socket(7), SO_ATTACH_FILTER).
pub(crate) fn attach_filter(socket: impl AsFd, program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let size = socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    // SAFETY: the kernel reads one sock_fprog and through it `len` instructions, all alive until the call returns, and writes none.
    let code = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds a packet socket to all interfaces and protocols, which starts the capture (packet(7)).
pub(crate) fn bind_packet_socket(socket: impl AsFd) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(0),
        sll_protocol: u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be(),
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: bind(2) reads `size` bytes at the pointer, which is one sockaddr_ll on this stack frame.
    let code = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), size) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
