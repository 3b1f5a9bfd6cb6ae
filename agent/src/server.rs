//! The gRPC service: every call of agent.proto, handed to the module that does it. Owns what the calls share.

use std::sync::Arc;

use mirrord_netns::rtnl::Rtnl;
use mirrord_protocol::{
    AGENT_PROTOCOL, AGENT_PROTOCOL_OLDEST,
    agent::v1::{self as wire, Capability, agent_server::Agent},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    address, dns, env,
    files::session::FileSession,
    hand_over::HandOver,
    life::{End, Life, UntilEnd},
    limits::{CLIENTS, DATAGRAMS, FILE_REPLIES, RELAY_QUEUE, SUBSCRIPTION_REPLIES},
    mirror::{Mirror, MirrorQueue, MirrorReader},
    network::{NetworkLimits, TargetNetwork},
    outgoing,
    steal::{self, Parking, Steal},
    subscriptions::{Client, Subscriptions},
    target::Target,
    udp,
};

/// The service of one agent. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct AgentService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Arc<Target>,
    /// Or one sentence why it cannot be used.
    network: Result<TargetNetwork, String>,
    hand_over: HandOver,
    life: Life,
    tasks: TaskTracker,
    /// Subscriptions call --client--> owner of the subscriptions; full: the call waits
    clients_tx: mpsc::Sender<Client>,
    parking: Parking,
    queue: MirrorQueue,
}

impl AgentService {
    /// Also starts the owner of the subscriptions. `own_port`: the agent listens there, in the target's network.
    pub(crate) fn new(
        target: Arc<Target>,
        network: Result<TargetNetwork, String>,
        hand_over: HandOver,
        life: Life,
        tasks: TaskTracker,
        client: &str,
        own_port: Option<u16>,
    ) -> Self {
        let (clients_tx, clients_rx) = mpsc::channel(CLIENTS);
        let parking = Parking::new(life.ending().clone());
        let queue = MirrorQueue::default();
        if let Ok(network) = &network {
            let steal = Steal::new(network.clone(), parking.clone(), tasks.clone(), client);
            let mirror = Mirror::new(network.clone(), queue.clone());
            let parking = parking.clone();
            let owner = Subscriptions::new(life.clone(), network.clone(), parking, steal, mirror, own_port);
            tasks.spawn(owner.run(clients_rx));
        }
        Self {
            inner: Arc::new(Inner { target, network, hand_over, life, tasks, clients_tx, parking, queue }),
        }
    }

    fn network(&self) -> Result<TargetNetwork, Status> {
        self.inner.network.clone().map_err(Status::failed_precondition)
    }

    /// Runs a call's work until it ends or the agent does.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let ending = self.inner.life.ending().clone();
        self.inner.tasks.spawn(ending.run_until_cancelled_owned(work));
    }
}

