//! The file server: large files of the target as files of a private FUSE file system, read in pieces as the program reads.
//!
//! Read-only and as small as the kernel allows: a root directory whose files are named by number, one per open(2) of a program. The
//! mount is attached nowhere; programs only ever get descriptors on its files.

mod node;
mod wire;

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mirrord_protocol::agent::v1::Stat;
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinSet,
    time::timeout,
};

use self::{
    node::Node,
    wire::{Reply, Request},
};
use super::{Errno, RemoteFiles, helper::Helper};
use crate::{
    async_fd,
    limits::{SERVED_OPEN_TIMEOUT, SERVED_REQUESTS},
};

/// Serves until it is dropped; descriptors that are still open then fail with ENOTCONN.
pub(super) struct FileServer {
    mount: Arc<OwnedFd>,
    /// Device number of the file system, which fstat(2) shows.
    device: u64,
    nodes: Arc<Nodes>,
    /// Aborted when the server is dropped.
    _task: JoinSet<()>,
}

struct Nodes {
    remote: Arc<dyn RemoteFiles>,
    open: Mutex<HashMap<u64, Arc<Node>>>,
    next: AtomicU64,
}

/// Number of the root directory, by definition (FUSE_ROOT_ID).
const ROOT: u64 = 1;

impl FileServer {
    /// `None` where FUSE is not available: no /dev/fuse, no permission, no user namespaces.
    pub(super) async fn start(remote: Arc<dyn RemoteFiles>, helper: &Helper) -> Option<Self> {
        match Self::try_start(remote, helper).await {
            Ok(server) => Some(server),
            Err(Errno(errno)) => {
                tracing::debug!(errno, "no FUSE here, large files are copied");
                None
            }
        }
    }

    async fn try_start(remote: Arc<dyn RemoteFiles>, helper: &Helper) -> Result<Self, Errno> {
        let (mount, device) = helper.fuse().await?;
        rustix::io::ioctl_fionbio(&device, true)?;
        let device = async_fd::watch(device)?;
        let nodes = Arc::new(Nodes { remote, open: Mutex::default(), next: AtomicU64::new(ROOT + 1) });
        let mut task = JoinSet::new();
        task.spawn(serve(device, Arc::clone(&nodes)));
        let mount = Arc::new(mount);
        let root = Arc::clone(&mount);
        // The kernel asks the server, so this must not hold up the task that serves.
        let stat = tokio::task::spawn_blocking(move || rustix::fs::fstat(root.as_fd())).await;
        let device = stat.map_err(|_| Errno(libc::EIO))??.st_dev;
        Ok(Self { mount, device, nodes, _task: task })
    }

    /// The stat of a file as fstat(2) on a served descriptor gives it.
    pub(super) const fn identified(&self, stat: Stat) -> Stat {
        Stat { dev: self.device, ..stat }
    }

    /// A descriptor that reads the open file `handle` of the target. The handle is closed with the last descriptor.
    pub(super) async fn open(&self, path: Bytes, handle: u64, stat: Stat) -> Result<OwnedFd, Errno> {
        let number = self.nodes.next.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(Node::new(path, handle, stat));
        self.nodes.lock().insert(number, node);
        let mount = Arc::clone(&self.mount);
        let open = tokio::task::spawn_blocking(move || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let descriptor = rustix::fs::openat(mount.as_fd(), number.to_string(), flags, Mode::empty())?;
            // The first close(2) on a file system waits for the server's answer to FLUSH, which is that no other needs to ask. It has
            // to be this one: the host, which serves, closes the descriptor once it is handed over.
            drop(rustix::io::fcntl_dupfd_cloexec(&descriptor, 0)?);
            Ok::<_, rustix::io::Errno>(descriptor)
        });
        match timeout(SERVED_OPEN_TIMEOUT, open).await {
            Ok(Ok(Ok(descriptor))) => Ok(descriptor),
            Ok(Ok(Err(error))) => {
                self.nodes.remove(number).await;
                Err(error.into())
            }
            _ => {
                self.nodes.remove(number).await;
                Err(Errno(libc::EIO))
            }
        }
    }
}

impl Nodes {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Node>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, number: u64) -> Result<Arc<Node>, Errno> {
        self.lock().get(&number).cloned().ok_or(Errno(libc::ENOENT))
    }

    async fn remove(&self, number: u64) {
        let node = self.lock().remove(&number);
        if let Some(node) = node {
            node.close(self.remote.as_ref()).await;
        }
    }
}

/// Reads requests from the device and answers them side by side.
async fn serve(device: AsyncFd<OwnedFd>, nodes: Arc<Nodes>) {
    let device = Arc::new(device);
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; wire::REQUEST_BYTES];
    loop {
        while answers.try_join_next().is_some() {}
        if answers.len() >= SERVED_REQUESTS {
            answers.join_next().await;
        }
        let read = device
            .async_io(Interest::READABLE, |device| Ok(rustix::io::read(device, buffer.as_mut_slice())?))
            .await;
        let count = match read {
            Ok(count) => count,
            // A request that was interrupted before we read it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => continue,
            // ENODEV: nobody holds the mount or a file on it any more.
            Err(_) => return,
        };
        let Some(request) = buffer.get(..count).and_then(Request::parse) else { continue };
        let (device, nodes) = (Arc::clone(&device), Arc::clone(&nodes));
        answers.spawn(async move {
            if let Some(reply) = answer(&nodes, &request).await {
                // The caller may have been killed in the meantime.
                reply.write_to(device.get_ref(), request.unique).ok();
            }
        });
    }
}

/// The reply; `None` for requests that get none.
async fn answer(nodes: &Nodes, request: &Request) -> Option<Reply> {
    use wire::Operation;
    let reply = match request.operation {
        Operation::Init { readahead } => Ok(Reply::init(readahead)),
        Operation::Forget => return None,
        Operation::Lookup { number } if request.node == ROOT => {
            nodes.find(number).map(|node| Reply::entry(number, node.stat()))
        }
        Operation::Attributes if request.node == ROOT => Ok(Reply::attributes(ROOT, &root_stat())),
        Operation::Attributes => {
            nodes.find(request.node).map(|node| Reply::attributes(node.stat().ino, node.stat()))
        }
        Operation::Open => nodes.find(request.node).map(|node| {
            node.opened();
            Reply::opened()
        }),
        Operation::Read { offset, size } => match nodes.find(request.node) {
            Ok(node) => node.read(nodes.remote.as_ref(), offset, size).await.map(Reply::data),
            Err(errno) => Err(errno),
        },
        Operation::Release => {
            if nodes.find(request.node).is_ok_and(|node| node.released()) {
                nodes.remove(request.node).await;
            }
            Ok(Reply::empty())
        }
        Operation::Access => Ok(Reply::empty()),
        Operation::StatFs => Ok(Reply::stat_fs()),
        // The kernel remembers what is not known here, and does not ask for it again.
        Operation::Lookup { .. } | Operation::Flush | Operation::Other => Err(Errno(libc::ENOSYS)),
    };
    Some(reply.unwrap_or_else(|errno| Reply::error(errno.0)))
}

fn root_stat() -> Stat {
    Stat { mode: libc::S_IFDIR | 0o700, nlink: 2, ..Stat::default() }
}
