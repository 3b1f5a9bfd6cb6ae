//! The mount helper as the host sees it: started when it is first needed, asked from blocking threads.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_layer::mounts::{self, LINK_DESCRIPTOR, Request};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::Errno;

/// Handle on the helper. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    program: Option<PathBuf>,
    running: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
struct Running {
    link: OwnedFd,
    process: Child,
}

impl Helper {
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        Self { program, running: Arc::default() }
    }

    /// An empty file system in memory, to be filled.
    pub(super) async fn directory(&self) -> Result<OwnedFd, Errno> {
        let made = self.ask(|link| mounts::ask(link, &Request::Directory)).await?;
        made.into_iter().next().ok_or(Errno(libc::EIO))
    }

    /// Makes it read-only.
    pub(super) async fn seal(&self, mount: OwnedFd) -> Result<(), Errno> {
        self.ask(move |link| mounts::ask(link, &Request::Seal(mount.as_fd()))).await.map(drop)
    }

    /// A FUSE file system: its mount and the device that serves it.
    pub(super) async fn fuse(&self) -> Result<(OwnedFd, OwnedFd), Errno> {
        let made = self.ask(|link| mounts::ask(link, &Request::Fuse)).await?;
        let [mount, device] = <[OwnedFd; 2]>::try_from(made).map_err(|_| Errno(libc::EIO))?;
        Ok((mount, device))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(BorrowedFd<'_>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Errno> {
        let helper = self.clone();
        let asked = tokio::task::spawn_blocking(move || helper.ask_blocking(question)).await;
        Ok(asked.map_err(|_| Errno(libc::EIO))??)
    }

    /// One question at a time; the helper answers in some ten microseconds.
    fn ask_blocking<T>(&self, question: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let helper = match running.take() {
            Some(helper) => helper,
            None => self.start()?,
        };
        let answer = question(helper.link.as_fd());
        // A helper that is gone is started anew by the next question.
        if !answer.as_ref().is_err_and(is_gone) {
            *running = Some(helper);
        }
        answer
    }

    fn start(&self) -> io::Result<Running> {
        let program = self.program.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(program);
        command.arg("__mounts").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        let link = FdMapping { parent_fd: theirs, child_fd: LINK_DESCRIPTOR };
        command.fd_mappings(vec![link]).map_err(io::Error::other)?;
        Ok(Running { link: ours, process: command.spawn()? })
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl Drop for Running {
    /// The helper holds nothing but its link, so it may be killed at any time; it is reaped here, which does not wait for long.
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
