//! The host's side of the command's path calls: asks the agent, makes the descriptors, and tells what happened.
//!
//! ```text
//! stat, access, readlink, statfs   one request to the agent
//! open of a file                   small: a sealed memfd · large: FUSE, or a copy in an unlinked temporary file
//! open of a directory              a read-only tmpfs of its own with the target's names and types (where nothing can be mounted: a folder)
//! writing                          never: EROFS when the target has the path, else the local side
//! ```
//!
//! What a program sees of one file agrees: stat(2) by path and fstat(2) on the descriptor give the same device, inode, size, mode and
//! mtime for regular files (see [`copies`]). A directory's descriptor has a device and inode of its own.

mod copies;
mod directory;
mod fuse;
mod helper;
mod name_service;
mod report;
mod scratch;
mod spool;

use std::{future::Future, os::fd::OwnedFd, path::PathBuf, pin::Pin, sync::Arc, time::Instant};

use mirrord_protocol::{
    agent::v1::{
        FileClose, FileOpen, FileReadlink, FileReply, FileStat, FileStatFs, OpenedFile, Stat, file_reply,
        file_request::Op,
    },
    layer::v1::{FileAnswer, FileCall, FileReport, file_call::Want},
};

use self::{copies::Copies, fuse::FileServer, helper::Helper, scratch::Scratch};
use crate::{
    agent_link::{AgentLink, LinkError},
    events::Events,
    limits::MEMFD_BYTES,
};

/// A reply of the agent that is on its way.
pub type ReplyFuture<'a> = Pin<Box<dyn Future<Output = Result<FileReply, LinkError>> + Send + 'a>>;

/// Whoever performs file operations in the target.
pub trait RemoteFiles: Send + Sync + 'static {
    /// One operation.
    fn file(&self, op: Op) -> ReplyFuture<'_>;
}

impl RemoteFiles for AgentLink {
    fn file(&self, op: Op) -> ReplyFuture<'_> {
        Box::pin(Self::file(self, op))
    }
}

/// What the host decides about files, once per session.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// Names are resolved in the target: /etc/nsswitch.conf then says `hosts: files dns`.
    pub dns_remote: bool,
    /// The program to start as mount helper; `None`: no directories and no FUSE.
    pub helper: Option<PathBuf>,
    /// A folder for us only, where directories are made when the helper cannot make any.
    pub scratch: Option<PathBuf>,
}

/// The session's files. Clones share them.
#[derive(Clone)]
pub struct Files {
    inner: Arc<Inner>,
}

struct Inner {
    remote: Arc<dyn RemoteFiles>,
    events: Events,
    options: FileOptions,
    copies: Copies,
    helper: Helper,
    scratch: Scratch,
    server: tokio::sync::OnceCell<Option<FileServer>>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

/// How a call ended: the answer for the layer.
enum Done {
    Errno(i32),
    Local,
    Stat(Stat),
    Link(bytes::Bytes),
    StatFs(mirrord_protocol::agent::v1::StatFs),
    Descriptor(OwnedFd, Stat),
}

/// An errno as error, so that `?` works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errno(i32);

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.raw_os_error())
    }
}

impl Files {
    /// The files of one session.
    #[must_use]
    pub fn new(remote: Arc<dyn RemoteFiles>, events: Events, options: FileOptions) -> Self {
        let helper = Helper::new(options.helper.clone());
        let scratch = Scratch::new(options.scratch.clone());
        let (copies, server) = (Copies::default(), tokio::sync::OnceCell::new());
        Self { inner: Arc::new(Inner { remote, events, options, copies, helper, scratch, server }) }
    }

    /// Performs one path call and emits its event.
    pub async fn call(&self, call: FileCall) -> (FileAnswer, Option<OwnedFd>) {
        let began = Instant::now();
        let done = self.perform(&call).await.unwrap_or_else(|errno| Done::Errno(errno.0));
        report::called(&self.inner.events, &call, &done, began.elapsed());
        done.into_answer()
    }

    /// Emits the event of a call that the layer decided by itself.
    pub fn report(&self, call: FileReport) {
        report::decided(&self.inner.events, call);
    }

    async fn perform(&self, call: &FileCall) -> Result<Done, Errno> {
        if self.inner.options.dns_remote && call.path.as_ref() == name_service::PATH.as_bytes() {
            return self.name_service(call);
        }
        let path = call.path.clone();
        match call.want() {
            Want::Stat => {
                let reply = self.ask(Op::Stat(FileStat { path, follow: call.follow })).await?;
                Ok(Done::Stat(self.identified(reply.stat.unwrap_or_default()).await))
            }
            Want::Link => match self.ask(Op::Readlink(FileReadlink { path })).await?.result {
                Some(file_reply::Result::Link(link)) => Ok(Done::Link(link)),
                _ => Err(Errno(libc::EIO)),
            },
            Want::Statfs => match self.ask(Op::StatFs(FileStatFs { path })).await?.result {
                Some(file_reply::Result::StatFs(stat_fs)) => Ok(Done::StatFs(stat_fs)),
                _ => Err(Errno(libc::EIO)),
            },
            Want::Existence => match self.ask(Op::Stat(FileStat { path, follow: call.follow })).await {
                Ok(_) => Err(Errno(libc::EROFS)),
                Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(Done::Local),
                Err(errno) => Err(errno),
            },
            Want::Descriptor => self.open(call).await,
            Want::Unspecified => Err(Errno(libc::ENOSYS)),
        }
    }

