//! The agent beside a real target: who may talk to it, what it says, environment, files, and when it ends.
#![allow(
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking, and each file uses its part of the support"
)]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use mirrord_protocol::agent::v1::{
    self as wire, Capability, EnvRequest, FileReply, FileRequest, HelloRequest, Mode, ShutdownRequest,
    file_reply::Result as Outcome, file_request::Op,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{
    TARGET_IP,
    agent::{Agent, Client, LIMIT, Subscriptions},
    in_node,
    target::Target,
};

#[test]
fn target_role() {
    support::target::role();
}

const HELLO: HelloRequest = HelloRequest { protocol_version: 1, client_version: String::new() };

#[test]
fn without_the_token_nothing_is_said() {
    in_node("without_the_token_nothing_is_said", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mode = std::fs::metadata(agent.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner only");
        for token in ["", "wrong", "a-token-for-testz"] {
            let mut client = agent.client_with(token).await;
            assert_eq!(client.hello(HELLO).await.unwrap_err().code(), Code::Unauthenticated, "{token}");
            assert_eq!(client.env(EnvRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
            let files = client.files(tokio_stream::empty()).await;
            assert_eq!(files.unwrap_err().code(), Code::Unauthenticated);
            assert_eq!(client.shutdown(ShutdownRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
        }
        assert!(agent.client().await.hello(HELLO).await.is_ok());
    });
}

#[test]
fn hello_and_environment() {
    in_node("hello_and_environment", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let hello = client.hello(HELLO).await.unwrap().into_inner();
        assert_eq!(hello.protocol_version, 1);
        assert_eq!(&*hello.hostname, b"api-0");
        assert_eq!(hello.pid, target.pid());
        assert_eq!(hello.nameservers, [support::NODE_IP]);
        assert!(hello.limits.is_empty(), "{:?}", hello.limits);
        assert_eq!(hello.capabilities.len(), 6);
        let address: std::net::Ipv4Addr = TARGET_IP.parse().unwrap();
        let found = hello.addresses.iter().find(|found| *found.address == address.octets()).unwrap();
        assert_eq!((found.interface.as_str(), found.prefix_length), ("eth0", 24));
        let env = client.env(EnvRequest {}).await.unwrap().into_inner().entries;
        assert!(env.iter().any(|entry| &*entry.name == b"COLOUR" && &*entry.value == b"blue"));
        let old = HelloRequest { protocol_version: 0, ..HELLO };
        assert_eq!(client.hello(old).await.unwrap_err().code(), Code::FailedPrecondition);
    });
}

/// Not in a node: an ordinary user's agent has to join the target's user namespace itself, root's works from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_another_user_namespace() {
    let target = Target::start_alone();
    let agent = Agent::start(target.pid());
    let mut client = agent.client().await;
    let hello = client.hello(HELLO).await.unwrap().into_inner();
    assert_eq!(&*hello.hostname, b"api-0");
    assert!(hello.limits.is_empty(), "{:?}", hello.limits);
    let mut subscriptions = Subscriptions::open(&mut client).await;
    subscriptions.set(80, Mode::Steal).await;
    subscriptions.set(80, Mode::Mirror).await;
    let mut files = Files::open(&mut client).await;
    assert_eq!(files.get("/data/small", 1000).await.errno, 0);
}

/// A process of the same user in the same network: what needs capabilities is refused in words, the rest works.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_said() {
    let agent = Agent::start(std::process::id());
    let mut client = agent.client().await;
    let hello = client.hello(HELLO).await.unwrap().into_inner();
    let root = rustix::process::geteuid().is_root();
    assert_eq!(hello.capabilities.contains(&Capability::Steal.into()), root);
    assert_eq!(hello.limits.len(), if root { 0 } else { 2 });
    assert!(hello.capabilities.contains(&Capability::Files.into()));
    if !root {
        let mut subscriptions = Subscriptions::open(&mut client).await;
        for mode in [Mode::Mirror, Mode::Steal] {
            let ack = subscriptions.try_set(80, mode).await;
            assert_eq!(ack.mode(), Mode::Unspecified);
            assert!(ack.error.contains("CAP_NET_"), "{}", ack.error);
        }
    }
}

struct Files {
    requests_tx: mpsc::Sender<FileRequest>,
    replies: Streaming<FileReply>,
    last_id: u64,
}

impl Files {
    async fn open(client: &mut Client) -> Self {
        let (requests_tx, requests_rx) = mpsc::channel(64);
        let replies = client.files(ReceiverStream::new(requests_rx)).await.unwrap().into_inner();
        Self { requests_tx, replies, last_id: 0 }
    }

    async fn ask(&mut self, op: Op) -> FileReply {
        self.last_id += 1;
        self.requests_tx.send(FileRequest { id: self.last_id, op: Some(op) }).await.unwrap();
        let reply = timeout(LIMIT, self.replies.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.id, self.last_id);
        reply
    }

    async fn get(&mut self, path: &'static str, inline_limit: u32) -> FileReply {
        self.ask(Op::Open(wire::FileOpen { path: path.into(), inline_limit, ..wire::FileOpen::default() }))
            .await
    }

    async fn errno(&mut self, path: &'static str) -> i32 {
        self.get(path, 1000).await.errno.cast_signed()
    }
}

#[test]
fn files_below_the_targets_root() {
    in_node("files_below_the_targets_root", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut files = Files::open(&mut agent.client().await).await;

        let reply = files.get("/data/small", 1000).await;
        let Some(Outcome::Opened(opened)) = reply.result else { panic!("{reply:?}") };
        assert!(opened.inline && &*opened.content == b"small content");
        assert_eq!(reply.stat.unwrap().size, 13);
        let reply = files.get("/data/inside", 1000).await;
        assert!(
            matches!(reply.result, Some(Outcome::Opened(opened)) if opened.content.starts_with(b"nameserver"))
        );

        for path in ["/data/outside", "/../../../../../etc/passwd", "/etc/passwd", "/nothing"] {
            assert_eq!(files.errno(path).await, libc::ENOENT, "{path}");
        }
        assert_eq!(files.errno("/data/small/x").await, libc::ENOTDIR);
        assert_eq!(files.errno("/run/echo.sock").await, libc::ENXIO);

        let Some(Outcome::Opened(opened)) = files.get("/data/large", 1000).await.result else { panic!() };
        let (mut content, handle) = (Vec::new(), opened.handle);
        loop {
            let read = wire::FileRead { handle, offset: content.len() as u64, length: 1 << 20 };
            let Some(Outcome::Data(data)) = files.ask(Op::Read(read)).await.result else { panic!() };
            if data.is_empty() {
                break;
            }
            content.extend_from_slice(&data);
        }
        assert_eq!(content, vec![b'L'; 3 << 20]);
        assert_eq!(files.ask(Op::Close(wire::FileClose { handle })).await.errno, 0);
        let again = files.ask(Op::Close(wire::FileClose { handle })).await;
        assert_eq!(again.errno.cast_signed(), libc::EBADF);

        let list = wire::FileReadDir { path: "/data".into(), limit: 100, ..wire::FileReadDir::default() };
        let Some(Outcome::Entries(entries)) = files.ask(Op::ReadDir(list)).await.result else { panic!() };
        let mut names: Vec<_> = entries.entries.iter().map(|entry| entry.name.clone()).collect();
        names.sort();
        assert_eq!(names, ["deep", "inside", "large", "outside", "small"]);
        assert!(entries.end);
    });
}

#[test]
fn open_files_are_bounded() {
    in_node("open_files_are_bounded", async || {
        let target = Target::start();
        let agent = Agent::start(target.pid());
        let mut files = Files::open(&mut agent.client().await).await;
        let mut opened = 0;
        while files.get("/data/large", 0).await.errno == 0 {
            opened += 1;
            assert!(opened < 5000, "no bound");
        }
        assert_eq!(files.errno("/data/large").await, libc::EMFILE);
        drop(files);
        let mut files = Files::open(&mut agent.client().await).await;
        assert_eq!(files.get("/data/large", 0).await.errno, 0, "the handles went with their call");
    });
}

#[test]
fn the_agent_ends_when_asked_or_alone() {
    in_node("the_agent_ends_when_asked_or_alone", async || {
        let target = Target::start();

        let mut agent = Agent::start(target.pid());
        let mut client = agent.client().await;
        let mut subscriptions = Subscriptions::open(&mut client).await;
        subscriptions.set(80, Mode::Steal).await;
        // Calls that the client keeps open do not delay the end.
        let _files = Files::open(&mut client).await;
        let _mirror = client.mirror(wire::MirrorRequest {}).await.unwrap();
        let start = Instant::now();
        client.shutdown(ShutdownRequest {}).await.unwrap();
        assert_eq!(subscriptions.notice().await.kind(), wire::agent_notice::Kind::Ending);
        assert!(agent.ended().await.success());
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());

        let mut agent = Agent::start_with(target.pid(), &["--idle-timeout", "1"]);
        let client = agent.client().await;
        client.clone().hello(HELLO).await.unwrap();
        // A stranger does not keep it alive.
        let mut stranger = agent.client_with("wrong").await;
        drop(stranger.hello(HELLO).await);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(agent.child.try_wait().unwrap().is_none(), "it has a client");
        drop(client);
        assert!(agent.ended().await.success());

        let mut agent = Agent::start(target.pid());
        let pid = rustix::process::Pid::from_child(&agent.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(agent.ended().await.success());

        let mut agent = Agent::start_with(target.pid(), &["--end-with-stdin"]);
        drop(agent.child.stdin.take());
        assert!(agent.ended().await.success());
    });
}

#[test]
fn the_agent_ends_with_its_target() {
    in_node("the_agent_ends_with_its_target", async || {
        let mut target = Target::start();
        let mut agent = Agent::start(target.pid());
        let mut subscriptions = Subscriptions::open(&mut agent.client().await).await;
        subscriptions.set(80, Mode::Mirror).await;
        target.kill();
        assert_eq!(subscriptions.notice().await.kind(), wire::agent_notice::Kind::TargetEnded);
        assert!(agent.ended().await.success());
    });
}
