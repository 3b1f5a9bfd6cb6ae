//! The mount helper: a small process in a user and mount namespace of its own that makes file systems for the session host.
//!
//! They are never attached anywhere: a file system lives as long as somebody holds a descriptor on it, and no other process of the
//! machine sees it. A tmpfs becomes a directory whose names are the target's; FUSE serves files that are too large to copy.
//!
//! ```text
//! request  'd' -> reply 'm' + mount            a writable tmpfs
//!          's' + mount -> reply 'm'            make it read-only
//!          'f' -> reply 'm' + mount + device   FUSE, with the device that serves it
//! failure  'e' + errno (4 bytes, native order)
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
    net::{
        self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags,
    },
};

use crate::sys::mounts;

const DIRECTORY: u8 = b'd';
const SEAL: u8 = b's';
const FUSE: u8 = b'f';
const MADE: u8 = b'm';
const FAILED: u8 = b'e';

/// What the helper is asked for.
#[derive(Debug)]
pub enum Request<'a> {
    /// An empty file system in memory.
    Directory,
    /// Make it read-only.
    Seal(BorrowedFd<'a>),
    /// A FUSE file system.
    Fuse,
}

/// Asks the helper and waits for the answer, which takes some ten microseconds. Returns what was made: nothing for a seal, the
/// mount, or mount and FUSE device.
///
/// # Errors
/// What the kernel said in the helper; `UnexpectedEof` when the helper is gone.
pub fn ask(helper: BorrowedFd<'_>, request: &Request<'_>) -> io::Result<Vec<OwnedFd>> {
    let (kind, mount) = match request {
        Request::Directory => (DIRECTORY, None),
        Request::Seal(mount) => (SEAL, Some(*mount)),
        Request::Fuse => (FUSE, None),
    };
    send(helper, &[kind], mount.as_slice())?;
    let (bytes, made) = receive(helper)?;
    match bytes.as_slice() {
        [MADE] => Ok(made),
        [FAILED, e0, e1, e2, e3] => {
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes([*e0, *e1, *e2, *e3])))
        }
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// Descriptor of the link, by convention of whoever starts the helper.
pub const LINK_DESCRIPTOR: i32 = 3;

/// [`run`] with the descriptor that this process was started with.
///
/// # Errors
/// `NotFound` when there is none; as [`run`].
pub fn run_inherited() -> io::Result<()> {
    let link = crate::sys::process::inherited(LINK_DESCRIPTOR.unsigned_abs());
    run(&link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
}

/// Runs the helper until the other end of the link is closed. The calling process must have one thread.
///
/// # Errors
/// When the link fails. That namespaces are refused here is told to whoever asks for a mount.
pub fn run(link: &OwnedFd) -> io::Result<()> {
    let entered = mounts::enter_own_namespaces().map_err(|error| error.raw_os_error().unwrap_or(libc::EPERM));
    loop {
        let (bytes, descriptors) = match receive(link.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        };
        let made = match entered {
            Ok(()) => make(&bytes, &descriptors).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)),
            Err(errno) => Err(errno),
        };
        match made {
            Ok(made) => {
                let borrowed: Vec<_> = made.iter().map(AsFd::as_fd).collect();
                send(link.as_fd(), &[MADE], &borrowed)?;
            }
            Err(errno) => {
                let [e0, e1, e2, e3] = errno.to_ne_bytes();
                send(link.as_fd(), &[FAILED, e0, e1, e2, e3], &[])?;
            }
        }
    }
}

fn make(request: &[u8], descriptors: &[OwnedFd]) -> io::Result<Vec<OwnedFd>> {
    match (request, descriptors) {
        ([DIRECTORY], _) => Ok(vec![tmpfs()?]),
        ([SEAL], [mount]) => mounts::make_read_only(mount.as_fd()).map(|()| Vec::new()),
        ([FUSE], _) => fuse(),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn tmpfs() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // The host bounds the number of entries; there is no content.
    rustix::mount::fsconfig_set_string(context.as_fd(), "nr_inodes", "0")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0700")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    mount(&context)
}

fn fuse() -> io::Result<Vec<OwnedFd>> {
    let device = rustix::fs::openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let options = [
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", rustix::process::getuid().as_raw().to_string()),
        ("group_id", rustix::process::getgid().as_raw().to_string()),
    ];
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(vec![mount(&context)?, device])
}

fn mount(context: &OwnedFd) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn send(link: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    rustix::io::retry_on_intr(|| {
        net::sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

fn receive(link: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        net::recvmsg(link, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}
