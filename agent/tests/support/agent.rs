//! The agent's executable as a child, and a client for it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use mirrord_protocol::{
    TOKEN_METADATA,
    agent::v1::{
        self as wire, Mode, PortStatus, SubscriptionAck, SubscriptionReply, SubscriptionRequest,
        agent_client::AgentClient, subscription_reply,
    },
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

/// No test waits longer for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
const TOKEN: &str = "a-token-for-tests";

/// The generated client with a token.
pub(crate) type Client = AgentClient<InterceptedService<Channel, Token>>;

/// Puts a token on every call.
#[derive(Clone)]
pub(crate) struct Token(&'static str);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            request.metadata_mut().insert(TOKEN_METADATA, self.0.parse().unwrap());
        }
        Ok(request)
    }
}

/// A running agent. It is killed with the value.
pub(crate) struct Agent {
    pub(crate) child: Child,
    folder: TempDir,
}

impl Agent {
    /// Starts one beside a process; returns when it is ready.
    pub(crate) fn start(pid: u32) -> Self {
        Self::start_with(pid, &["--idle-timeout", "30"])
    }

    pub(crate) fn start_with(pid: u32, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(executable())
            .arg("--listen")
            .arg(format!("unix:{}", socket(folder.path()).display()))
            .args(["--target-pid", &pid.to_string()])
            .args(options)
            .args(["--token-sha256", &format!("{:x}", Sha256::digest(TOKEN))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_with(TOKEN).await
    }

    pub(crate) async fn client_with(&self, token: &'static str) -> Client {
        let path = self.socket();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent")
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20)
            .connect_with_connector(connector)
            .await
            .unwrap();
        AgentClient::with_interceptor(channel, Token(token)).max_decoding_message_size(16 << 20)
    }

    /// Its status once it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent did not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

fn executable() -> PathBuf {
    std::env::var_os("MIRRORD_AGENT_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mirrord-agent").into(), PathBuf::from)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("agent.sock")
}

/// A Subscriptions call.
pub(crate) struct Subscriptions {
    requests_tx: mpsc::Sender<SubscriptionRequest>,
    replies: Streaming<SubscriptionReply>,
    last_id: u64,
}

impl Subscriptions {
    pub(crate) async fn open(client: &mut Client) -> Self {
        let (requests_tx, requests_rx) = mpsc::channel(8);
        let replies = client.subscriptions(ReceiverStream::new(requests_rx)).await.unwrap().into_inner();
        Self { requests_tx, replies, last_id: 0 }
    }

    /// Sets a mode and waits until it holds.
    pub(crate) async fn set(&mut self, port: u16, mode: Mode) {
        let ack = self.try_set(port.into(), mode).await;
        assert_eq!((ack.error.as_str(), ack.mode()), ("", mode));
    }

    pub(crate) async fn try_set(&mut self, port: u32, mode: Mode) -> SubscriptionAck {
        self.last_id += 1;
        let request = SubscriptionRequest { id: self.last_id, port, mode: mode.into() };
        self.requests_tx.send(request).await.unwrap();
        loop {
            if let subscription_reply::Kind::Ack(ack) = self.next().await {
                assert_eq!(ack.id, self.last_id);
                return ack;
            }
        }
    }

    /// Waits until a status of the port satisfies the condition.
    pub(crate) async fn until(&mut self, condition: impl Fn(&PortStatus) -> bool) -> PortStatus {
        loop {
            if let subscription_reply::Kind::Status(status) = self.next().await
                && condition(&status)
            {
                return status;
            }
        }
    }

    pub(crate) async fn notice(&mut self) -> wire::AgentNotice {
        loop {
            if let subscription_reply::Kind::Notice(notice) = self.next().await {
                return notice;
            }
        }
    }

    async fn next(&mut self) -> subscription_reply::Kind {
        let reply = timeout(LIMIT, self.replies.message()).await.expect("a reply in time");
        reply.unwrap().expect("the call goes on").kind.unwrap()
    }
}
