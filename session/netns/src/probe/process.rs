//! Probes of what one process may do with another: what the syscall attachment needs.
#![expect(unsafe_code, reason = "seccomp(2), its ioctl and process_vm_readv(2) have no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
    ioctl::{Opcode, Setter, ioctl, opcode},
    process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd as take, pidfd_open},
};

use super::{Answer, child};

/// SECCOMP_IOCTL_NOTIF_ADDFD (linux/seccomp.h).
const ADD_DESCRIPTOR: Opcode = opcode::write::<AddDescriptor>(b'!', 3);
/// SECCOMP_ADDFD_FLAG_SEND (Linux 5.14): hand a descriptor out and answer in one step.
const SEND: u32 = 2;

/// struct seccomp_notif_addfd (linux/seccomp.h).
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

pub(super) fn seccomp_listener() -> Answer {
    let text = child::answer(|| match listen() {
        Ok(()) => String::new(),
        Err(reason) => reason,
    })?;
    if text.is_empty() {
        Ok("system calls can be trapped and answered with descriptors".to_owned())
    } else {
        Err(text)
    }
}

/// In a child, because neither step can be undone.
fn listen() -> Result<(), String> {
    rustix::thread::set_no_new_privs(true).map_err(|error| format!("no_new_privs is refused: {error}"))?;
    let allow = libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap_or(0),
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let mut program = [allow];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: seccomp(2) reads one sock_fprog and through it one instruction, both on this stack frame; the filter allows every call,
    // so nothing changes for this child.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = i32::try_from(listener).unwrap_or(-1);
    if listener < 0 {
        return Err(format!("seccomp gives no listener: {}", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    let listener = unsafe { OwnedFd::from_raw_fd(listener) };
    let request = AddDescriptor { id: 0, flags: SEND, source: 0, new: 0, new_flags: 0 };
    // SAFETY: the opcode's argument is one struct seccomp_notif_addfd, which is what `Setter` passes a pointer to; the kernel only
    // reads it.
    let request = unsafe { Setter::<ADD_DESCRIPTOR, _>::new(request) };
    // SAFETY: the listener is a seccomp descriptor, which has this ioctl; no notification has id 0, so nothing happens but an error.
    match unsafe { ioctl(&listener, request) } {
        // The flag is known, and only the notification is missing.
        Err(Errno::NOENT | Errno::INPROGRESS) => Ok(()),
        _ => Err("the kernel is older than 5.14: it cannot hand a descriptor out in one step".to_owned()),
    }
}

pub(super) fn pidfd_getfd() -> Answer {
    // The child has a copy of this one under the same number.
    let known =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| format!("no eventfd can be made: {error}"))?;
    let child = child::waiting()?;
    let pidfd = pidfd_open(child.pid(), PidfdFlags::empty())
        .map_err(|error| format!("a child cannot be opened: {error}"))?;
    take(&pidfd, known.as_raw_fd(), PidfdGetfdFlags::empty())
        .map(|_| "descriptors of children can be taken".to_owned())
        .map_err(|error| format!("a child's descriptor cannot be taken: {error}"))
}

pub(super) fn process_vm_readv() -> Answer {
    static MAGIC: u64 = 0x6d69_7272_6f72_6421;
    let child = child::waiting()?;
    let mut copy = 0_u64;
    let len = size_of_val(&copy);
    let local = libc::iovec { iov_base: (&raw mut copy).cast(), iov_len: len };
    // The child is a copy of this process: the value has the same address there.
    let remote = libc::iovec { iov_base: (&raw const MAGIC).cast_mut().cast(), iov_len: len };
    // SAFETY: process_vm_readv(2) writes at most `len` bytes to `copy`, which lives on this stack frame; the remote address is only
    // read, in the other process, and checked by the kernel.
    let read = unsafe {
        libc::process_vm_readv(
            child.pid().as_raw_nonzero().get(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    if read < 0 {
        return Err(format!("a child's memory cannot be read: {}", io::Error::last_os_error()));
    }
    if copy == MAGIC {
        Ok("memory of children can be read".to_owned())
    } else {
        Err("read other bytes".to_owned())
    }
}
