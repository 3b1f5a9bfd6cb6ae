//! Passive capture of some TCP ports in the current network namespace: a TPACKET_V3 ring shared with the kernel.
//!
//! Both directions, IPv4 and IPv6, from the IP header on, on all interfaces or some. Packets on `lo` come once.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use thiserror::Error;

use self::ring::Ring;
use crate::{
    bytes::{index, ne16, ne32},
    limits::{
        CAPTURE_BLOCK, CAPTURE_BLOCKS, CAPTURE_BLOCKS_MOST, CAPTURE_INTERFACES, CAPTURE_PORTS,
        CAPTURE_RETIRE_MS,
    },
    netlink, sys,
};

mod filter;
mod ring;

/// tpacket_versions: TPACKET_V3.
const VERSION_3: libc::c_int = 2;
/// Only a formal unit in version 3: packets lie one behind the other in a block.
const FRAME: u32 = 2048;
/// sizeof(struct tpacket3_hdr); the address (struct sockaddr_ll) follows.
const HEADER: usize = 48;
/// The packet is being sent (PACKET_OUTGOING).
const OUTGOING: u8 = 4;

/// Why capture fails.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// A step of the set-up or of reading.
    #[error("packet capture cannot {operation}")]
    Step {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// More than one filter program can hold.
    #[error("one capture can watch at most {CAPTURE_PORTS} ports on {CAPTURE_INTERFACES} interfaces")]
    TooMany,
}

/// How a ring is made.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Blocks of 1 MiB, 2..=64: what may pile up before packets are dropped (and counted).
    pub blocks: u32,
    /// Indexes of the interfaces; empty: all, those that come later included.
    pub interfaces: Vec<u32>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self { blocks: CAPTURE_BLOCKS, interfaces: Vec::new() }
    }
}

/// One captured packet, valid while the block is read.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Sent by this namespace. Always false on `lo`, where every packet is both.
    pub outgoing: bool,
    /// Index of the interface; 1 is `lo`.
    pub interface: u32,
    /// From the IP header on.
    pub ip: &'a [u8],
    /// Length on the wire; more than `ip.len()` when it was cut off.
    pub wire_len: usize,
}

/// Counters since the last time they were asked for (the kernel resets them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets that passed the filter, dropped ones included.
    pub packets: u32,
    /// Packets that found the ring full.
    pub drops: u32,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    ring: Ring,
    interfaces: Vec<u32>,
}

impl Capture {
    /// Starts in the current namespace (see [`crate::ns::in_thread_netns`]); may be read from any thread afterwards.
    ///
    /// # Errors
    /// [`CaptureError`]; EPERM without CAP_NET_RAW.
    pub fn open(options: &CaptureOptions, ports: &[u16]) -> Result<Self, CaptureError> {
        // Protocol 0: nothing is received before bind, that is before the filter is in place.
        let socket =
            rustix::net::socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| step("open a packet socket")(error.into()))?;
        let blocks = options.blocks.clamp(2, CAPTURE_BLOCKS_MOST);
        sys::set_int(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, VERSION_3)
            .map_err(step("choose TPACKET_V3"))?;
        // struct tpacket_req3: block size and number, frame size and number, timeout, private size, features.
        let request = [CAPTURE_BLOCK, blocks, FRAME, CAPTURE_BLOCK / FRAME * blocks, CAPTURE_RETIRE_MS, 0, 0];
        let request: Vec<u8> = request.iter().flat_map(|field| field.to_ne_bytes()).collect();
        sys::set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
            .map_err(step("make a ring"))?;
        let ring =
            Ring::map(socket.as_fd(), index(CAPTURE_BLOCK), index(blocks)).map_err(step("map its ring"))?;
        let capture = Self { socket, ring, interfaces: options.interfaces.clone() };
        capture.set_ports(ports)?;
        sys::bind_packet_socket(&capture.socket).map_err(step("start"))?;
        Ok(capture)
    }

    /// Replaces the ports; packets of the others that are in the ring already still come.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn set_ports(&self, ports: &[u16]) -> Result<(), CaptureError> {
        if ports.len() > CAPTURE_PORTS || self.interfaces.len() > CAPTURE_INTERFACES {
            return Err(CaptureError::TooMany);
        }
        let program = filter::program(ports, &self.interfaces);
        sys::attach_filter(&self.socket, &program).map_err(step("attach its filter"))
    }

    /// Waits for a block. False: none came in time.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, CaptureError> {
        Ok(self.ring.is_ready()
            || netlink::wait_readable(self.socket.as_fd(), timeout).map_err(step("wait for packets"))?)
    }

    /// Reads one block and gives it back to the kernel; returns the number of frames, `None` when no block is full. Never waits.
    /// A block is full 5 ms after its first packet at the latest.
    pub fn next_block(&mut self, mut frame: impl FnMut(Frame<'_>)) -> Option<usize> {
        self.ring.take(|block| {
            let mut count = 0;
            for packet in Packets::of(block) {
                frame(packet);
                count += 1;
            }
            count
        })
    }

    /// What was counted since the last call.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn statistics(&self) -> Result<Statistics, CaptureError> {
        // struct tpacket_stats_v3: packets, drops, times that the ring was found full.
        let mut bytes = [0; 12];
        sys::option(&self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut bytes)
            .map_err(step("read its counters"))?;
        Ok(Statistics { packets: ne32(&bytes, 0).unwrap_or(0), drops: ne32(&bytes, 4).unwrap_or(0) })
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn step(operation: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::Step { operation, source }
}

/// Walks over the packets of a full block (struct tpacket_block_desc).
struct Packets<'a> {
    block: &'a [u8],
    offset: usize,
    left: u32,
}

impl<'a> Packets<'a> {
    fn of(block: &'a [u8]) -> Self {
        let left = ne32(block, 12).unwrap_or(0);
        Self { block, offset: index(ne32(block, 16).unwrap_or(0)), left }
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        self.left = self.left.checked_sub(1)?;
        let packet = self.block.get(self.offset..)?;
        self.offset += index(ne32(packet, 0)?);
        let captured = index(ne32(packet, 12)?);
        let start = usize::from(ne16(packet, 26)?);
        Some(Frame {
            time_ns: u64::from(ne32(packet, 4)?) * 1_000_000_000 + u64::from(ne32(packet, 8)?),
            outgoing: *packet.get(HEADER + 10)? == OUTGOING,
            interface: ne32(packet, HEADER + 4)?,
            ip: packet.get(start..start + captured)?,
            wire_len: index(ne32(packet, 16)?),
        })
    }
}
