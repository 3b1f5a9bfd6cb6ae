//! Every bound and deadline of the session host, with its unit and its reason. Nothing else in the crate names one.

use std::time::Duration;

/// How long a step of bring-up may take before it is given up and said by name.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the command may take to end after SIGTERM before it gets SIGKILL. mirrord and docker give 2 s and 10 s.
pub const COMMAND_GRACE: Duration = Duration::from_secs(5);
/// How long open streams may drain when the session ends.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Default connect timeout of outgoing connections in the target, as Linux gives up after 127 s and people before.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// A subscribed port that sees nothing for so long gets a diagnosis.
pub const SILENCE: Duration = Duration::from_secs(10);
/// Counters of the agent that come so soon after a delivery belong to it: it tells them once a second.
pub const AGENT_STATUS_LAG: Duration = Duration::from_secs(2);
/// Events held in memory for viewers that come later.
pub const RING_EVENTS: usize = 50_000;
/// Bytes held by the ring, bodies included.
pub const RING_BYTES: usize = 64 << 20;
/// Bytes kept of each body; the rest is counted.
pub const BODY_BYTES: usize = 256 << 10;
/// Changes of events remembered for viewers: an emission and one change each for a full ring, 8 bytes apiece. A viewer that is
/// further behind looks through the whole ring once.
pub const RING_CHANGES: usize = 2 * RING_EVENTS;
/// Pending events that left the ring and are still waited for, so that the counters stay exact; one is about 1 KiB.
pub const RING_PENDING: usize = 10_000;
/// Events that a reader looks at under the lock of the store before it lets producers in: about 100 us.
pub const READER_LOOKS: usize = 4096;
/// Bytes of events (bodies included) in one batch of a reader; a gRPC message may have 4 MiB.
pub const READER_BYTES: usize = 1 << 20;
/// Rows in one message to a viewer. The queue of a viewer is the ring itself: what leaves it unread is dropped and counted.
pub const VIEWER_BATCH: usize = 1024;
/// Pause between two messages to one viewer: a screen shows 30 pictures a second, so 200 messages are enough.
pub const VIEWER_GAP: Duration = Duration::from_millis(5);
/// Keys (routes, hosts, operations) with a histogram of their own, per kind; the rest share the key `other`. 26 KiB each at most.
pub const HISTOGRAM_KEYS: usize = 128;
/// Shortest latency that histograms tell apart, nanoseconds.
pub const HISTOGRAM_MIN_NS: u64 = 1_000;
/// Longest latency of histograms, nanoseconds; longer ones count as this.
pub const HISTOGRAM_MAX_NS: u64 = 60_000_000_000;
/// Slow events remembered by number for each kind.
pub const HISTOGRAM_OUTLIERS: usize = 16;
/// Largest remote file that is handed out as a memfd; larger ones are served by FUSE or spooled.
pub const MEMFD_BYTES: u64 = 1 << 20;
/// Read size of relays: one system call moves this much.
pub const RELAY_CHUNK: usize = 256 << 10;
/// Accept streams kept parked at the agent, so that a stolen connection costs no extra round trip.
pub const PARKED_ACCEPTS: usize = 8;
// ---- local pods

/// Ports that one local pod may publish: each is a descriptor beside one datagram, of which the kernel allows 253.
pub const POD_PORTS: usize = 32;
/// One file that is given to a local pod.
pub const POD_FILE_BYTES: usize = 1 << 20;
/// Command, variables and files of a local pod together; the kernel's own bound for command and variables is 2 MiB.
pub const POD_SPEC_BYTES: usize = 8 << 20;
/// One datagram of the node's control socket. A list of 253 pods with long commands takes about half of it.
pub const POD_MESSAGE: usize = 128 << 10;
/// Output of a local pod that is kept; what is longer is cut, for the runtime folder often lies in memory.
pub const POD_LOG_BYTES: u64 = 32 << 20;
/// How often the length of the logs is looked at.
pub const POD_LOG_CHECK: Duration = Duration::from_secs(2);
/// Wait after accepting failed for want of descriptors or memory: nothing says when there are some again.
pub const NODE_ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Wait of a node that wants to end while somebody holds the lock: to start a node or to remove a folder takes about so long.
pub const NODE_LOCK_RETRY: Duration = Duration::from_millis(5);
/// Clients of the node that wait to be accepted.
pub const NODE_BACKLOG: usize = 64;
/// DNS over TCP: connections at a time. Pods ask over UDP unless an answer was cut.
pub const RESOLVER_CONNECTIONS: usize = 64;
/// DNS over TCP: a connection without a query for so long is closed.
pub const RESOLVER_IDLE: Duration = Duration::from_secs(10);
/// Events that the relay of published ports takes from the kernel in one go.
pub const RELAY_EVENTS: usize = 256;
/// System calls that one direction of a carried connection may take before others have their turn.
pub const RELAY_TURN: usize = 32;

