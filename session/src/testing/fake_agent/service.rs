//! The calls of agent.proto as the script has them.

use std::net::SocketAddr;

use mirrord_protocol::agent::v1::{self as wire, agent_server::Agent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{Destination, QUEUE, Script};
use crate::{
    agent_link::{socket_address, wire_address},
    network::dns_message,
};

type Replies<T> = ReceiverStream<Result<T, Status>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// A stream that the host has parked.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) up: Streaming<wire::AcceptUp>,
    pub(super) down_tx: Sender<wire::AcceptDown>,
}

/// The service of one connection.
#[derive(Clone, Debug)]
pub(super) struct FakeService {
    script: Script,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl FakeService {
    pub(super) fn new(script: Script, cancel: CancellationToken) -> Self {
        Self { script, cancel, tasks: TaskTracker::new() }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }
}

#[tonic::async_trait]
impl Agent for FakeService {
    type FilesStream = Replies<wire::FileReply>;
    type DnsStream = Replies<wire::DnsReply>;
    type SubscriptionsStream = Replies<wire::SubscriptionReply>;
    type AcceptStream = Replies<wire::AcceptDown>;
    type MirrorStream = Replies<wire::MirrorBatch>;
    type DialStream = Replies<wire::DialDown>;
    type UdpStream = Replies<wire::UdpDown>;

    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloReply>, Status> {
        Ok(Response::new(self.script.lock().hello.clone()))
    }

    async fn env(&self, _: Request<wire::EnvRequest>) -> Result<Response<wire::EnvReply>, Status> {
        Ok(Response::new(wire::EnvReply { entries: self.script.lock().env.clone() }))
    }

    async fn files(
        &self,
        requests: Request<Streaming<wire::FileRequest>>,
    ) -> Result<Response<Self::FilesStream>, Status> {
        let (replies_tx, replies_rx) = mpsc::channel(QUEUE);
        let (mut requests, script) = (requests.into_inner(), self.script.clone());
        self.spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if replies_tx.send(Ok(file_reply(&script, request))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies_rx)))
    }

    async fn dns(
        &self,
        requests: Request<Streaming<wire::DnsRequest>>,
    ) -> Result<Response<Self::DnsStream>, Status> {
        let (replies_tx, replies_rx) = mpsc::channel(QUEUE);
        let (mut requests, script) = (requests.into_inner(), self.script.clone());
        self.spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if replies_tx.send(Ok(dns_reply(&script, &request))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies_rx)))
    }

    async fn subscriptions(
        &self,
        requests: Request<Streaming<wire::SubscriptionRequest>>,
    ) -> Result<Response<Self::SubscriptionsStream>, Status> {
        let (replies_tx, replies_rx) = mpsc::channel(QUEUE);
        let (mut requests, script) = (requests.into_inner(), self.script.clone());
        script.lock().statuses_tx = Some(replies_tx.clone());
        self.spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let ack = subscribe(&script, &request);
                let kind = Some(wire::subscription_reply::Kind::Ack(ack));
                if replies_tx.send(Ok(wire::SubscriptionReply { kind })).await.is_err() {
                    break;
                }
            }
            script.modes_tx.send_replace(std::collections::BTreeMap::new());
        });
        Ok(Response::new(ReceiverStream::new(replies_rx)))
    }

    async fn accept(
        &self,
        requests: Request<Streaming<wire::AcceptUp>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(QUEUE);
        let mut up = requests.into_inner();
        let script = self.script.clone();
        self.spawn(async move {
            if let Ok(Some(wire::AcceptUp { kind: Some(wire::accept_up::Kind::Park(_)) })) =
                up.message().await
            {
                script.lock().parked.push(Parked { up, down_tx });
            }
        });
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn mirror(&self, _: Request<wire::MirrorRequest>) -> Result<Response<Self::MirrorStream>, Status> {
        let (mirror_tx, mirror_rx) = mpsc::channel(QUEUE);
        self.script.lock().mirror_tx = Some(mirror_tx);
        Ok(Response::new(ReceiverStream::new(mirror_rx)))
    }

    async fn dial(
        &self,
        requests: Request<Streaming<wire::DialUp>>,
    ) -> Result<Response<Self::DialStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(4);
        let (up, script) = (requests.into_inner(), self.script.clone());
        self.spawn(async move { dial(script, up, down_tx).await });
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn udp(
        &self,
        requests: Request<Streaming<wire::UdpUp>>,
    ) -> Result<Response<Self::UdpStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(QUEUE);
        let (up, script) = (requests.into_inner(), self.script.clone());
        self.spawn(async move { udp(script, up, down_tx).await });
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn shutdown(
        &self,
        _: Request<wire::ShutdownRequest>,
    ) -> Result<Response<wire::ShutdownReply>, Status> {
        Ok(Response::new(wire::ShutdownReply {}))
    }
}

