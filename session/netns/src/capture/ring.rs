//! The memory that a packet socket shares with us: blocks whose status word says who may touch them (packet_mmap.rst).
#![expect(unsafe_code, reason = "maps the kernel's ring and makes slices of its blocks")]

use std::{
    ffi::c_void,
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Offset of block_status in struct tpacket_block_desc.
const STATUS: usize = 8;
/// The block belongs to the kernel.
const KERNEL: u32 = 0;
/// The block belongs to us, when this bit is set (TP_STATUS_USER).
const USER: u32 = 1;

/// The mapped ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<c_void>,
    block: usize,
    blocks: usize,
    next: usize,
}

// SAFETY: `Ring` owns its mapping as a Box owns its memory, and a mapping belongs to the process and not to a thread; shared access
// only reads the atomic status word, and blocks are read through `&mut self` alone.
unsafe impl Send for Ring {}
// SAFETY: as above: `&Ring` gives nothing but an atomic load.
unsafe impl Sync for Ring {}

impl Ring {
    /// Maps the ring of `socket`, which must have been made with this geometry.
    pub(super) fn map(socket: BorrowedFd<'_>, block: usize, blocks: usize) -> io::Result<Self> {
        let len = block * blocks;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: mmap(2) with a null hint chooses free addresses, so no memory of ours is replaced; the kernel checks that `len` is
        // the size of the socket's ring.
        let memory = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, socket, 0) }?;
        let memory = NonNull::new(memory).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { memory, block, blocks, next: 0 })
    }

    /// The next block is full.
    pub(super) fn is_ready(&self) -> bool {
        self.status().load(Ordering::Acquire) & USER != 0
    }

    /// Gives the next block to `read` when it is full, and then back to the kernel.
    pub(super) fn take<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if !self.is_ready() {
            return None;
        }
        let start = self.block_start();
        // SAFETY: `start` points to `block` bytes of the mapping, which lives as long as `self`. The kernel does not write to a block
        // whose status says user (the load above is an acquire), and nobody else has a slice of it because of `&mut self`.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.block) };
        let result = read(bytes);
        self.status().store(KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.blocks;
        Some(result)
    }

    fn status(&self) -> &AtomicU32 {
        let start = self.block_start();
        // SAFETY: the status word lies within the block, far from its end; see `block_start`.
        let word = unsafe { start.add(STATUS) };
        // SAFETY: the word is aligned (blocks are page-aligned, STATUS is a multiple of 4), lives as long as `self`, and is the one
        // place that kernel and process both write, always as a whole word.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    fn block_start(&self) -> NonNull<u8> {
        // SAFETY: `next` is less than `blocks` (see `take`), so the result stays within the mapping of `block * blocks` bytes.
        unsafe { self.memory.cast::<u8>().add(self.next * self.block) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and no slice of it outlives `take`.
        let unmapped = unsafe { munmap(self.memory.as_ptr(), self.block * self.blocks) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping");
    }
}