// ---- clusters

/// TCP connect to an API server: a round trip anywhere on earth takes 0.4 s, two lost SYNs 3 s.
pub const CLUSTER_CONNECT: Duration = Duration::from_secs(5);
/// One call to an API server. It gives up on a slow webhook or etcd after 10 s itself; retries of 429 and 503 fit in.
pub const CLUSTER_CALL: Duration = Duration::from_secs(10);
/// Programs that give credentials: some open a browser, and a human types there.
pub const CLUSTER_CREDENTIALS: Duration = Duration::from_secs(60);

/// Pods in one page of a list: kubectl's own size.
pub const CLUSTER_PAGE: u32 = 500;
/// Pods that are looked through in one list; clusters are tested up to 150,000, and a screen that long helps nobody.
pub const CLUSTER_PODS: usize = 10_000;

/// Idle time after which TCP asks whether the API server is still there; three answers missing, 5 s apart, end the connection.
pub const CLUSTER_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time between such questions.
pub const CLUSTER_KEEP_ALIVE_GAP: Duration = Duration::from_secs(5);
/// How many of them may stay without an answer.
pub const CLUSTER_KEEP_ALIVE_TRIES: u32 = 3;
/// Seconds after which the API server ends a watch; it refuses more than 5 minutes of some.
pub const WATCH_LIFE: u32 = 240;
/// A watch that says nothing for so long, not even its end, is dead.
pub const WATCH_SILENCE: Duration = Duration::from_secs(270);
/// First pause before an interrupted watch is tried again; doubled each time.
pub const WATCH_RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause before an interrupted watch is tried again.
pub const WATCH_RETRY_MAX: Duration = Duration::from_secs(30);
/// Changes that come within this time become one list: a rollout changes dozens of pods at once, and people read slower.
pub const WATCH_GATHER: Duration = Duration::from_millis(50);

// ---- agents in a cluster

/// How long the agent's pod may take until the agent answers; mirrord's default of `agent.startup_timeout`.
pub const AGENT_STARTUP: Duration = Duration::from_secs(60);
/// The agent ends when its client has been gone for so long: with its pings, a cut of 30 s is survived; after SIGKILL of the host
/// everything is gone within 30 s, [`CLUSTER_AGENT_TTL`] and a slow controller included.
pub const CLUSTER_AGENT_IDLE: Duration = Duration::from_secs(15);
/// How long a finished Job stays before the cluster removes it: long enough to look why it has ended.
pub const CLUSTER_AGENT_TTL: Duration = Duration::from_secs(5);
/// After so long the cluster ends an agent, whatever it does: one that never began to run cannot end by itself.
pub const CLUSTER_AGENT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long the target's container may take to run again after its end took the agent along; then the session ends.
pub const TARGET_RETURN: Duration = Duration::from_secs(40);
/// How often it is looked at meanwhile.
pub const TARGET_POLL: Duration = Duration::from_millis(500);
/// Pause before others are told again which ports are stolen, after the API server did not take it.
pub const ANNOUNCE_RETRY: Duration = Duration::from_secs(5);
/// Pods of one target that a session serves at a time; each costs a pod of the cluster and two port-forwards.
pub const PODS: usize = 64;
/// First pause before a pod gets another agent after it could not have one, or lost it; doubled each time.
pub const POD_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest such pause.
pub const POD_RETRY_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether a target without pods still exists.
pub const TARGET_LOOK: Duration = Duration::from_secs(5);
/// Pause between attempts to reach an agent that comes up: a refused port-forward costs the API server a millisecond.
pub const AGENT_PROBE: Duration = Duration::from_millis(50);
/// How often the events of a Job without a pod are read.
pub const JOB_EVENTS: Duration = Duration::from_millis(500);
/// A Job that has no running pod at this age will not get one again.
pub const JOB_SETTLED: Duration = Duration::from_secs(60);
/// Ports of agents in the network of a target's pod, the first and how many: above those that servers are given, below those that the
/// kernel gives to outgoing connections (32768).
pub const EPHEMERAL_AGENT_PORTS: (u16, u16) = (20_000, 12_000);
/// Opening a port-forward, the far end's first bytes included.
pub const FORWARD_OPEN: Duration = Duration::from_secs(10);
/// Largest message of a port-forward, in bytes: relay chunks are cut into these. Larger ones gained nothing; a frame of SPDY may have
/// 16 MiB (24 bits of length), a message of a WebSocket 32 MiB at the API server.
pub const FORWARD_MESSAGE: usize = 64 << 10;
/// Longest frame of a port-forward that is kept as a whole: a sentence about a failure, which names the pod and the port.
pub const FORWARD_CONTROL: usize = 4 << 10;