/// Messages of one call. call --messages--> HTTP/2; full: the call waits
type Replies<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Agent for AgentService {
    type FilesStream = UntilEnd<FileSession>;
    type DnsStream = Replies<wire::DnsReply>;
    type SubscriptionsStream = Replies<wire::SubscriptionReply>;
    type AcceptStream = Replies<wire::AcceptDown>;
    type MirrorStream = UntilEnd<MirrorReader>;
    type DialStream = Replies<wire::DialDown>;
    type UdpStream = Replies<wire::UdpDown>;

    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloReply>, Status> {
        let asked = request.into_inner().protocol_version;
        if asked < AGENT_PROTOCOL_OLDEST {
            return Err(Status::failed_precondition(format!(
                "this agent speaks protocol {AGENT_PROTOCOL_OLDEST} to {AGENT_PROTOCOL}, the client asks for {asked}"
            )));
        }
        let target = &self.inner.target;
        let limits = self.limits();
        let capabilities = [
            Capability::Mirror,
            Capability::Steal,
            Capability::Outgoing,
            Capability::Dns,
            Capability::Files,
            Capability::Env,
        ]
        .into_iter()
        .map(i32::from)
        .filter(|capability| limits.iter().all(|limit| limit.capability != *capability))
        .collect();
        Ok(Response::new(wire::HelloReply {
            protocol_version: asked.min(AGENT_PROTOCOL),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.addresses().await,
            hostname: self.hostname().into(),
            nameservers: target.nameservers().iter().map(ToString::to_string).collect(),
            pid: target.pid(),
            command: target.command().into(),
            capabilities,
            limits,
            search: target.search(),
        }))
    }

    async fn env(&self, _: Request<wire::EnvRequest>) -> Result<Response<wire::EnvReply>, Status> {
        let environ = self.inner.target.environ().map_err(|error| {
            Status::failed_precondition(format!("the target's environment cannot be read: {error}"))
        })?;
        Ok(Response::new(wire::EnvReply { entries: env::parse(environ) }))
    }

    async fn files(
        &self,
        request: Request<Streaming<wire::FileRequest>>,
    ) -> Result<Response<Self::FilesStream>, Status> {
        let files = FileSession::new(Arc::clone(&self.inner.target), request.into_inner());
        Ok(Response::new(UntilEnd::new(files, &self.inner.life)))
    }

    async fn dns(
        &self,
        request: Request<Streaming<wire::DnsRequest>>,
    ) -> Result<Response<Self::DnsStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(FILE_REPLIES);
        let target = Arc::clone(&self.inner.target);
        self.spawn(dns::serve(target, self.network()?, request.into_inner(), down_tx));
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn subscriptions(
        &self,
        request: Request<Streaming<wire::SubscriptionRequest>>,
    ) -> Result<Response<Self::SubscriptionsStream>, Status> {
        self.network()?;
        let (down_tx, down_rx) = mpsc::channel(SUBSCRIPTION_REPLIES);
        let client = Client { up: request.into_inner(), down_tx };
        self.inner.clients_tx.send(client).await.map_err(|_| Status::unavailable("the agent ends"))?;
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn accept(
        &self,
        request: Request<Streaming<wire::AcceptUp>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(RELAY_QUEUE);
        let parking = self.inner.parking.clone();
        self.spawn(steal::serve(parking, self.network()?, request.into_inner(), down_tx));
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn mirror(&self, _: Request<wire::MirrorRequest>) -> Result<Response<Self::MirrorStream>, Status> {
        self.network()?;
        Ok(Response::new(UntilEnd::new(self.inner.queue.attach(), &self.inner.life)))
    }

    async fn dial(
        &self,
        request: Request<Streaming<wire::DialUp>>,
    ) -> Result<Response<Self::DialStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(RELAY_QUEUE);
        let from = outgoing::From {
            target: Arc::clone(&self.inner.target),
            network: self.network()?,
            hand_over: self.inner.hand_over.clone(),
        };
        self.spawn(outgoing::serve(from, request.into_inner(), down_tx));
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn udp(
        &self,
        request: Request<Streaming<wire::UdpUp>>,
    ) -> Result<Response<Self::UdpStream>, Status> {
        let (down_tx, down_rx) = mpsc::channel(DATAGRAMS);
        self.spawn(udp::serve(self.network()?, request.into_inner(), down_tx));
        Ok(Response::new(ReceiverStream::new(down_rx)))
    }

    async fn shutdown(
        &self,
        _: Request<wire::ShutdownRequest>,
    ) -> Result<Response<wire::ShutdownReply>, Status> {
        self.inner.life.end(End::Shutdown);
        Ok(Response::new(wire::ShutdownReply {}))
    }
}

impl AgentService {
    fn limits(&self) -> Vec<wire::CapabilityLimit> {
        let mut limits = Vec::new();
        let mut limit = |capability: Capability, reason: String| {
            limits.push(wire::CapabilityLimit { capability: capability.into(), reason });
        };
        match &self.inner.network {
            Ok(network) => {
                let NetworkLimits { mirror, steal } = network.limits();
                for (capability, reason) in [(Capability::Mirror, mirror), (Capability::Steal, steal)] {
                    if let Some(reason) = reason {
                        limit(capability, reason.clone());
                    }
                }
            }
            Err(reason) => {
                for capability in
                    [Capability::Mirror, Capability::Steal, Capability::Outgoing, Capability::Dns]
                {
                    limit(capability, reason.clone());
                }
            }
        }
        if let Err(error) = self.inner.target.root() {
            limit(Capability::Files, format!("the target's root folder cannot be entered: {error}"));
        }
        if let Err(error) = self.inner.target.environ() {
            limit(Capability::Env, format!("the target's environment cannot be read: {error}"));
        }
        limits
    }

    /// The UTS namespace's name; /etc/hostname where that may not be joined.
    fn hostname(&self) -> Vec<u8> {
        let known = self.inner.network.as_ref().ok().and_then(TargetNetwork::hostname).map(<[u8]>::to_vec);
        known.or_else(|| self.inner.target.hostname_file()).unwrap_or_default()
    }

    /// Addresses of the target's interfaces but the loopback's own; none when they cannot be read.
    async fn addresses(&self) -> Vec<wire::InterfaceAddress> {
        let Ok(network) = &self.inner.network else { return Vec::new() };
        let listed = network.run(list_addresses).await;
        listed.ok().and_then(Result::ok).unwrap_or_default()
    }
}

fn list_addresses() -> Result<Vec<wire::InterfaceAddress>, std::io::Error> {
    let rtnl = Rtnl::open().map_err(std::io::Error::other)?;
    let links = rtnl.links().map_err(std::io::Error::other)?;
    let addresses = rtnl.addresses().map_err(std::io::Error::other)?;
    Ok(addresses
        .into_iter()
        .filter(|address| !address.ip.is_loopback())
        .filter_map(|address| {
            let link = links.iter().find(|link| link.index == address.interface)?;
            Some(wire::InterfaceAddress {
                interface: link.name.clone(),
                address: address::ip_to_wire(address.ip),
                prefix_length: address.prefix.into(),
            })
        })
        .collect())
}