    async fn open(&self, call: &FileCall) -> Result<Done, Errno> {
        let has = |flag: i32| call.flags & flag.unsigned_abs() != 0;
        let request = FileOpen {
            path: call.path.clone(),
            inline_limit: u32::try_from(MEMFD_BYTES).unwrap_or(u32::MAX),
            no_follow: has(libc::O_NOFOLLOW),
            directory: has(libc::O_DIRECTORY),
        };
        let reply = self.ask(Op::Open(request)).await?;
        let stat = reply.stat.unwrap_or_default();
        let Some(file_reply::Result::Opened(opened)) = reply.result else { return Err(Errno(libc::EIO)) };
        if stat.mode & libc::S_IFMT == libc::S_IFDIR {
            let listed = directory::make(&self.inner, opened.handle, &stat).await;
            self.close(opened.handle).await;
            return Ok(Done::Descriptor(listed?, stat));
        }
        let OpenedFile { handle, inline, content } = opened;
        if inline {
            let (descriptor, stat) = self.inner.copies.descriptor(&call.path, &stat, &content)?;
            return Ok(Done::Descriptor(descriptor, stat));
        }
        self.open_large(call, handle, stat).await
    }

    async fn open_large(&self, call: &FileCall, handle: u64, stat: Stat) -> Result<Done, Errno> {
        if let Some(server) = self.server().await {
            let stat = server.identified(stat);
            return Ok(Done::Descriptor(server.open(call.path.clone(), handle, stat).await?, stat));
        }
        let copied = spool::copy(&self.inner, &call.path, handle, &stat).await;
        self.close(handle).await;
        let (descriptor, stat) = copied?;
        Ok(Done::Descriptor(descriptor, stat))
    }

    /// The stat of a regular file with the identity that a descriptor on it will have.
    async fn identified(&self, stat: Stat) -> Stat {
        if stat.mode & libc::S_IFMT != libc::S_IFREG {
            return stat;
        }
        if stat.size > MEMFD_BYTES
            && let Some(server) = self.server().await
        {
            return server.identified(stat);
        }
        // Without a copy the target's own numbers are as good as any.
        self.inner.copies.identified(&stat).unwrap_or(stat)
    }

    /// The file server, started when it is first needed; `None` where FUSE is not available.
    async fn server(&self) -> Option<&FileServer> {
        let start = || FileServer::start(Arc::clone(&self.inner.remote), &self.inner.helper);
        self.inner.server.get_or_init(start).await.as_ref()
    }

    fn name_service(&self, call: &FileCall) -> Result<Done, Errno> {
        let (content, stat) = name_service::configuration();
        match call.want() {
            Want::Descriptor => {
                let (descriptor, stat) = self.inner.copies.descriptor(&call.path, &stat, &content)?;
                Ok(Done::Descriptor(descriptor, stat))
            }
            Want::Stat => Ok(Done::Stat(self.inner.copies.identified(&stat)?)),
            _ => Ok(Done::Local),
        }
    }

    async fn ask(&self, op: Op) -> Result<FileReply, Errno> {
        self.inner.ask(op).await
    }

    async fn close(&self, handle: u64) {
        // A handle that the agent no longer has is as good as closed.
        self.inner.ask(Op::Close(FileClose { handle })).await.ok();
    }
}

impl Inner {
    async fn ask(&self, op: Op) -> Result<FileReply, Errno> {
        ask(self.remote.as_ref(), op).await
    }
}

/// One request; the target's errno and a failing link both become the error.
async fn ask(remote: &dyn RemoteFiles, op: Op) -> Result<FileReply, Errno> {
    match remote.file(op).await {
        Ok(reply) if reply.errno == 0 => Ok(reply),
        Ok(reply) => Err(Errno(i32::try_from(reply.errno).unwrap_or(libc::EIO))),
        Err(LinkError::Timeout { .. }) => Err(Errno(libc::ETIMEDOUT)),
        Err(_) => Err(Errno(libc::EIO)),
    }
}

impl Done {
    fn into_answer(self) -> (FileAnswer, Option<OwnedFd>) {
        let empty = FileAnswer::default();
        match self {
            Self::Errno(errno) => (FileAnswer { errno: errno.unsigned_abs(), ..empty }, None),
            Self::Local => (FileAnswer { local: true, ..empty }, None),
            Self::Stat(stat) => (FileAnswer { stat: Some(stat), ..empty }, None),
            Self::Link(link) => (FileAnswer { link, ..empty }, None),
            Self::StatFs(stat_fs) => (FileAnswer { stat_fs: Some(stat_fs), ..empty }, None),
            Self::Descriptor(descriptor, stat) => {
                (FileAnswer { stat: Some(stat), descriptor: true, ..empty }, Some(descriptor))
            }
        }
    }
}