// ---- agent link

/// Deadline of a call to the agent that does no more than look something up.
pub const AGENT_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of one remote file operation: a hanging network disk of the target must not hang the program for good.
pub const FILE_CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// What the agent gets beyond its own deadline to say that it passed.
pub const DIAL_SLACK: Duration = Duration::from_secs(3);
/// Time between heartbeats.
pub const AGENT_HEARTBEAT: Duration = Duration::from_secs(2);
/// First wait after a heartbeat without an answer; doubled each time.
pub const AGENT_RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait between heartbeats without an answer.
pub const AGENT_RETRY_MAX: Duration = Duration::from_secs(5);
/// An agent that has not answered for so long is lost; agents keep a session for about a minute without its client.
pub const AGENT_LOST: Duration = Duration::from_secs(45);
/// How long the link's own tasks may take to end.
pub const AGENT_CLOSE_GRACE: Duration = Duration::from_secs(1);
/// HTTP/2 PING on an idle connection, so that a port-forward which died silently is noticed.
pub const AGENT_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A PING without an answer for so long closes the connection.
pub const AGENT_KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 window of one stream: 4 MiB keep 1 Gbit/s busy at 30 ms.
pub const AGENT_STREAM_WINDOW: u32 = 4 << 20;
/// HTTP/2 window of a connection: a few streams at full speed, and the bound of what one link may buffer.
pub const AGENT_CONNECTION_WINDOW: u32 = 16 << 20;
/// HTTP/2 frames that we accept: large enough that a relay chunk is one frame.
pub const AGENT_FRAME: u32 = 1 << 20;
/// Largest message from the agent (a mirror batch, a directory).
pub const AGENT_MESSAGE: usize = 16 << 20;
/// Calls in flight on the stream of files or of DNS.
pub const AGENT_CALLS: usize = 4096;
/// Messages queued for a stream to the agent; when full the writer waits. A relay keeps at most this many chunks there.
pub const STREAM_MESSAGES: usize = 4;
/// How long a socket that the agent has handed over waits for the call that takes it. The call comes at once or was given up.
pub const HANDED_UNCLAIMED: Duration = Duration::from_secs(1);
/// Datagrams queued for one UDP association; when full they are dropped, as on a wire.
pub const UDP_QUEUE: usize = 256;
/// Default deadline of a DNS query, as resolv.conf(5) has it.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head of an HTTP message that is read; servers refuse from 8 to 64 KiB on.
pub const HTTP_HEAD_BYTES: usize = 64 << 10;
/// Headers of an HTTP message; Apache and nginx allow 100.
pub const HTTP_HEADERS: usize = 128;
/// Requests of one connection that may wait for their response; browsers do not pipeline at all, benchmarks do.
pub const HTTP_PIPELINED: usize = 256;
/// Longest line of a recording: two bodies in base64 with their heads, and room.
pub const RECORDING_LINE_BYTES: u64 = 4 << 20;
/// How long a session host may take to accept a viewer; it answers within milliseconds unless the machine is at its limits.
pub const SESSION_CONNECT: Duration = Duration::from_secs(5);
/// How old a session's folder without a lock must be to count as left behind: its starter makes the lock in the next instant.
pub const SESSION_START: Duration = Duration::from_secs(10);

// ---- agents on this machine

/// A local agent ends when its client has been gone for so long; it also ends with the host.
pub const AGENT_IDLE: Duration = Duration::from_secs(5);
/// How long a local agent may take to end before it is killed. It gives its own streams 1 s.
pub const AGENT_STOP: Duration = Duration::from_secs(2);
/// Bytes at the end of the agent's log that are searched for its last words.
pub const AGENT_LOG_TAIL: usize = 16 << 10;

// ---- data path