fn file_reply(script: &Script, request: wire::FileRequest) -> wire::FileReply {
    use wire::file_request::Op;
    let id = request.id;
    let (path, opens) = match request.op {
        Some(Op::Stat(stat)) => (stat.path, false),
        Some(Op::Open(open)) => (open.path, true),
        _ => return wire::FileReply { id, errno: libc::ENOSYS.unsigned_abs(), ..wire::FileReply::default() },
    };
    match script.lock().files.get(path.as_ref()) {
        Some(content) => {
            let stat = wire::Stat {
                mode: libc::S_IFREG | 0o644,
                nlink: 1,
                size: content.len() as u64,
                ..wire::Stat::default()
            };
            let opened = wire::OpenedFile { handle: 0, inline: true, content: content.clone().into() };
            let result = opens.then_some(wire::file_reply::Result::Opened(opened));
            wire::FileReply { id, errno: 0, stat: Some(stat), result }
        }
        None => wire::FileReply { id, errno: libc::ENOENT.unsigned_abs(), ..wire::FileReply::default() },
    }
}

/// Answers A and AAAA from the table.
fn dns_reply(script: &Script, request: &wire::DnsRequest) -> wire::DnsReply {
    let id = request.id;
    let failed =
        |errno: i32| wire::DnsReply { id, errno: errno.unsigned_abs(), message: bytes::Bytes::new() };
    let Ok(question) = dns_message::question(&request.message) else { return failed(libc::EINVAL) };
    let mut state = script.lock();
    state.questions.push(question.name.clone());
    if let Some(errno) = state.dns_errno {
        return failed(errno);
    }
    let known = state.names.get(&question.name).cloned();
    let Ok(reply) = dns_message::failure(&request.message, if known.is_some() { 0 } else { 3 }) else {
        return failed(libc::EINVAL);
    };
    let mut message = reply.to_vec();
    let mut answers = 0_u16;
    for ip in known.unwrap_or_default() {
        let (kind, data) = match ip {
            std::net::IpAddr::V4(ip) => (1_u16, ip.octets().to_vec()),
            std::net::IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        if kind == question.kind {
            answers += 1;
            message.extend_from_slice(&[0xc0, 12]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0]);
            message.push(u8::try_from(data.len()).unwrap_or(0));
            message.extend_from_slice(&data);
        }
    }
    if let Some(count) = message.get_mut(6..8) {
        count.copy_from_slice(&answers.to_be_bytes());
    }
    wire::DnsReply { id, errno: 0, message: message.into() }
}

fn subscribe(script: &Script, request: &wire::SubscriptionRequest) -> wire::SubscriptionAck {
    let refused = script.lock().refused_modes.get(&request.mode).cloned();
    let port = u16::try_from(request.port).unwrap_or(0);
    if refused.is_none() {
        script.modes_tx.send_modify(|modes| {
            match request.mode() {
                wire::Mode::Unspecified => modes.remove(&port),
                mode => modes.insert(port, mode),
            };
        });
    }
    wire::SubscriptionAck {
        id: request.id,
        port: request.port,
        mode: request.mode,
        error: refused.unwrap_or_default(),
    }
}

/// Counts a dial that was cancelled before its result.
struct Pending {
    script: Script,
    settled: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.settled {
            self.script.lock().cancelled += 1;
        }
    }
}

async fn dial(script: Script, mut up: Streaming<wire::DialUp>, down_tx: Sender<wire::DialDown>) {
    let Ok(Some(wire::DialUp { kind: Some(wire::dial_up::Kind::Dial(dial)) })) = up.message().await else {
        return;
    };
    let to = match dial.to {
        Some(wire::dial::To::Tcp(address)) => socket_address(&address),
        _ => None,
    };
    let Some(to) = to else { return send_result(&down_tx, libc::EINVAL, None).await };
    let mut destination = {
        let mut state = script.lock();
        state.dialled.push(to);
        state.destinations.get(&to).cloned().unwrap_or(Destination::Echo)
    };
    let mut pending = Pending { script, settled: false };
    while let Destination::After(delay, then) = destination {
        tokio::select! {
            biased;
            () = down_tx.closed() => return,
            () = sleep(delay) => destination = *then,
        }
    }
    if let Destination::Silent = destination {
        return down_tx.closed().await;
    }
    pending.settled = true;
    if let Destination::Errno(errno) = destination {
        return send_result(&down_tx, errno, None).await;
    }
    if let Destination::Forward(address) = destination {
        return match TcpStream::connect(address).await {
            Ok(socket) => forward(socket, to, up, down_tx).await,
            Err(error) => send_result(&down_tx, error.raw_os_error().unwrap_or(libc::EIO), None).await,
        };
    }
    send_result(&down_tx, 0, Some(to)).await;
    connected(destination, up, down_tx).await;
}

