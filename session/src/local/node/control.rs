//! The node's control socket: one task per client, which answers its requests in order.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, socket_with},
};
use tokio::{
    net::UnixListener,
    time::{sleep, timeout},
};

use super::{Busy, Node, tenant::bring_up};
use crate::{
    agent_process,
    limits::{NODE_ACCEPT_RETRY, NODE_BACKLOG, POD_SPEC_BYTES, STEP_TIMEOUT},
    local::{
        SOCKET_FILE,
        spec::StartSpec,
        wire::{AsyncWire, Failure, Reply, Request, Wire},
    },
};

/// Makes the control socket in the node's folder.
pub(super) fn listen(dir: &Path) -> io::Result<UnixListener> {
    let socket = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    with_address(dir, |address| bind(&socket, address))?;
    fs::set_permissions(dir.join(SOCKET_FILE), fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, i32::try_from(NODE_BACKLOG).unwrap_or(i32::MAX))?;
    // The type is made for streams, but only waits and accepts.
    UnixListener::from_std(socket.into())
}

/// Connects to the control socket in a node's folder.
pub(in crate::local) fn dial(dir: &Path) -> io::Result<Wire> {
    let socket = seqpacket(SocketFlags::CLOEXEC)?;
    with_address(dir, |address| connect(&socket, address))?;
    Ok(Wire::new(socket))
}

fn seqpacket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The address of the control socket, through a descriptor of its folder: the path of a unix socket may have 107 bytes only.
fn with_address(dir: &Path, work: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>) -> io::Result<()> {
    let folder = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET_FILE);
    Ok(work(&SocketAddrUnix::new(path)?)?)
}

/// Waits for a client.
///
/// # Cancel safety
/// A client is taken or waits on.
pub(super) async fn accept(socket: &UnixListener) -> Option<OwnedFd> {
    match socket.accept().await {
        Ok((client, _)) => client.into_std().ok().map(OwnedFd::from),
        Err(_) => {
            sleep(NODE_ACCEPT_RETRY).await;
            None
        }
    }
}

/// A client that waits already, if there is one.
pub(super) fn accept_waiting(socket: &UnixListener) -> Option<OwnedFd> {
    accept_with(socket, SocketFlags::CLOEXEC).ok()
}

/// Serves one client until it closes.
pub(super) async fn serve(node: Node, client: OwnedFd, busy: Busy) {
    let Ok(wire) = AsyncWire::new(Wire::new(client)) else { return };
    // Who connects says what he wants at once; a client that does not must not keep the node alive.
    let first = timeout(STEP_TIMEOUT, wire.recv::<Request>()).await;
    let Ok(Ok((request, fds))) = first else { return };
    node.handle(&wire, request, fds).await;
    drop(busy);
    while let Ok((request, fds)) = wire.recv::<Request>().await {
        node.handle(&wire, request, fds).await;
    }
}

impl Node {
    async fn handle(&self, wire: &AsyncWire, request: Request, fds: Vec<OwnedFd>) {
        let mut passed = None;
        let reply = match request {
            Request::Start => self.start(fds).await.unwrap_or_else(Reply::Failed),
            Request::List => Reply::Pods(self.registry.list()),
            Request::Stop { name } => self.stop(&name).await,
            Request::Node => Reply::Node(std::process::id()),
            Request::Agent { arguments } => start_agent(&arguments, fds).unwrap_or_else(Reply::Failed),
            Request::Socket { name } => match self.registry.address(&name) {
                None => Reply::Failed(Failure::Unknown),
                Some(ip) => {
                    match socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
                        Ok(socket) => {
                            passed = Some(socket);
                            Reply::Socket(ip)
                        }
                        Err(error) => {
                            Reply::Failed(Failure::setup("making a socket", &io::Error::from(error)))
                        }
                    }
                }
            },
        };
        // A client that is gone gets no reply.
        let passed: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
        wire.send(&reply, &passed).ok();
    }

    async fn start(&self, fds: Vec<OwnedFd>) -> Result<Reply, Failure> {
        let mut fds = fds.into_iter();
        let spec = fds
            .next()
            .map(read_spec)
            .transpose()
            .map_err(|error| Failure::setup("reading its specification", &error))?;
        let spec = spec.ok_or_else(|| {
            Failure::setup("reading its specification", &io::Error::from(io::ErrorKind::NotFound))
        })?;
        let listeners: Vec<TcpListener> = fds.map(TcpListener::from).collect();
        let (pod, tenant) = bring_up(self, spec, listeners).await?;
        // The main loop receives as long as there is a claim, and the tenant holds one.
        self.tenants_tx.send(tenant).await.ok();
        Ok(Reply::Started(Box::new(pod)))
    }

    async fn stop(&self, name: &str) -> Reply {
        match self.registry.ask_stop(name) {
            // Within the command's grace and a moment: the tenant kills what does not end.
            Some(stop) => {
                stop.closed().await;
                Reply::Stopped
            }
            None => Reply::Failed(Failure::Unknown),
        }
    }
}

/// An agent for a client that cannot join the namespaces of a pod itself. It ends when the client closes its standard input.
fn start_agent(arguments: &[OsString], fds: Vec<OwnedFd>) -> Result<Reply, Failure> {
    let failed = |error: io::Error| Failure::setup("starting an agent", &error);
    let standard = fds.try_into().map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
    let mut child = agent_process::spawn_for_client(arguments, standard).map_err(failed)?;
    let pid = child.id();
    // Reaps it. The thread ends with it, or with the node.
    std::thread::spawn(move || child.wait());
    Ok(Reply::Agent(pid))
}

fn read_spec(memfd: OwnedFd) -> io::Result<StartSpec> {
    let limit = u64::try_from(POD_SPEC_BYTES).unwrap_or(u64::MAX).saturating_mul(SPEC_JSON_FACTOR);
    let mut bytes = Vec::new();
    File::from(memfd).take(limit).read_to_end(&mut bytes)?;
    let spec: StartSpec = serde_json::from_slice(&bytes)?;
    spec.check().map_err(io::Error::other)?;
    Ok(spec)
}

/// A byte takes up to four characters as a number in a JSON list.
const SPEC_JSON_FACTOR: u64 = 5;
