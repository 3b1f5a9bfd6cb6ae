//! Every bound and deadline of the agent, with its unit and its reason. Nothing else in the crate names one.

use std::time::Duration;

// ---- life

/// Ends by itself when no client was connected for so long; `--idle-timeout` overrides it. Longer than a reconnect takes.
pub(crate) const IDLE: Duration = Duration::from_secs(30);
/// How long open streams may take to end once the agent ends. The host kills a local agent after its own 2 s.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Threads of the runtime. The data path is memory copies; more threads would take time from the target, and one falls behind on a busy
/// machine (BENCHMARKS.md, "One thread for host and agent").
pub(crate) const WORKERS: usize = 2;
/// Blocking threads: slow file operations. More would only queue inside the same file system.
pub(crate) const BLOCKING_THREADS: usize = 8;
/// How long an own connection is remembered after its end: the capture may see it later than it was.
pub(crate) const OWN_LINGER: Duration = Duration::from_secs(2);
/// Jobs waiting for the thread inside the target's network; each takes microseconds.
pub(crate) const NETWORK_JOBS: usize = 64;
/// TCP sockets of each family that lie ready in the target's network: as many as the layer has ready for the program.
pub(crate) const STOCKED_SOCKETS: usize = 4;

// ---- the listener and HTTP/2

/// Open connections, clients without the token included. A session needs one, a reconnect a second.
pub(crate) const CONNECTIONS: usize = 32;
/// How long to wait after accept(2) failed for want of descriptors or memory.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Streams of one connection: each open TCP connection of the user's process is one.
pub(crate) const STREAMS: u32 = 16_384;
/// Calls that were given up before they were looked at; more end the connection. HTTP/2 servers in public allow 20.
pub(crate) const RESETS: usize = 16_384;
/// Window of one stream: bandwidth times delay of 1 Gbit/s over 30 ms.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Window of the connection: a few streams at full speed.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest HTTP/2 frame that we take: one data chunk with its envelope.
pub(crate) const FRAME: u32 = 1 << 20;
/// Bytes buffered by HTTP/2 for one stream before its sender has to wait.
pub(crate) const SEND_BUFFER: usize = 1 << 20;
/// Largest message: a chunk of the user's data or a DNS message with room to spare.
pub(crate) const MESSAGE: usize = 4 << 20;
/// Keep-alive pings over TCP (a port-forward): a cut network is seen within interval + timeout.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to a ping may take.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take to send the message that says what it wants.
pub(crate) const FIRST_MESSAGE: Duration = Duration::from_secs(10);

// ---- relayed connections

/// First read of a connection; most messages are smaller.
pub(crate) const CHUNK_MIN: usize = 16 << 10;
/// Largest read: above this the cost per byte does not fall any more.
pub(crate) const CHUNK_MAX: usize = 256 << 10;
/// Chunks of one connection that wait for HTTP/2. Full: we stop reading, so TCP slows the peer.
pub(crate) const RELAY_QUEUE: usize = 2;
/// How long a slow peer may take to read the rest of what a client has said that is gone.
pub(crate) const DRAIN: Duration = Duration::from_secs(60);
/// How long the last word about a dead connection may wait for a slow client.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(1);

// ---- outgoing

/// Connect timeout when the client names none; Linux itself gives up after 127 s.
pub(crate) const DIAL: Duration = Duration::from_secs(30);
/// Longest connect timeout that a client may ask for.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(150);
/// How often a unix listener with a full queue is asked again.
pub(crate) const UNIX_RETRY: Duration = Duration::from_millis(10);
/// Datagrams of one association that wait in each direction. Full: dropped, as a network does.
pub(crate) const DATAGRAMS: usize = 256;
/// Largest UDP payload.
pub(crate) const DATAGRAM: usize = 65_535;

// ---- DNS

/// Deadline of a question when the client names none.
pub(crate) const DNS: Duration = Duration::from_secs(5);
/// Longest deadline that a client may ask for.
pub(crate) const DNS_MAX: Duration = Duration::from_secs(60);
/// Over UDP a question is sent again after this: a lost datagram costs a second, not the whole deadline.
pub(crate) const DNS_RETRY: Duration = Duration::from_secs(1);
/// A name server that stays silent for so long is followed by the next one (resolv.conf(5) has 5 s, which nobody likes).
pub(crate) const DNS_SERVER: Duration = Duration::from_millis(2_500);
/// Questions in flight on one stream; further ones wait.
pub(crate) const DNS_IN_FLIGHT: usize = 256;
/// Name servers that are read from resolv.conf (MAXNS is 3; Kubernetes allows more).
pub(crate) const NAMESERVERS: usize = 8;
/// Search domains that are taken from it; Kubernetes allows as many.
pub(crate) const SEARCH_DOMAINS: usize = 32;
/// Bytes of resolv.conf that are read.
pub(crate) const RESOLV_CONF: usize = 64 << 10;

// ---- files

