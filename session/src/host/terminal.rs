//! The terminal of a command that runs without one of its user's: a pseudo-terminal whose output is kept, within bounds, for
//! viewers that come later, and shown to those that are there.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rustix::{
    fs::{Mode, OFlags, open},
    io::{Errno, ioctl_fionbio},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

use crate::{async_fd, limits::TERMINAL_BYTES};

/// Our end of a pseudo-terminal; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    master: AsyncFd<OwnedFd>,
    output: Mutex<Output>,
    /// the pump --more output--> viewers
    changed: Notify,
}

/// The last bytes that were printed.
#[derive(Debug, Default)]
struct Output {
    chunks: VecDeque<Bytes>,
    held: usize,
    /// Number of the first chunk.
    first: u64,
    ended: bool,
}

impl Terminal {
    /// A new terminal of this size, and the end for the command.
    ///
    /// # Errors
    /// When the machine has no pseudo-terminals left.
    pub(crate) fn open(columns: u16, rows: u16) -> io::Result<(Self, OwnedFd)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let command_end = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        tcsetwinsize(&master, winsize(columns, rows))?;
        ioctl_fionbio(&master, true)?;
        let master = async_fd::watch(master)?;
        let shared = Shared { master, output: Mutex::default(), changed: Notify::new() };
        Ok((Self { shared: Arc::new(shared) }, command_end))
    }

    /// Reads what is printed until nobody holds the other end any more.
    pub(crate) async fn pump(self) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = self
                .shared
                .master
                .async_io(Interest::READABLE, |master| {
                    rustix::io::read(master, &mut *buffer).map_err(Into::into)
                })
                .await;
            match read {
                Ok(read) if read > 0 => {
                    self.output().push(Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default()));
                    self.shared.changed.notify_waiters();
                }
                // EIO: every descriptor of the other end is closed.
                Ok(_) | Err(_) => break,
            }
        }
        self.end();
    }

    /// Nothing more will be printed.
    pub(crate) fn end(&self) {
        self.output().ended = true;
        self.shared.changed.notify_waiters();
    }

    /// Types.
    pub(crate) async fn input(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = self
                .shared
                .master
                .async_io(Interest::WRITABLE, |master| rustix::io::write(master, bytes).map_err(Into::into))
                .await;
            match written {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                // Nobody reads any more.
                Err(_) => return,
            }
        }
    }

    pub(crate) fn resize(&self, columns: u32, rows: u32) {
        let size = |value| u16::try_from(value).unwrap_or(u16::MAX);
        match tcsetwinsize(self.shared.master.get_ref(), winsize(size(columns), size(rows))) {
            Ok(()) | Err(Errno::IO) => {}
            Err(error) => tracing::warn!(%error, "the terminal cannot be resized"),
        }
    }

    /// A reader that begins with what is kept.
    pub(crate) fn read(&self) -> TerminalReader {
        TerminalReader { shared: Arc::clone(&self.shared), next: 0 }
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.shared.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    fn push(&mut self, chunk: Bytes) {
        self.held += chunk.len();
        self.chunks.push_back(chunk);
        while self.held > TERMINAL_BYTES {
            let Some(oldest) = self.chunks.pop_front() else { return };
            self.held -= oldest.len();
            self.first += 1;
        }
    }

    /// The chunk with this number, or the oldest that is kept, and the number behind it.
    fn chunk(&self, number: u64) -> Option<(Bytes, u64)> {
        let number = number.max(self.first);
        let index = usize::try_from(number - self.first).ok()?;
        self.chunks.get(index).map(|chunk| (chunk.clone(), number + 1))
    }
}

/// Position in the output of a terminal. A slow reader skips what is not kept any more.
#[derive(Debug)]
pub(crate) struct TerminalReader {
    shared: Arc<Shared>,
    next: u64,
}

impl TerminalReader {
    /// The next piece of output; `None` at its end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            {
                let output = self.shared.output.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((chunk, next)) = output.chunk(self.next) {
                    self.next = next;
                    return Some(chunk);
                }
                if output.ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
    };

    use rustix::termios::tcgetwinsize;

    use super::*;

    #[tokio::test]
    async fn what_is_printed_is_shown_and_what_is_typed_arrives() {
        let (terminal, command_end) = Terminal::open(80, 24).unwrap();
        let mut command = File::from(command_end);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(terminal.clone().pump());
        command.write_all(b"hello\n").unwrap();
        let mut reader = terminal.read();
        assert_eq!(reader.next().await.unwrap(), "hello\r\n");
        terminal.resize(132, 50);
        assert_eq!(tcgetwinsize(&command).unwrap().ws_col, 132);
        terminal.input(b"typed\n").await;
        let mut typed = [0; 6];
        command.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"typed\n");
        drop(command);
        tasks.join_next().await.unwrap().unwrap();
        let mut late = terminal.read();
        let mut all = Vec::new();
        while let Some(chunk) = late.next().await {
            all.extend_from_slice(&chunk);
        }
        assert_eq!(all, b"hello\r\ntyped\r\n", "kept, with the echo");
    }

    #[test]
    fn the_output_is_bounded() {
        let mut output = Output::default();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        (0..9).for_each(|_| output.push(chunk.clone()));
        assert_eq!((output.held, output.first), (TERMINAL_BYTES, 5));
        assert_eq!(output.chunk(0).map(|(_, next)| next), Some(6));
        assert!(output.chunk(9).is_none());
    }
}
