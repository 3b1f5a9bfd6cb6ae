//! The way to the node: finding it, starting it when it is wanted, asking it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
};
use socket2::SockRef;

use super::{
    END_FILE, LOG_FILE, LocalError, LocalPod, NODE_DIR, PodState, SPEC_FILE, StartSpec,
    enter::Place,
    node::{self, Greeting},
    pods_dir,
    spec::{PodPlan, check_name, pod_dir},
    wire::{Failure, Reply, Request, Wire, WireError},
};
use crate::{
    limits::{COMMAND_GRACE, DIAL_TIMEOUT, STEP_TIMEOUT},
    paths::{private_dir, runtime_dir},
    role::program,
};

/// Starts a pod and returns when its command runs.
///
/// # Errors
/// [`LocalError`]; nothing is left of the pod then.
pub fn start(spec: &StartSpec) -> Result<LocalPod, LocalError> {
    spec.check()?;
    let mut spec = spec.clone();
    if let Some(root) = &mut spec.root {
        *root = root.canonicalize().map_err(|source| file_error("find", root, source))?;
    }
    let mut fds = vec![pass_spec(&spec).map_err(LocalError::Node)?];
    for publish in &spec.publish {
        let port = publish.host;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        fds.push(listener.map_err(|source| LocalError::Listen { port, source })?.into());
    }
    let base = runtime_dir()?;
    let wire = connect_or_start(&base)?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    wire.send(&Request::Start, &fds)?;
    match wire.recv(STEP_TIMEOUT * 2)?.0 {
        Reply::Started(pod) => Ok(*pod),
        other => Err(unexpected(&spec.name, other)),
    }
}

/// The pod of this name, which must run.
///
/// # Errors
/// [`LocalError::Unknown`] with the names that are nearest, [`LocalError::Ended`].
pub fn find(name: &str) -> Result<LocalPod, LocalError> {
    let pods = list()?;
    match pods.iter().find(|pod| pod.name == name) {
        Some(pod) if pod.state == PodState::Running => Ok(pod.clone()),
        Some(pod) => Err(LocalError::Ended { name: name.to_owned(), state: pod.state }),
        None => Err(unknown(name, &pods)),
    }
}

/// All pods by name: those that run, and those that have ended and were not stopped.
///
/// # Errors
/// [`LocalError`].
pub fn list() -> Result<Vec<LocalPod>, LocalError> {
    let base = runtime_dir()?;
    let mut pods = running(&base)?;
    let Ok(folders) = fs::read_dir(pods_dir(&base)) else { return Ok(pods) };
    for name in folders.flatten().filter_map(|folder| folder.file_name().into_string().ok()) {
        if !pods.iter().any(|pod| pod.name == name) {
            pods.extend(ended(&pod_dir(&base, &name)));
        }
    }
    pods.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(pods)
}

/// Stops a pod and removes what it has left. Its command gets SIGTERM, and SIGKILL after [`COMMAND_GRACE`].
///
/// # Errors
/// [`LocalError::Unknown`], [`LocalError::Wire`].
pub fn stop(name: &str) -> Result<(), LocalError> {
    let base = runtime_dir()?;
    match ask(&base, &Request::Stop { name: name.to_owned() }, &[], COMMAND_GRACE + STEP_TIMEOUT)? {
        Some(Reply::Stopped) => return Ok(()),
        Some(Reply::Failed(Failure::Unknown)) | None => {}
        Some(other) => return Err(unexpected(name, other)),
    }
    if check_name(name, "name of a pod").is_err() || !pod_dir(&base, name).is_dir() {
        return Err(unknown(name, &list()?));
    }
    // Under the lock, so that a pod of this name that is just starting keeps its folder.
    let _lock = node::lock(&base).map_err(LocalError::Node)?;
    if running(&base)?.iter().any(|pod| pod.name == name) {
        return Ok(());
    }
    let dir = pod_dir(&base, name);
    fs::remove_dir_all(&dir).map_err(|source| file_error("remove", &dir, source))?;
    // Succeeds when it was the last.
    fs::remove_dir(pods_dir(&base)).ok();
    Ok(())
}

/// Stops all pods at once; returns how many there were.
///
/// # Errors
/// The first error; the others are stopped nevertheless.
pub fn stop_all() -> Result<usize, LocalError> {
    let pods = list()?;
    let results: Vec<_> = thread::scope(|scope| {
        let stopping: Vec<_> = pods.iter().map(|pod| scope.spawn(|| stop(&pod.name))).collect();
        stopping.into_iter().filter_map(|stopping| stopping.join().ok()).collect()
    });
    results.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(pods.len())
}

