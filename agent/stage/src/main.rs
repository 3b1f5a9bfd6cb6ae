//! The first stage of the agent in a cluster: `stage DIR SHA256 ARGUMENTS...` joins DIR/part00, DIR/part01, ..., which ConfigMaps
//! bring, unpacks them into memory, checks the hash of the result and becomes that program, with ARGUMENTS.
//!
//! It runs in whatever image the node has: no libc, no shell, no writable folder, no /proc. About 25 kB, so that it and the agent
//! fit two ConfigMaps. Any failure is one line on standard error and exit code 111.
#![no_std]
#![no_main]

extern crate alloc;

mod bytes;
mod memory;
mod system;

use core::{fmt::Write, panic::PanicInfo};

use lzma_rust2::{LzmaReader, Read};
use sha2::{Digest, Sha256};

use crate::system::{Errno, File, Parts, say};

/// Largest dictionary that the agent may be packed with, and what its tables need.
const UNPACK_KIB: u32 = 16 << 10;
/// Unpacked bytes that are hashed and written at a time.
const CHUNK: usize = 64 << 10;
/// Exit code of all failures.
const FAILED: i32 = 111;

/// Why the agent cannot run.
#[derive(Debug)]
enum Failure {
    Usage,
    Part(usize, Errno),
    Unpack,
    Memory(&'static str, Errno),
    Hash,
    Execute(Errno),
}

/// What the kernel hands to a new program: argc, then the pointers to the arguments, a null, those to the environment, a null.
///
/// # Safety
/// `stack` must be the stack pointer with which the kernel started the program.
unsafe extern "C" fn start(stack: *mut usize) -> ! {
    // SAFETY: the caller passes the kernel's initial stack, whose layout and lifetime (the whole process) are those that
    // `Arguments::new` wants.
    let arguments = unsafe { system::Arguments::new(stack) };
    let failure = match run(arguments) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let mut line = system::Line::new();
    // Longer than the buffer: cut.
    let _ = match failure {
        Failure::Usage => write!(line, "usage: stage DIR SHA256 ARGUMENTS..."),
        Failure::Part(part, Errno(errno)) => {
            write!(line, "cannot read part {part} of the agent: errno {errno}")
        }
        Failure::Unpack => write!(line, "the parts of the agent do not make a whole"),
        Failure::Memory(what, Errno(errno)) => {
            write!(line, "cannot {what} the agent in memory: errno {errno}")
        }
        Failure::Hash => write!(line, "the agent is not the one that was sent: its hash differs"),
        Failure::Execute(Errno(errno)) => write!(line, "cannot execute the agent: errno {errno}"),
    };
    say(&line);
    system::exit(FAILED)
}

fn run(mut arguments: system::Arguments) -> Result<core::convert::Infallible, Failure> {
    let (Some(folder), Some(wanted)) = (arguments.get(1), arguments.get(2)) else {
        return Err(Failure::Usage);
    };
    let wanted = wanted.to_bytes();
    let file = File::in_memory().map_err(|errno| Failure::Memory("hold", errno))?;
    let mut parts = Parts::new(folder.to_bytes());
    let hash = match unpack(&mut parts, &file) {
        // What was read tells more than the decoder, which saw only its end.
        Err(_) if parts.failed.is_some() => {
            Err(parts.failed.map_or(Failure::Unpack, |(part, errno)| Failure::Part(part, errno)))
        }
        hash => hash,
    }?;
    if !is_hexadecimal_of(wanted, &hash) {
        return Err(Failure::Hash);
    }
    // The agent's own name in the place of the hash; the rest is the agent's.
    arguments.set(2, c"mirrord-agent");
    Err(Failure::Execute(file.execute(&arguments, 2)))
}

/// Writes what the parts hold to the file and gives its hash.
fn unpack(parts: &mut Parts, file: &File) -> Result<[u8; 32], Failure> {
    let mut reader = LzmaReader::new_mem_limit(parts, UNPACK_KIB, None).map_err(|_| Failure::Unpack)?;
    let mut hash = Sha256::new();
    let mut chunk = alloc::vec![0; CHUNK];
    loop {
        let read = reader.read(&mut chunk).map_err(|_| Failure::Unpack)?;
        let Some(unpacked) = chunk.get(..read).filter(|unpacked| !unpacked.is_empty()) else {
            return Ok(hash.finalize().into());
        };
        hash.update(unpacked);
        file.write(unpacked).map_err(|errno| Failure::Memory("write", errno))?;
    }
}

fn is_hexadecimal_of(text: &[u8], hash: &[u8; 32]) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied();
    text.len() == 64
        && text.chunks_exact(2).zip(hash).all(|(pair, byte)| {
            pair.first().copied() == digit(byte >> 4) && pair.get(1).copied() == digit(byte & 15)
        })
}

#[panic_handler]
fn panicked(_: &PanicInfo) -> ! {
    let mut line = system::Line::new();
    let _ = write!(line, "it broke down");
    say(&line);
    system::exit(FAILED)
}
