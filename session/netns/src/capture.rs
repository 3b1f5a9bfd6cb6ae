//! Passive capture of some TCP ports in the current network namespace: a TPACKET_V3 ring shared with the kernel.
//!
//! Both directions, IPv4 and IPv6, from the IP header on, on all interfaces or some. Packets on `lo` come once.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use thiserror::Error;

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
    /// More ports than one filter program can hold.
    #[error("one capture can watch at most {most} ports, not {asked}", most = crate::limits::CAPTURE_PORTS)]
    TooManyPorts {
        /// How many were wanted.
        asked: usize,
    },
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
        Self { blocks: crate::limits::CAPTURE_BLOCKS, interfaces: Vec::new() }
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
}

impl Capture {
    /// Starts in the current namespace (see [`crate::ns::in_thread_netns`]); may be read from any thread afterwards.
    ///
    /// # Errors
    /// [`CaptureError`]; EPERM without CAP_NET_RAW.
    pub fn open(options: &CaptureOptions, ports: &[u16]) -> Result<Self, CaptureError> {
        unimplemented!("{options:?} {ports:?}")
    }

    /// Replaces the ports; packets of the others that are in the ring already still come.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn set_ports(&self, ports: &[u16]) -> Result<(), CaptureError> {
        unimplemented!("{ports:?}")
    }

    /// Waits for a block. False: none came in time.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, CaptureError> {
        unimplemented!("{timeout:?}")
    }

    /// Reads one block and gives it back to the kernel; returns the number of frames, `None` when no block is full. Never waits.
    pub fn next_block(&mut self, frame: impl FnMut(Frame<'_>)) -> Option<usize> {
        let _ = frame;
        unimplemented!()
    }

    /// What was counted since the last call.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn statistics(&self) -> Result<Statistics, CaptureError> {
        unimplemented!()
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