/// Where the output of a pod's command goes.
///
/// # Errors
/// [`LocalError::Unknown`].
pub fn log_path(name: &str) -> Result<PathBuf, LocalError> {
    let base = runtime_dir()?;
    let path = pod_dir(&base, name).join(LOG_FILE);
    if check_name(name, "name of a pod").is_ok() && path.exists() {
        Ok(path)
    } else {
        Err(unknown(name, &list()?))
    }
}

/// A command that runs another within a pod: its namespaces, its files, its environment, the caller's terminal.
///
/// # Errors
/// As [`find`].
pub fn exec_command(name: &str, command: &[OsString]) -> Result<Command, LocalError> {
    let pod = find(name)?;
    let path = pod_dir(&runtime_dir()?, name).join(SPEC_FILE);
    let plan = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<PodPlan>(&bytes)?));
    let plan = plan.map_err(|source| file_error("read", &path, source))?;
    let mut entering = enter_command(Place::Pod, pod.init_pid, command)?;
    entering.env_clear().envs(plan.environment());
    if let Some(terminal) = std::env::var_os("TERM") {
        entering.env("TERM", terminal);
    }
    Ok(entering)
}

/// A command that runs another on the node: the caller's files and environment, the pods' network and names.
///
/// # Errors
/// [`LocalError::Unknown`] when no pod runs, for then there is no node.
pub fn node_exec_command(command: &[OsString]) -> Result<Command, LocalError> {
    match ask(&runtime_dir()?, &Request::Node, &[], STEP_TIMEOUT)? {
        Some(Reply::Node(pid)) => enter_command(Place::Node, pid, command),
        Some(other) => Err(unexpected("node", other)),
        None => Err(unknown("node", &[])),
    }
}

/// Lets the node start an agent with these arguments and standard descriptors; its process.
///
/// # Errors
/// [`LocalError::Unknown`] when no pod runs, for then there is no node; [`LocalError::Wire`].
pub(crate) fn start_agent(arguments: &[OsString], standard: &[OwnedFd; 3]) -> Result<u32, LocalError> {
    let standard: Vec<_> = standard.iter().map(AsFd::as_fd).collect();
    let request = Request::Agent { arguments: arguments.to_vec() };
    match ask(&runtime_dir()?, &request, &standard, STEP_TIMEOUT)? {
        Some(Reply::Agent(pid)) => Ok(pid),
        Some(other) => Err(unexpected("node", other)),
        None => Err(unknown("node", &[])),
    }
}

fn enter_command(place: Place, pid: u32, command: &[OsString]) -> Result<Command, LocalError> {
    let mut entering = Command::new(program().map_err(LocalError::Node)?);
    entering.args(["__enter", place.word(), &pid.to_string()]).args(command);
    Ok(entering)
}

/// Makes connections to a pod from the node's network namespace, one after the other over one control connection.
#[derive(Debug)]
pub struct Dialer {
    wire: Wire,
    name: String,
}

impl Dialer {
    /// For a pod that runs.
    ///
    /// # Errors
    /// [`LocalError::Unknown`].
    pub fn open(name: &str) -> Result<Self, LocalError> {
        let wire = connect(&runtime_dir()?).ok_or_else(|| unknown(name, &[]))?;
        Ok(Self { wire, name: name.to_owned() })
    }

    /// One connection.
    ///
    /// # Errors
    /// [`LocalError::Unknown`] when the pod has gone, [`LocalError::Dial`] with what connect(2) said.
    pub fn dial(&self, port: u16) -> Result<TcpStream, LocalError> {
        self.wire.send(&Request::Socket { name: self.name.clone() }, &[])?;
        let (ip, socket) = match self.wire.recv(STEP_TIMEOUT)? {
            (Reply::Socket(ip), fds) => (ip, fds.into_iter().next().ok_or(WireError::Closed)?),
            (Reply::Failed(Failure::Unknown), _) => return Err(unknown(&self.name, &list()?)),
            (other, _) => return Err(unexpected(&self.name, other)),
        };
        let address = SocketAddrV4::new(ip, port);
        SockRef::from(&socket)
            .connect_timeout(&address.into(), DIAL_TIMEOUT)
            .map_err(|source| LocalError::Dial { name: self.name.clone(), port, source })?;
        Ok(socket.into())
    }
}

/// The node's control socket, if there is a node.
fn connect(base: &Path) -> Option<Wire> {
    node::dial(&base.join(NODE_DIR)).ok()
}