async fn connected(
    destination: Destination,
    mut up: Streaming<wire::DialUp>,
    down_tx: Sender<wire::DialDown>,
) {
    use wire::{dial_down::Kind as Down, dial_up::Kind as Up};
    let down = |kind| wire::DialDown { kind: Some(kind) };
    match destination {
        Destination::Say(bytes) => {
            drop(down_tx.send(Ok(down(Down::Data(bytes.into())))).await);
            drop(down_tx.send(Ok(down(Down::Shutdown(wire::Shutdown {})))).await);
            while let Ok(Some(_)) = up.message().await {}
        }
        Destination::Reset => {
            drop(up.message().await);
            drop(down_tx.send(Ok(down(Down::Reset(wire::Reset {})))).await);
        }
        Destination::Deaf => down_tx.closed().await,
        _ => {
            while let Ok(Some(message)) = up.message().await {
                let reply = match message.kind {
                    Some(Up::Data(data)) => down(Down::Data(data)),
                    Some(Up::Shutdown(_)) => down(Down::Shutdown(wire::Shutdown {})),
                    _ => return,
                };
                if down_tx.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn forward(
    socket: TcpStream,
    to: SocketAddr,
    mut up: Streaming<wire::DialUp>,
    down_tx: Sender<wire::DialDown>,
) {
    use wire::{dial_down::Kind as Down, dial_up::Kind as Up};
    send_result(&down_tx, 0, Some(to)).await;
    let (mut read, mut write) = socket.into_split();
    let there = async {
        while let Ok(Some(message)) = up.message().await {
            match message.kind {
                Some(Up::Data(data)) if write.write_all(&data).await.is_ok() => {}
                _ => break,
            }
        }
        drop(write.shutdown().await);
    };
    let back = async {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(crate::limits::RELAY_CHUNK);
            let kind = match read.read_buf(&mut buffer).await {
                Ok(0) => Down::Shutdown(wire::Shutdown {}),
                Ok(_) => Down::Data(buffer.freeze()),
                Err(_) => Down::Reset(wire::Reset {}),
            };
            let last = !matches!(kind, Down::Data(_));
            if down_tx.send(Ok(wire::DialDown { kind: Some(kind) })).await.is_err() || last {
                return;
            }
        }
    };
    tokio::join!(there, back);
}

async fn send_result(down_tx: &Sender<wire::DialDown>, errno: i32, peer: Option<SocketAddr>) {
    let local = SocketAddr::from(([10, 99, 0, 5], 40_000));
    let result = wire::DialResult {
        errno: errno.unsigned_abs(),
        local: peer.map(|_| wire_address(local)),
        peer: peer.map(wire_address),
        ..wire::DialResult::default()
    };
    drop(down_tx.send(Ok(wire::DialDown { kind: Some(wire::dial_down::Kind::Result(result)) })).await);
}

async fn udp(script: Script, mut up: Streaming<wire::UdpUp>, down_tx: Sender<wire::UdpDown>) {
    use wire::{udp_down::Kind as Down, udp_up::Kind as Up};
    let Ok(Some(wire::UdpUp { kind: Some(Up::Open(open)) })) = up.message().await else { return };
    let to = open.peer.as_ref().and_then(socket_address);
    let destination = to.and_then(|to| script.lock().udp.get(&to).cloned()).unwrap_or(Destination::Echo);
    let down = |kind| Ok(wire::UdpDown { kind: Some(kind) });
    let opened = wire::DialResult { peer: open.peer, ..wire::DialResult::default() };
    drop(down_tx.send(down(Down::Opened(opened))).await);
    while let Ok(Some(message)) = up.message().await {
        let Some(Up::Datagram(datagram)) = message.kind else { continue };
        let reply = match &destination {
            Destination::Errno(errno) => Down::Errno(errno.unsigned_abs()),
            Destination::Say(bytes) => Down::Datagram(bytes.clone().into()),
            Destination::Silent => continue,
            _ => Down::Datagram(datagram),
        };
        if down_tx.send(down(reply)).await.is_err() {
            return;
        }
    }
}
