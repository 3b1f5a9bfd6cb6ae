//! When and why the agent ends, and the token by which everything in it learns that.
//!
//! ```text
//! running --signal | Shutdown call | idle | target ended | starter gone--> ending --all tasks joined or grace over--> exit
//! ```

use std::{
    fmt, io,
    os::fd::AsFd,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{UnixStream, unix::pipe::Receiver},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{args::Args, target::Target};

/// Why the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// The client asked for it.
    Shutdown,
    /// No client for the idle timeout.
    Idle,
    /// The target's process has ended.
    TargetEnded,
    /// Standard input has ended, so the starter is gone.
    StarterGone,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "the agent was told to end by a signal",
            Self::Shutdown => "the session has ended",
            Self::Idle => "no client has been connected for the idle timeout",
            Self::TargetEnded => "the target's process has ended",
            Self::StarterGone => "the process that started the agent is gone",
        })
    }
}

/// Shared by everything that must know that the agent ends. Clones mean the same life.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    ending: CancellationToken,
    why: Arc<OnceLock<End>>,
    /// transport --number of clients with the token--> [`Life::watch`]
    clients: watch::Sender<usize>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { ending: CancellationToken::new(), why: Arc::default(), clients: watch::Sender::new(0) }
    }

    /// Cancelled when the agent ends.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Why, once it ends.
    pub(crate) fn why(&self) -> Option<End> {
        self.why.get().copied()
    }

    /// The first reason counts.
    pub(crate) fn end(&self, why: End) {
        if self.why.set(why).is_ok() {
            tracing::info!(reason = %why, "the agent ends");
        }
        self.ending.cancel();
    }

    /// Counts a client as long as the guard lives.
    pub(crate) fn client(&self) -> ClientGuard {
        self.clients.send_modify(|clients| *clients += 1);
        ClientGuard(self.clients.clone())
    }

    /// Waits for the first reason to end and says it to everybody.
    pub(crate) async fn watch(
        &self,
        mut signals: Signals,
        target: &Target,
        idle: Duration,
        stdin: Stdin,
    ) -> io::Result<()> {
        // Reasons that are certain come before the timer, which a late client could still have stopped.
        let why = tokio::select! {
            biased;
            () = self.ending.cancelled() => return Ok(()),
            () = signals.received() => End::Signal,
            ended = target.ended() => { ended?; End::TargetEnded }
            ended = stdin.ended(), if stdin != Stdin::Ignored => { ended?; End::StarterGone }
            () = self.idle(idle) => End::Idle,
        };
        self.end(why);
        Ok(())
    }

    async fn idle(&self, idle: Duration) {
        let mut clients = self.clients.subscribe();
        loop {
            // We hold a sender ourselves, so the channel cannot be closed.
            drop(clients.wait_for(|clients| *clients == 0).await);
            if timeout(idle, clients.wait_for(|clients| *clients > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// A connected client; see [`Life::client`].
#[derive(Debug)]
pub(crate) struct ClientGuard(watch::Sender<usize>);

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.0.send_modify(|clients| *clients = clients.saturating_sub(1));
    }
}

/// The signals that end the agent. Until it is made they end the process at once.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A stream of replies that ends with the agent: a client that keeps its calls open must not delay the end.
pub(crate) struct UntilEnd<S> {
    replies: S,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> UntilEnd<S> {
    pub(crate) fn new(replies: S, life: &Life) -> Self {
        Self { replies, ending: Box::pin(life.ending().clone().cancelled_owned()) }
    }
}

impl<S: Stream + Unpin> Stream for UntilEnd<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.get_mut();
        match Pin::new(&mut this.replies).poll_next(cx) {
            Poll::Pending => this.ending.as_mut().poll(cx).map(|()| None),
            ready => ready,
        }
    }
}

/// What standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// Nothing that matters.
    Ignored,
    /// A pipe whose end is the starter's.
    Pipe,
    /// A socket whose end is the starter's.
    Socket,
}

impl Stdin {
    pub(crate) const fn of(args: &Args) -> Self {
        match (args.end_with_stdin, args.hand_over) {
            (false, _) => Self::Ignored,
            (true, false) => Self::Pipe,
            (true, true) => Self::Socket,
        }
    }

    /// Returns when every holder of the other end is gone. What is written there is thrown away.
    async fn ended(self) -> io::Result<()> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let mut stdin: Box<dyn AsyncRead + Send + Unpin> = match self {
            Self::Ignored => return std::future::pending().await,
            Self::Pipe => Box::new(Receiver::from_owned_fd(stdin)?),
            Self::Socket => {
                let socket = std::os::unix::net::UnixStream::from(stdin);
                socket.set_nonblocking(true)?;
                Box::new(UnixStream::from_std(socket)?)
            }
        };
        let mut buffer = [0; 64];
        while stdin.read(&mut buffer).await? > 0 {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_last_client() {
        let life = Life::new();
        let client = life.client();
        let second = life.client();
        let idle = life.idle(Duration::from_secs(5));
        tokio::pin!(idle);
        assert!(timeout(Duration::from_secs(60), &mut idle).await.is_err());
        drop(client);
        assert!(timeout(Duration::from_secs(60), &mut idle).await.is_err());
        drop(second);
        assert!(timeout(Duration::from_secs(4), &mut idle).await.is_err());
        assert!(timeout(Duration::from_secs(2), &mut idle).await.is_ok());
    }

    #[test]
    fn the_first_reason_counts() {
        let life = Life::new();
        life.end(End::Shutdown);
        life.end(End::Idle);
        assert_eq!(life.why(), Some(End::Shutdown));
        assert!(life.ending().is_cancelled());
    }
}
