//! Every bound and deadline of this crate, with its unit and its reason.

use std::time::Duration;

/// How long the kernel may take to answer on a netlink socket. It answers within the call; loading a module may take longer.
pub const NETLINK_REPLY: Duration = Duration::from_secs(5);
/// Read buffer of netlink sockets: the kernel fills at most this much per datagram of a dump (NLMSG_GOODSIZE of 32 KiB).
pub const NETLINK_BUFFER: usize = 32 << 10;
/// A dump whose table changed meanwhile is taken again, so often at most; the last one is then taken as it is.
pub const DUMP_ATTEMPTS: usize = 5;
/// How long the holder of the session netns may take to answer; it does one or two system calls.
pub const HOLDER_REPLY: Duration = Duration::from_secs(5);
/// Endpoints that the holder serves: the host's, the supervisor's and spare ones for a restarted supervisor.
pub const HOLDER_ENDPOINTS: usize = 16;
/// Descriptors in one datagram of a [`crate::seqpacket::SeqPacket`]; the kernel's own bound is 253. The most that
/// is sent at once: the 32 published ports of a local pod and its specification.
pub const DESCRIPTORS: usize = 40;
/// Bytes of each held packet that are copied to us: the largest headers that we read, not the payload.
pub const QUEUE_COPY: u32 = 128;
/// Held packets; one per connection attempt in flight. The kernel's default of 1024 was reached by load tests.
pub const QUEUE_PACKETS: u32 = 16_384;
/// Packets taken from the queue in one go before their verdicts are given.
pub const QUEUE_BATCH: usize = 256;
/// IPv6 extension headers that the parser follows. Linux itself sends one at most.
pub const IPV6_EXTENSIONS: usize = 8;
/// Receive buffer of the queue's and the event sockets, a wish: the kernel cuts it at net.core.rmem_max.
pub const EVENT_BUFFER: usize = 4 << 20;
/// Ports of one capture: the filter program has four instructions for each and may have 4096 in all.
pub const CAPTURE_PORTS: usize = 512;
/// Interfaces of one capture that does not watch all.
pub const CAPTURE_INTERFACES: usize = 64;
/// Largest packet that capture keeps whole: GRO gives packets of up to 64 KiB, and the cut is visible.
pub const CAPTURE_BYTES: u32 = 256 << 10;
/// Bytes of one block of the capture ring; must hold the largest packet.
pub const CAPTURE_BLOCK: u32 = 1 << 20;
/// Blocks of the capture ring when the caller has no opinion: 8 MiB lost nothing at 90 000 requests/s.
pub const CAPTURE_BLOCKS: u32 = 8;
/// Most blocks: 64 MiB of kernel memory is charged to nobody, so it must stay small beside the node's.
pub const CAPTURE_BLOCKS_MOST: u32 = 64;
/// A block that is not full is handed over after this many milliseconds: the delay that a mirror adds.
pub const CAPTURE_RETIRE_MS: u32 = 5;
/// How long one probe may take before it counts as failed. Each takes less than 10 ms on an idle machine.
pub const PROBE: Duration = Duration::from_secs(2);
