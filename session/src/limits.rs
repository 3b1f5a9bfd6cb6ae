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
/// Events held in memory for viewers that come later.
pub const RING_EVENTS: usize = 50_000;
/// Bytes held by the ring, bodies included.
pub const RING_BYTES: usize = 64 << 20;
/// Bytes kept of each body; the rest is counted.
pub const BODY_BYTES: usize = 256 << 10;
/// Rows queued for one viewer before rows are dropped and counted.
pub const VIEWER_QUEUE: usize = 4096;
/// One datagram between supervisor and host (layer.proto).
pub const LAYER_MESSAGE: usize = 64 << 10;
/// Largest remote file that is handed out as a memfd; larger ones are served by FUSE or spooled.
pub const MEMFD_BYTES: u64 = 1 << 20;
/// Read size of relays: one system call moves this much.
pub const RELAY_CHUNK: usize = 256 << 10;
/// Accept streams kept parked at the agent, so that a stolen connection costs no extra round trip.
pub const PARKED_ACCEPTS: usize = 8;