/// Replies that wait for HTTP/2 on one Files stream.
pub(crate) const FILE_REPLIES: usize = 64;
/// Operations of one stream that run on blocking threads at a time; further ones wait in HTTP/2.
pub(crate) const FILE_OPERATIONS: usize = 64;
/// Open files and folders of one stream; beyond it opening fails with EMFILE. The usual limit of a process is 1024.
pub(crate) const FILE_HANDLES: usize = 768;
/// Largest content that comes inline, whatever the client asks for.
pub(crate) const FILE_INLINE: usize = 1 << 20;
/// Content up to this size is read on the spot; above it on a blocking thread.
pub(crate) const FILE_QUICK: usize = 64 << 10;
/// Bytes of one read; a longer one comes back short, as read(2) may.
pub(crate) const FILE_READ: usize = 1 << 20;
/// Entries of one listing.
pub(crate) const DIR_ENTRIES: usize = 4_096;
/// openat2 returns EAGAIN when a rename races with `..`; so often it is tried again.
pub(crate) const OPEN_TRIES: usize = 16;
/// The target's environment: the kernel allows an exec to bring 6 MiB.
pub(crate) const ENVIRON: u64 = 8 << 20;

// ---- mirrored connections

/// Bytes kept behind a hole in one direction of a connection. A TCP window is rarely larger; then the hole counts as lost.
pub(crate) const OUT_OF_ORDER: usize = 2 << 20;
/// Bytes kept behind holes of all connections together.
pub(crate) const OUT_OF_ORDER_ALL: usize = 64 << 20;
/// Connections that the mirror follows at a time, ended ones that still have packets under way included.
pub(crate) const FLOWS: usize = 65_536;
/// How long an ended connection is remembered, so that its last packets do not look like a new one.
pub(crate) const FLOW_LINGER: Duration = Duration::from_secs(5);
/// After so long without a packet the target is asked whether it still has the connection: its end may have been lost.
pub(crate) const FLOW_QUIET: Duration = Duration::from_secs(5);
/// Connections that are asked about in one go; a question takes some microseconds.
pub(crate) const FLOW_QUESTIONS: usize = 256;
/// How long a port is captured after its last mirrored moment: a handshake that has begun may need a few retransmissions.
pub(crate) const MIRROR_LINGER: Duration = Duration::from_secs(10);
/// How often the table of connections is searched for those two.
pub(crate) const FLOW_SWEEP: Duration = Duration::from_secs(1);
/// Bytes of copies that wait for the client. Full: copies are dropped and become gaps; the ring and the target never wait.
pub(crate) const MIRROR_QUEUE: usize = 32 << 20;
/// What openings, gaps and ends may use beyond that, so that a client that falls behind still learns them.
pub(crate) const MIRROR_CONTROL: usize = 4 << 20;
/// Estimated bytes of an item beside its data.
pub(crate) const MIRROR_ITEM: usize = 64;
/// Bytes of one batch; a block of the ring may fill several.
pub(crate) const MIRROR_BATCH: usize = 1 << 20;
/// How long the capture thread may take to answer its owner; it does one system call.
pub(crate) const CAPTURE_REPLY: Duration = Duration::from_secs(5);
/// Orders that wait for the capture thread.
pub(crate) const CAPTURE_ORDERS: usize = 16;
/// The capture thread looks around at least this often.
pub(crate) const CAPTURE_PAUSE: Duration = Duration::from_secs(1);

// ---- stolen connections

/// Queue of the listener in the target's network; the kernel cuts it at net.core.somaxconn.
pub(crate) const STEAL_BACKLOG: i32 = 4096;
/// How long the rules stay after the last stolen port: longer than the kernel remembers an ended connection (120 s,
/// nf_conntrack_tcp_timeout_time_wait of nf_conntrack-sysctl.rst). Without rules it tracks nothing, so a connection that comes from the
/// same port of the same client in that time would meet the translation of the ended one as soon as the port is stolen again, and hang.
pub(crate) const STEAL_LINGER: Duration = Duration::from_secs(130);
/// Accept calls that may be parked.
pub(crate) const PARKED: usize = 1024;
/// How long a stolen connection waits for a parked call before it is passed on to the target.
pub(crate) const PARK_WAIT: Duration = Duration::from_secs(2);
/// How long the target may take to accept a connection that is passed on to it.
pub(crate) const PASS_CONNECT: Duration = Duration::from_secs(10);
/// Buffer of each direction of a connection that is passed on.
pub(crate) const PASS_BUFFER: usize = 64 << 10;

// ---- subscriptions

/// Ports of one session; a filter program has room for so many.
pub(crate) const PORTS: usize = mirrord_netns::limits::CAPTURE_PORTS;
/// How often counters are told while they change.
pub(crate) const STATUS: Duration = Duration::from_secs(1);
/// Replies that wait for the client: an answer and a status for a few dozen ports. Status that finds no room is left out.
pub(crate) const SUBSCRIPTION_REPLIES: usize = 256;
/// Subscriptions calls that wait for the owner; each replaces the one before.
pub(crate) const CLIENTS: usize = 4;