/// Asks the node; `None` when there is none, or it ended in this moment and with it all pods.
fn ask(
    base: &Path,
    request: &Request,
    fds: &[BorrowedFd<'_>],
    timeout: Duration,
) -> Result<Option<Reply>, LocalError> {
    let Some(wire) = connect(base) else { return Ok(None) };
    match wire.send(request, fds).and_then(|()| wire.recv(timeout)) {
        Ok((reply, _)) => Ok(Some(reply)),
        Err(WireError::Closed) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The pods that run.
fn running(base: &Path) -> Result<Vec<LocalPod>, LocalError> {
    match ask(base, &Request::List, &[], STEP_TIMEOUT)? {
        Some(Reply::Pods(pods)) => Ok(pods),
        Some(other) => Err(unexpected("", other)),
        None => Ok(Vec::new()),
    }
}

/// A pod whose folder is there although it does not run.
fn ended(dir: &Path) -> Option<LocalPod> {
    if let Some(pod) = fs::read(dir.join(END_FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    {
        return Some(pod);
    }
    let path = dir.join(SPEC_FILE);
    let plan: PodPlan = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let started = fs::metadata(&path).ok()?.modified().ok()?;
    Some(LocalPod {
        name: plan.spec.name,
        pid: 0,
        init_pid: 0,
        ip: plan.ip,
        ipv6: plan.ipv6,
        ports_published: Vec::new(),
        started,
        command: plan.spec.command,
        state: PodState::Lost,
    })
}

/// Connects to the node, which is started when there is none. The lock is held until the connection is made, so that a node
/// that is about to end sees it.
fn connect_or_start(base: &Path) -> Result<Wire, LocalError> {
    let _lock = node::lock(base).map_err(LocalError::Node)?;
    if let Some(wire) = connect(base) {
        return Ok(wire);
    }
    let dir = base.join(NODE_DIR);
    // What a killed node has left.
    if let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(file_error("remove", &dir, error));
    }
    private_dir(&dir)?;
    start_node(&dir).inspect_err(|_| {
        // Nothing of it is left; an error here would hide the first one.
        fs::remove_dir_all(&dir).ok();
    })?;
    node::dial(&dir).map_err(LocalError::Node)
}

/// Starts a node and waits until it listens.
fn start_node(dir: &Path) -> Result<(), LocalError> {
    let mut child = Command::new(program().map_err(LocalError::Node)?)
        .arg("__node")
        .arg(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(LocalError::Node)?;
    let output = child.stdout.take().map(OwnedFd::from);
    let greeting = output.ok_or_else(|| io::ErrorKind::BrokenPipe.into()).and_then(read_greeting);
    match greeting {
        Ok(Greeting::Ready) => {
            // Reaps it, should the node end before us. The thread ends with this process.
            thread::spawn(move || child.wait());
            Ok(())
        }
        Ok(Greeting::Failed(failure)) => {
            child.wait().map_err(LocalError::Node)?;
            Err(LocalError::refused("", failure))
        }
        Err(error) => {
            child.kill().and_then(|()| child.wait()).map_err(LocalError::Node)?;
            Err(LocalError::Node(error))
        }
    }
}

fn read_greeting(output: OwnedFd) -> io::Result<Greeting> {
    let timeout = Timespec::try_from(STEP_TIMEOUT).map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&timeout))?;
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut line = String::new();
    // The node writes the line at once, or ends.
    BufReader::new(File::from(output)).read_line(&mut line)?;
    if line.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(serde_json::from_str(&line)?) }
}

/// The specification as a descriptor: it may be larger than a datagram.
fn pass_spec(spec: &StartSpec) -> io::Result<OwnedFd> {
    let memfd = memfd_create("pod", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memfd);
    file.write_all(&serde_json::to_vec(spec)?)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

fn unexpected(name: &str, reply: Reply) -> LocalError {
    match reply {
        Reply::Failed(failure) => LocalError::refused(name, failure),
        other => {
            let text = format!("it answered {other:?}");
            LocalError::Node(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> LocalError {
    LocalError::File { what, path: path.display().to_string(), source }
}

/// At most this many names are offered.
const NEAR: usize = 5;

/// No pod of this name, but these.
fn unknown(name: &str, pods: &[LocalPod]) -> LocalError {
    let mut near: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    near.sort_by_key(|other| std::cmp::Reverse(likeness(name, other)));
    near.truncate(NEAR);
    LocalError::Unknown { name: name.to_owned(), near: near.into_iter().map(ToOwned::to_owned).collect() }
}

/// How many letters two names share at their beginnings and ends.
fn likeness(one: &str, other: &str) -> usize {
    let same = |pairs: &mut dyn Iterator<Item = (char, char)>| pairs.take_while(|(a, b)| a == b).count();
    same(&mut one.chars().zip(other.chars())) + same(&mut one.chars().rev().zip(other.chars().rev()))
}
