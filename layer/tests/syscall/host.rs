//! The session host as the tests play it: starts a supervisor, answers path calls from a table, makes sockets, collects the rest.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_layer::{
    decide::{Mode, Places, default_rules},
    link::{Link, LinkError},
    mounts,
    supervisor::{HOLDER_DESCRIPTOR, HOST_DESCRIPTOR},
};
use mirrord_protocol::{
    agent::v1::{EnvEntry, Stat},
    layer::v1::{
        FileAnswer, FileCall, FromLayer, Launch, PathDecision, PathRule, ProcessExit, Rules, Started,
        ToLayer, UnixAnswer, file_call::Want, from_layer, to_layer,
    },
    sockets::{Reply, Request},
};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{MemfdFlags, Mode as FileMode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use crate::runner::read;

/// Everything here that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// One remote path.
#[derive(Clone)]
pub(crate) enum Remote {
    File(Vec<u8>),
    Directory(Vec<&'static str>),
    Link(&'static str),
    Errno(i32),
    /// The host says that it is local after all.
    Local,
}

/// A played host with its supervisor.
pub(crate) struct Host {
    pub(crate) link: Option<Link>,
    pub(crate) supervisor: Child,
    pub(crate) remote: BTreeMap<String, Remote>,
    /// How long each answer takes.
    pub(crate) delay: Duration,
    pub(crate) messages: Vec<from_layer::Kind>,
    pub(crate) calls: Vec<FileCall>,
    /// Where unix connections are sent.
    pub(crate) relay: Option<String>,
    helper: Option<(OwnedFd, Child)>,
    scratch: Vec<u8>,
    output: File,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: ProcessExit,
    pub(crate) output: String,
}

/// Rules: `/remote` is the target's, `/missing` does not exist, all others are local.
pub(crate) fn rules() -> Rules {
    let rule = |pattern: &str, decision: PathDecision| PathRule {
        pattern: pattern.to_owned(),
        decision: decision.into(),
        name: format!("test {pattern}"),
        read_only: true,
        replacement: String::new(),
    };
    let root = std::path::Path::new("/");
    let places = Places { home: root, cwd: root, executable: root, temporary: root };
    let own = [rule("^/remote(/|$)", PathDecision::Remote), rule("^/missing(/|$)", PathDecision::NotFound)];
    Rules {
        files: true,
        paths: own.into_iter().chain(default_rules(Mode::Read, &places)).collect(),
        otherwise: PathDecision::Local.into(),
        ..Rules::default()
    }
}

/// A launch of this command line with the rules of [`rules`].
pub(crate) fn command(arguments: &[&str]) -> Launch {
    let entry = |(name, value): (&'static str, &'static str)| EnvEntry {
        name: name.as_bytes().into(),
        value: value.as_bytes().into(),
    };
    Launch {
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec().into()).collect(),
        environment: [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/")]
            .into_iter()
            .map(entry)
            .collect(),
        cwd: "/".into(),
        rules: Some(rules()),
        ..Launch::default()
    }
}

impl Host {
    /// With a supervisor that has no holder.
    pub(crate) fn new() -> Self {
        Self::with_holder(None)
    }

    pub(crate) fn with_holder(holder: Option<OwnedFd>) -> Self {
        let (ours, theirs) = Link::pair().unwrap();
        let holder = holder.map(|parent_fd| FdMapping { parent_fd, child_fd: HOLDER_DESCRIPTOR });
        let host = FdMapping { parent_fd: theirs.into(), child_fd: HOST_DESCRIPTOR };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("__supervisor").stdin(Stdio::null());
        command.fd_mappings([host].into_iter().chain(holder).collect()).unwrap();
        let supervisor = command.spawn().unwrap();
        drop(command);
        let mut host = Self {
            link: Some(ours),
            supervisor,
            remote: BTreeMap::new(),
            delay: Duration::ZERO,
            messages: Vec::new(),
            calls: Vec::new(),
            relay: None,
            helper: None,
            scratch: Vec::new(),
            output: tempfile::tempfile().unwrap(),
        };
        host.until("ready", |kind| matches!(kind, from_layer::Kind::Ready(_)).then_some(()));
        host
    }

    pub(crate) fn add(&mut self, path: &str, remote: Remote) {
        self.remote.insert(path.to_owned(), remote);
    }

    pub(crate) fn send(&self, id: u64, kind: to_layer::Kind, descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        let message = ToLayer { id, kind: Some(kind) };
        self.link.as_ref().unwrap().send(&message, &descriptors).unwrap();
    }

    /// Launches with /dev/null as input and the collected output.
    pub(crate) fn launch(&mut self, launch: Launch) -> Started {
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        let output = OwnedFd::from(self.output.try_clone().unwrap());
        self.launch_on(launch, [&null, &output, &output])
    }

    pub(crate) fn launch_on(&mut self, launch: Launch, standard: [&OwnedFd; 3]) -> Started {
        self.send(99, to_layer::Kind::Launch(launch), &standard);
        self.until("started", |kind| match kind {
            from_layer::Kind::Started(started) => Some(started.clone()),
            _ => None,
        })
    }

    /// Runs a command to the end of its tree.
    pub(crate) fn run(&mut self, launch: Launch) -> Ended {
        let name = launch
            .arguments
            .iter()
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect::<Vec<_>>();
        let started = self.launch(launch);
        assert_eq!(started.errno, 0, "{name:?}: {}", started.operation);
        let exit = self.until("exit", |kind| match kind {
            from_layer::Kind::Exit(exit) if exit.command => Some(*exit),
            _ => None,
        });
        self.until("empty tree", |kind| matches!(kind, from_layer::Kind::TreeEmpty(_)).then_some(()));
        let status = self.supervisor.wait().unwrap();
        assert_eq!(status.code(), Some(0), "the supervisor's exit");
        Ended { exit, output: self.output() }
    }

    /// What the command has written so far.
    pub(crate) fn output(&self) -> String {
        read(&mut self.output.try_clone().unwrap())
    }

    /// Serves the supervisor until a message is of interest; collects all messages.
    pub(crate) fn until<T>(&mut self, what: &str, wanted: impl Fn(&from_layer::Kind) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            match self.receive(LIMIT.saturating_sub(start.elapsed())) {
                Some(message) => {
                    if let Some(found) = self.handle(message, &wanted) {
                        return found;
                    }
                }
                None => panic!("no {what}; {:?}; output {:?}", self.messages, self.output()),
            }
        }
    }

    fn receive(&mut self, limit: Duration) -> Option<FromLayer> {
        let link = self.link.as_ref().unwrap();
        let limit = limit.try_into().unwrap();
        let ready = rustix::event::poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&limit)).unwrap();
        if ready == 0 {
            return None;
        }
        match link.receive::<FromLayer>(&mut self.scratch) {
            Ok((message, _)) => Some(message),
            Err(LinkError::Closed) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn handle<T>(
        &mut self,
        message: FromLayer,
        wanted: &impl Fn(&from_layer::Kind) -> Option<T>,
    ) -> Option<T> {
        let kind = message.kind.unwrap();
        let found = wanted(&kind);
        match kind {
            from_layer::Kind::File(call) => {
                std::thread::sleep(self.delay);
                self.answer(message.id, call);
            }
            from_layer::Kind::UnixConnect(_) => {
                let answer = match &self.relay {
                    Some(relay) => UnixAnswer { errno: 0, path: relay.clone().into_bytes().into() },
                    None => UnixAnswer { errno: libc::ECONNREFUSED.unsigned_abs(), ..UnixAnswer::default() },
                };
                self.send(message.id, to_layer::Kind::UnixConnect(answer), &[]);
                self.messages.push(kind);
            }
            kind => self.messages.push(kind),
        }
        found
    }

    fn answer(&mut self, id: u64, call: FileCall) {
        let path = String::from_utf8_lossy(&call.path).into_owned();
        let errno = |errno: i32| FileAnswer { errno: errno.unsigned_abs(), ..FileAnswer::default() };
        let found = self.remote.get(&path).cloned();
        let want = call.want();
        self.calls.push(call);
        let (answer, descriptor) = match (found, want) {
            (Some(Remote::Errno(number)), _) => (errno(number), None),
            (Some(Remote::Local), _) => (FileAnswer { local: true, ..FileAnswer::default() }, None),
            (None, Want::Existence) => (FileAnswer { local: true, ..FileAnswer::default() }, None),
            (None, _) => (errno(libc::ENOENT), None),
            (Some(_), Want::Existence) => (errno(libc::EROFS), None),
            (Some(Remote::Link(target)), Want::Link) => {
                (FileAnswer { link: target.into(), ..FileAnswer::default() }, None)
            }
            (Some(_), Want::Link) => (errno(libc::EINVAL), None),
            (Some(remote), Want::Descriptor) => {
                let descriptor = self.descriptor(&remote);
                (
                    FileAnswer { stat: Some(stat(&remote)), descriptor: true, ..FileAnswer::default() },
                    Some(descriptor),
                )
            }
            (Some(remote), _) => (FileAnswer { stat: Some(stat(&remote)), ..FileAnswer::default() }, None),
        };
        let message = ToLayer { id, kind: Some(to_layer::Kind::File(answer)) };
        let descriptor = descriptor.as_ref().map(AsFd::as_fd);
        // The supervisor may have ended with its command.
        drop(self.link.as_ref().unwrap().send(&message, descriptor.as_slice()));
    }

    fn descriptor(&mut self, remote: &Remote) -> OwnedFd {
        match remote {
            Remote::Directory(names) => self.directory(names),
            Remote::File(content) => memfd(content),
            _ => memfd(b""),
        }
    }

    fn directory(&mut self, names: &[&str]) -> OwnedFd {
        let (helper, _) = self.helper.get_or_insert_with(start_helper);
        let mount = mounts::ask(helper.as_fd(), &mounts::Request::Directory).unwrap().remove(0);
        for name in names {
            match name.strip_suffix('/') {
                Some(name) => rustix::fs::mkdirat(&mount, name, FileMode::RWXU).unwrap(),
                None => drop(
                    rustix::fs::openat(&mount, *name, OFlags::CREATE | OFlags::WRONLY, FileMode::RUSR)
                        .unwrap(),
                ),
            }
        }
        let opened =
            rustix::fs::openat(&mount, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty()).unwrap();
        mounts::ask(helper.as_fd(), &mounts::Request::Seal(mount.as_fd())).unwrap();
        opened
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some((link, mut helper)) = self.helper.take() {
            drop(link);
            assert!(helper.wait().unwrap().success());
        }
        drop(self.link.take());
        self.supervisor.wait().unwrap();
    }
}

fn start_helper() -> (OwnedFd, Child) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("__mounts").stdin(Stdio::null());
    let link = FdMapping { parent_fd: theirs, child_fd: mounts::LINK_DESCRIPTOR };
    command.fd_mappings(vec![link]).unwrap();
    let helper = command.spawn().unwrap();
    (ours, helper)
}

fn memfd(content: &[u8]) -> OwnedFd {
    let mut file = File::from(rustix::fs::memfd_create("remote", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(content).unwrap();
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap().into()
}

/// The stat that the table's entries have.
fn stat(remote: &Remote) -> Stat {
    let (mode, size) = match remote {
        Remote::File(content) => (libc::S_IFREG | 0o640, content.len()),
        Remote::Directory(_) => (libc::S_IFDIR | 0o755, 0),
        _ => (libc::S_IFLNK | 0o777, 0),
    };
    Stat {
        mode,
        size: size.try_into().unwrap(),
        nlink: 1,
        ino: 77,
        dev: 0x1_02,
        blksize: 4096,
        mtime_s: 1_700_000_000,
        ..Stat::default()
    }
}

/// A holder that makes its sockets here and marks them with priority 5. Ends with the returned endpoint's other end.
pub(crate) fn holder(delay: Duration) -> OwnedFd {
    use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((count @ 1.., _)) = rustix::net::recv(&ours, &mut bytes, RecvFlags::empty()) {
            let Some(Request::Socket { domain, kind, protocol }) = Request::decode(&bytes[..count]) else {
                panic!("not a request: {:?}", &bytes[..count]);
            };
            std::thread::sleep(delay);
            let (domain, kind) =
                (socket2::Domain::from(i32::from(domain)), socket2::Type::from(kind.cast_signed()));
            let protocol = socket2::Protocol::from(protocol.cast_signed());
            let socket = socket2::Socket::new_raw(domain, kind, Some(protocol)).unwrap();
            socket.set_priority(5).unwrap();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let rights = [socket.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&rights));
            let bytes = Reply::Socket.encode();
            let reply = [std::io::IoSlice::new(&bytes)];
            if rustix::net::sendmsg(&ours, &reply, &mut control, SendFlags::NOSIGNAL).is_err() {
                return;
            }
        }
    });
    theirs
}
