//! Reads and writes the memory of a supervised process (process_vm_readv(2), process_vm_writev(2)).
#![expect(unsafe_code, reason = "no safe wrapper exists for process_vm_readv and process_vm_writev")]

use std::io;

use crate::limits::PATH_BYTES;

/// Smallest page size of the architectures that we build for. Copying never crosses such a border at once, so that a string which
/// ends just before an unmapped page is read whole.
const PAGE: u64 = 4096;
/// Most paths end within this; reading more at first costs a copy and saves nothing.
const FIRST_READ: u64 = 256;

/// Copies memory at `address` of thread `tid` into `buffer`; returns how many bytes there were.
///
/// # Errors
/// EFAULT when nothing is mapped there, EPERM when the process may not be read, ESRCH when it is gone.
pub(crate) fn read(tid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: pointer(address)?, iov_len: buffer.len() };
    // SAFETY: process_vm_readv(2) writes at most `iov_len` bytes to `local`, which is the caller's exclusively borrowed buffer of
    // exactly that length; `remote` is an address of the other process and is checked by the kernel.
    let count =
        unsafe { libc::process_vm_readv(tid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Copies `bytes` to `address` of thread `tid`.
///
/// # Errors
/// EFAULT when not all of it can be written, EPERM when the process may not be written, ESRCH when it is gone.
pub(crate) fn write(tid: u32, address: u64, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: pointer(address)?, iov_len: bytes.len() };
    // SAFETY: process_vm_writev(2) only reads `iov_len` bytes from `local`, which is the caller's borrowed slice of that length;
    // `remote` is an address of the other process and is checked by the kernel.
    let count =
        unsafe { libc::process_vm_writev(tid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// The NUL-terminated string at `address`, without its NUL.
///
/// # Errors
/// As [`read`]; ENAMETOOLONG when no NUL comes within `limit` bytes.
pub(crate) fn read_string(tid: u32, address: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut string = Vec::new();
    let mut buffer = [0_u8; PATH_BYTES];
    let mut at = address;
    while string.len() < limit {
        let wanted = if string.is_empty() { FIRST_READ } else { PAGE };
        let wanted = usize::try_from(wanted.min(PAGE - at % PAGE)).unwrap_or(1);
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let count = read(tid, at, part)?;
        let part = part.get(..count).unwrap_or_default();
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            string.extend_from_slice(part.get(..end).unwrap_or_default());
            return if string.len() < limit { Ok(string) } else { Err(too_long()) };
        }
        if part.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        string.extend_from_slice(part);
        at += u64::try_from(count).unwrap_or(PAGE);
    }
    Err(too_long())
}

/// The eight bytes at `address` as a number in native order.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_word(tid: u32, address: u64) -> io::Result<u64> {
    let mut word = [0_u8; 8];
    match read(tid, address, &mut word)? {
        8 => Ok(u64::from_ne_bytes(word)),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

fn too_long() -> io::Error {
    io::Error::from_raw_os_error(libc::ENAMETOOLONG)
}

fn pointer(address: u64) -> io::Result<*mut libc::c_void> {
    let address = usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
    Ok(std::ptr::without_provenance_mut(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_up_to_the_edge_of_the_mapping() {
        let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let text = c"hello";
        let address = text.as_ptr().addr() as u64;
        assert_eq!(read_string(me, address, PATH_BYTES).unwrap(), b"hello");
        assert_eq!(read_string(me, address, 3).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        assert_eq!(read_string(me, 8, PATH_BYTES).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        let long = std::ffi::CString::new(vec![b'x'; 3 * 4096]).unwrap();
        let all = read_string(me, long.as_ptr().addr() as u64, 4 * 4096).unwrap();
        assert_eq!(all, long.as_bytes());
    }

    #[test]
    fn what_is_written_is_there() {
        let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let cell = std::cell::UnsafeCell::new(0_u64);
        let address = cell.get().addr() as u64;
        write(me, address, &7_u64.to_ne_bytes()).unwrap();
        assert_eq!(read_word(me, address).unwrap(), 7);
        assert_eq!(write(me, 8, b"x").unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }
}
