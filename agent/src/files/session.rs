//! One Files call: a stream of requests in, a stream of replies out, and the handles that the client has open.
//!
//! It is a stream that polls its own input: a request that can be answered from the kernel's caches is answered within the same
//! poll, without a task or a thread between. The rest runs on blocking threads, so replies come in any order.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use mirrord_protocol::agent::v1::{FileReply, FileRequest, file_reply::Result as Outcome, file_request::Op};
use rustix::io::Errno;
use tokio::task::{Id, JoinSet};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{Answer, Handle, mounts::Mounts, quick, read_at};
use crate::{
    limits::{FILE_HANDLES, FILE_OPERATIONS},
    target::Target,
};

/// State of one Files call.
pub(crate) struct FileSession {
    requests: Streaming<FileRequest>,
    ended: bool,
    target: Arc<Target>,
    mounts: Mounts,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
    slow: JoinSet<io::Result<Answer>>,
    /// Request ids of the operations in `slow`.
    slow_ids: HashMap<Id, u64>,
}

impl FileSession {
    /// A session without handles.
    pub(crate) fn new(target: Arc<Target>, requests: Streaming<FileRequest>) -> Self {
        Self {
            requests,
            ended: false,
            mounts: Mounts::of(&target),
            target,
            handles: HashMap::new(),
            next_handle: 1,
            slow: JoinSet::new(),
            slow_ids: HashMap::new(),
        }
    }

    /// The reply, when it could be given at once; otherwise it comes out of `slow`.
    fn start(&mut self, request: FileRequest) -> Option<FileReply> {
        let FileRequest { id, op: Some(op) } = request else {
            return Some(failed(request.id, Errno::INVAL));
        };
        match self.quick(&op) {
            Some(answer) => Some(self.finish(id, answer)),
            None => {
                let target = Arc::clone(&self.target);
                let handle = self.handle_of(&op);
                let task = self.slow.spawn_blocking(move || blocking(&target, op, handle));
                self.slow_ids.insert(task.id(), id);
                None
            }
        }
    }

    fn quick(&mut self, op: &Op) -> Option<io::Result<Answer>> {
        let root = match self.target.root() {
            Ok(root) => root,
            Err(error) => return Some(Err(copy(error))),
        };
        match op {
            Op::Stat(request) => quick::quick_stat(root, &mut self.mounts, request),
            Op::Readlink(request) => quick::quick_readlink(root, &mut self.mounts, request),
            Op::Open(_) if self.handles.len() >= FILE_HANDLES => Some(Err(Errno::MFILE.into())),
            Op::Open(request) => quick::quick_open(root, &mut self.mounts, request),
            Op::Close(request) => Some(match self.handles.remove(&request.handle) {
                Some(_) => Ok(Answer::default()),
                None => Err(Errno::BADF.into()),
            }),
            Op::Read(request) => match self.handles.get(&request.handle) {
                Some(Handle::File(file)) => quick::quick_read(file, request),
                Some(Handle::Directory(_)) => Some(Err(Errno::ISDIR.into())),
                None => Some(Err(Errno::BADF.into())),
            },
            Op::ReadDir(request) if request.handle != 0 => match self.handles.get(&request.handle) {
                Some(Handle::Directory(_)) => None,
                Some(Handle::File(_)) => Some(Err(Errno::NOTDIR.into())),
                None => Some(Err(Errno::BADF.into())),
            },
            Op::ReadDir(_) | Op::StatFs(_) => None,
        }
    }

    fn handle_of(&self, op: &Op) -> Option<Handle> {
        match op {
            Op::Read(request) => self.handles.get(&request.handle).cloned(),
            Op::ReadDir(request) => self.handles.get(&request.handle).cloned(),
            _ => None,
        }
    }

    fn finish(&mut self, id: u64, answer: io::Result<Answer>) -> FileReply {
        match answer {
            Ok(Answer { stat, mut outcome, handle }) => {
                if let (Some(handle), Some(Outcome::Opened(opened))) = (handle, &mut outcome) {
                    opened.handle = self.next_handle;
                    self.handles.insert(self.next_handle, handle);
                    self.next_handle += 1;
                }
                FileReply { id, errno: 0, stat, result: outcome }
            }
            Err(error) => failed(id, Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Option<FileReply> {
        let Poll::Ready(Some(done)) = self.slow.poll_join_next_with_id(cx) else { return None };
        let (task, answer) = match done {
            Ok((task, answer)) => (task, answer),
            // The operation panicked; the panic hook has logged where.
            Err(error) => (error.id(), Err(Errno::IO.into())),
        };
        let id = self.slow_ids.remove(&task)?;
        Some(self.finish(id, answer))
    }
}

impl Stream for FileSession {
    type Item = Result<FileReply, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(reply) = this.poll_slow(cx) {
                return Poll::Ready(Some(Ok(reply)));
            }
            if this.ended {
                return if this.slow.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            }
            if this.slow.len() >= FILE_OPERATIONS {
                return Poll::Pending;
            }
            match Pin::new(&mut this.requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    if let Some(reply) = this.start(request) {
                        return Poll::Ready(Some(Ok(reply)));
                    }
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn blocking(target: &Target, op: Op, handle: Option<Handle>) -> io::Result<Answer> {
    let root = target.root().map_err(copy)?;
    match (op, handle) {
        (Op::Stat(request), _) => root.stat(&request),
        (Op::Readlink(request), _) => root.readlink(&request),
        (Op::StatFs(request), _) => root.stat_fs(&request),
        (Op::Open(request), _) => root.open(&request),
        (Op::Read(request), Some(Handle::File(file))) => read_at(&file, &request),
        (Op::ReadDir(request), Some(Handle::Directory(directory))) => {
            directory.lock().unwrap_or_else(PoisonError::into_inner).list(request.offset, request.limit)
        }
        (Op::ReadDir(request), None) => root.read_dir(&request),
        // Answered on the spot, all of them.
        (Op::Close(_) | Op::Read(_) | Op::ReadDir(_), _) => Err(Errno::BADF.into()),
    }
}

fn failed(id: u64, errno: Errno) -> FileReply {
    FileReply { id, errno: errno.raw_os_error().unsigned_abs(), stat: None, result: None }
}

fn copy(error: &io::Error) -> io::Error {
    Errno::from_io_error(error).unwrap_or(Errno::IO).into()
}