/// Records of one DNS reply that are shown and learned from; a reply that fits UDP with EDNS has about a hundred at most.
pub const DNS_ANSWERS: usize = 128;
/// Addresses whose names are remembered; mirrord keeps as many.
pub const LEARNED_ADDRESSES: usize = 1000;
/// Names remembered for one address: virtual hosts behind one balancer.
pub const NAMES_PER_ADDRESS: usize = 16;
/// Name servers that are taken from a resolv.conf; resolv.conf(5) has three, Kubernetes allows as many.
pub const NAMESERVERS: usize = 8;
/// How long a DNS connection may stay without a question (RFC 7766 suggests seconds).
pub const DNS_IDLE: Duration = Duration::from_secs(10);
/// Ports inside the session netns for our own sockets: above ip_local_port_range, so that programs do not get them by chance.
pub const RELAY_PORTS: std::ops::RangeInclusive<u16> = 61_001..=65_000;
/// Connections that may wait in the relay listener; the kernel cuts it at net.core.somaxconn.
pub const LISTEN_BACKLOG: i32 = 4096;
/// First read size of a relay; grows to [`RELAY_CHUNK`] with the stream, so that an idle connection holds little.
pub const RELAY_CHUNK_MIN: usize = 16 << 10;
/// How long a relay waits for the agent to end a stream that both sides have finished.
pub const RELAY_END: Duration = Duration::from_secs(5);
/// How long a dialled far end waits for the program's connection to arrive at the relay; it arrives within microseconds.
pub const PREPARED: Duration = Duration::from_secs(10);
/// How often a held SYN's socket is looked at: a program that gave up must not keep a dial for long.
pub const HELD_CHECK: Duration = Duration::from_millis(500);
/// Unreachable verdicts come this long after the packet: at once, connect(2) may still own the socket and then misses the error.
pub const UNREACHABLE_DELAY: Duration = Duration::from_micros(1500);
/// Pause after an error of the packet queue, so that a lasting one does not spin.
pub const QUEUE_RETRY: Duration = Duration::from_millis(20);
/// Timed-out flows that are remembered, so that their SYNs are not dialled again.
pub const SILENT_FLOWS: usize = 4096;
/// Sockets whose makers are remembered, for events; 2 MiB. More than a program may have open at a time by default (ulimit -n).
pub const SOCKET_OWNERS: usize = 16_384;
/// How often forgotten things (prepared far ends, silent flows) are swept out.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Relay sockets of UDP, one per destination; far fewer than [`RELAY_PORTS`].
pub const UDP_RELAYS: usize = 1024;
/// UDP flows that are open at a time.
pub const UDP_ASSOCIATIONS: usize = 4096;
/// A UDP flow without datagrams for so long ends; home routers take 30 s and more.
pub const UDP_IDLE: Duration = Duration::from_secs(60);
/// Largest UDP datagram.
pub const DATAGRAM: usize = 65_535;
/// How often the kernel's list of listening sockets is compared with ours: finds what the events missed.
pub const LISTENER_SCAN: Duration = Duration::from_secs(1);
/// Bytes of a mirrored connection that wait for the local process; beyond this it counts as not reading and loses the rest.
pub const MIRROR_BYTES: usize = 8 << 20;
/// Pieces of a mirrored connection that wait for the local process; segments may be small.
pub const MIRROR_ITEMS: usize = 4096;
/// Mirrored connections that are followed at a time.
pub const MIRROR_CONNECTIONS: usize = 16_384;
/// Pause after a failed accept(2) on the host's loopback (usually: out of descriptors).
pub const PUBLISH_RETRY: Duration = Duration::from_millis(100);
/// Requests queued for the task that owns the ports; when full the asker waits.
pub const PORT_REQUESTS: usize = 256;
/// What agents say about ports that waits for the task that owns them; when full, the agents' streams wait.
pub const AGENT_SAYINGS: usize = 64;
/// Deadline of a mode change: the agent changes a rule or a filter, which takes milliseconds.
pub const MODE_TIMEOUT: Duration = Duration::from_secs(10);
// ---- layer

