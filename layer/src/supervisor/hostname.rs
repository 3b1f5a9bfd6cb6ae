//! uname(2): this machine as it is, under the name of the target. gethostname(3) of the C libraries and os.Hostname of Go are made of
//! it. What reads /proc/sys/kernel/hostname sees this machine's name.

use std::ffi::CStr;

use rustix::{
    fs::{AtFlags, CWD},
    system::Uname,
};

use super::{Outcome, Supervisor};
use crate::{
    sys::memory,
    trapped::{Ticket, Trapped},
};

/// Bytes of one field of struct utsname (linux/utsname.h), its NUL included.
const FIELD: usize = 65;
const FIELDS: usize = 6;

impl Supervisor {
    pub(super) fn uname_call(&self, trapped: &Trapped) -> Outcome {
        // Whoever made a UTS namespace of its own has given itself a name.
        if self.policy.hostname.is_empty() || !shares_our_names(trapped.tid) {
            return Outcome::GoOn;
        }
        if !self.is_valid(trapped.ticket) {
            return Outcome::Later;
        }
        let [buffer, ..] = trapped.arguments;
        let answer = utsname(&rustix::system::uname(), &self.policy.hostname);
        if matches!(trapped.ticket, Ticket::Question(_)) {
            return Outcome::Bytes { value: 0, bytes: answer };
        }
        match memory::write(trapped.tid, buffer, &answer) {
            Ok(()) => Outcome::Value(0),
            // A process that may not be written to gets this machine's name; the kernel has the right error for the rest.
            Err(_) => Outcome::GoOn,
        }
    }
}

fn shares_our_names(tid: u32) -> bool {
    let inode = |path: String| rustix::fs::statat(CWD, path, AtFlags::empty()).map(|stat| stat.st_ino);
    let theirs = inode(format!("/proc/{tid}/ns/uts"));
    theirs.is_ok() && theirs == inode("/proc/self/ns/uts".to_owned())
}

/// struct utsname with another node name, cut to what fits.
fn utsname(machine: &Uname, name: &[u8]) -> Vec<u8> {
    let fields = [
        machine.sysname(),
        c"",
        machine.release(),
        machine.version(),
        machine.machine(),
        machine.domainname(),
    ];
    let mut bytes = Vec::with_capacity(FIELD * FIELDS);
    for (index, field) in fields.map(CStr::to_bytes).into_iter().enumerate() {
        let field = if index == 1 { name } else { field };
        let end = (index + 1) * FIELD;
        bytes.extend(field.iter().take(FIELD - 1));
        bytes.resize(end, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_differs() {
        let machine = rustix::system::uname();
        let bytes = utsname(&machine, b"web-shop-7");
        assert_eq!(bytes.len(), size_of::<libc::utsname>());
        let field = |at: usize| CStr::from_bytes_until_nul(&bytes[at..]).unwrap();
        assert_eq!(field(std::mem::offset_of!(libc::utsname, nodename)), c"web-shop-7");
        assert_eq!(field(std::mem::offset_of!(libc::utsname, sysname)), machine.sysname());
        assert_eq!(field(std::mem::offset_of!(libc::utsname, release)), machine.release());
        assert_eq!(field(std::mem::offset_of!(libc::utsname, version)), machine.version());
        assert_eq!(field(std::mem::offset_of!(libc::utsname, machine)), machine.machine());
        assert_eq!(field(std::mem::offset_of!(libc::utsname, domainname)), machine.domainname());
        let long = utsname(&machine, &[b'x'; 100]);
        assert_eq!((long.len(), long[FIELD + 63], long[FIELD + 64]), (FIELD * FIELDS, b'x', 0));
    }

    #[test]
    fn we_share_our_own_names() {
        assert!(shares_our_names(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()));
        assert!(!shares_our_names(0x3fff_ffff));
    }
}