/// Messages from the supervisor that wait for the driver; when full the link is not read, and the supervisor drops reports.
pub const LAYER_MESSAGES: usize = 1024;
/// Path calls in flight. Each blocks one thread of the command.
pub const LAYER_CALLS: usize = 4096;
/// Remote files whose copy is kept, so that stat(2), open(2) and fstat(2) agree on its identity. Each is a descriptor.
pub const KEPT_COPIES: usize = 128;
/// Bytes of such copies.
pub const KEPT_COPY_BYTES: u64 = 64 << 20;
/// Largest remote file that is copied to a temporary file where FUSE is not available; opening a larger one fails with EFBIG.
pub const SPOOL_BYTES: u64 = 1 << 30;
/// One read when a file is copied or served: the agent's largest.
pub const FILE_CHUNK: u32 = 1 << 20;
/// Entries of a remote directory that are handed out; opening a larger one fails with EOVERFLOW. A name costs about 200 bytes.
pub const DIRECTORY_ENTRIES: u64 = 250_000;
/// Entries that are asked for at a time.
pub const DIRECTORY_CHUNK: u32 = 4096;
/// How long a descriptor on a served file may take to open.
pub const SERVED_OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests of the kernel that are worked on at a time by the file server; further ones wait in the kernel.
pub const SERVED_REQUESTS: usize = 64;
/// Processes of the tree that viewers are shown; those that run are never left out.
pub const PROCESSES_LISTED: usize = 256;
/// How often counts and ports are published while they change.
pub const STATUS_TICK: Duration = Duration::from_millis(500);
/// How long the layer may take to say that the tree is empty after the command has ended; it does so at once when nothing is left.
pub const TREE_SETTLE: Duration = Duration::from_millis(100);
/// How often a killed agent is started again: once; the second time something is after it.
pub const AGENT_RESTARTS: u32 = 1;
/// How long giving the ports back may take: one round trip per port, all at once.
pub const RELEASE_PORTS: Duration = Duration::from_secs(2);
/// How long the tree may take to be gone after SIGKILL; longer only when a process hangs in the kernel.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// How long supervisor and holder may take to end once their links are closed, [`ORPHANS_STOP`] included.
pub const HELPERS_STOP: Duration = Duration::from_secs(3);
/// What a step of the shutdown may take longer than the deadline that it has itself.
pub const SHUTDOWN_SLACK: Duration = Duration::from_secs(1);
/// How long a replayed request may take.
pub const REPLAY_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of viewers that wait for the driver; it answers each within microseconds.
pub const COMMANDS: usize = 32;
/// How long the host stays for its last viewers after the session has ended, so that they can ask for the last numbers.
pub const VIEWER_LINGER: Duration = Duration::from_secs(2);
/// Calls and streams that one viewer may have open: a UI has about five.
pub const VIEWER_STREAMS: u32 = 100;
/// How long the server may take to close the connections of viewers that stay on.
pub const VIEWER_STOP: Duration = Duration::from_millis(500);
/// Pause after a failed accept(2), so that a host without descriptors does not spin.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Output of a command's terminal kept for viewers that come later.
pub const TERMINAL_BYTES: usize = 4 << 20;
/// Reports of the layer that wait for the driver; it takes each within microseconds, and the layer waits when it does not.
pub const LAYER_EVENTS: usize = 256;
/// Ends of agents and holder that wait for the driver; there are at most three in a session.
pub const ENDED_QUEUE: usize = 4;
/// How long the agent may take to say that it goes; it is ended in any case.
pub const AGENT_GOODBYE: Duration = Duration::from_millis(500);
/// Connections of the command to unix sockets of the target at a time.
pub const UNIX_RELAYS: usize = 256;
/// Stops that wait for the driver; more than one means "now".
pub const STOPS: usize = 4;
/// How long tasks that block may keep the host from ending; they hold nothing that matters by then.
pub const RUNTIME_STOP: Duration = Duration::from_millis(200);
/// Most threads of the host's runtime: its work is mostly waiting. One alone falls behind on a busy machine (BENCHMARKS.md, "One thread for
/// host and agent").
pub const HOST_THREADS: usize = 8;
/// glibc's allocator in a session host: buffers of relays stay in the heap instead of being unmapped and faulted in again for every
/// chunk (3 GiB relayed: 10 000 instead of 200 000 page faults, 15 % less CPU), and at most 16 MiB of it lie idle per arena.
pub const HOST_ALLOCATOR: &str = "glibc.malloc.trim_threshold=16777216:glibc.malloc.mmap_threshold=4194304";
/// How long what is left of the process tree may take to be gone after SIGKILL.
pub const ORPHANS_STOP: Duration = Duration::from_secs(1);
/// How often it is looked at meanwhile.
pub const ORPHANS_LOOK: Duration = Duration::from_millis(5);
/// Bytes of the target's /etc/hosts that are read for a program.
pub const HOSTS_FILE: u64 = 256 << 10;
/// Names of a search list that are tried for one name, as in libc (MAXDNSRCH of resolv.h).
pub const SEARCHED: usize = 6;
/// Sockets of programs whose addresses are remembered where there is no session netns; the oldest is forgotten first.
pub const REWRITTEN_SOCKETS: usize = 16_384;
/// For a handshake on this machine's loopback, which takes microseconds.
pub const PAIR: Duration = Duration::from_secs(5);
/// Folders that stand in for directories of the target where no file system can be made; an older one is taken for read to its end.
pub const KEPT_FOLDERS: usize = 256;
