//! The data path with the real agent beside a target in namespaces of its own: what the fake cannot show.
//!
//! The target is a child process with servers on its own loopback; the session reaches them as the target would.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
    pin::Pin,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mirrord_netns::{
    ns::{self, Kind, UserMap},
    rtnl::Rtnl,
};
use mirrord_session::{
    agent_link::{AgentLink, Endpoint, Transport},
    agent_process::{self, AgentProcess},
    config::{Mode, PortSpec},
};

use crate::{
    measure,
    runner::{ROLE, skip},
    world::{Peer, World, wait_for},
};

const ECHO: u16 = 7001;
const SINK: u16 = 7002;
const RESET: u16 = 7003;
/// Served by the target itself until it is stolen.
const SERVICE: u16 = 7080;

/// The target: servers on its loopback, and clients of its own service when told so on standard input.
pub(crate) fn target_process() {
    ns::die_with_parent(None).unwrap();
    if rustix::process::geteuid().is_root() {
        ns::unshare(&[Kind::Net]).unwrap();
    } else {
        ns::enter_user_namespace(UserMap::Identity, &[Kind::Net]).unwrap();
    }
    let rtnl = Rtnl::open().unwrap();
    rtnl.set_up(1).unwrap();
    rtnl.add_address(1, [10, 77, 0, 5].into(), 32).unwrap();
    serve(ECHO, |mut stream| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    });
    serve(SINK, |stream| {
        measure::sink(stream);
    });
    serve(RESET, |mut stream| {
        stream.read_exact(&mut [0; 1]).ok();
        mirrord_netns::sockopt::reset_on_close(&stream).unwrap();
    });
    serve(SERVICE, |mut stream| stream.write_all(b"target").unwrap());
    let echo = UdpSocket::bind(("127.0.0.1", ECHO)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((count, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..count], from).unwrap();
        }
    });
    println!("ready");
    for line in std::io::stdin().lines() {
        let size: usize = line.unwrap().parse().unwrap();
        let start = Instant::now();
        let mut stream = TcpStream::connect(("10.77.0.5", SERVICE)).unwrap();
        let mut said = String::new();
        if size > 0 {
            measure::pour(stream, size);
        } else {
            stream.read_to_string(&mut said).ok();
        }
        println!("{said} {}", start.elapsed().as_micros());
    }
}

fn serve(port: u16, handle: fn(TcpStream)) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || handle(stream.unwrap()));
        }
    });
}

/// The target and the agent beside it.
pub(crate) struct Target {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    agent: Option<AgentProcess>,
    cable: Cable,
}

/// The connections to the agent, for pulling the plug.
#[derive(Clone, Default)]
struct Cable {
    open: Arc<Mutex<Vec<UnixStream>>>,
    pulled: Arc<AtomicBool>,
}

impl Cable {
    fn endpoint(&self, agent: &Endpoint) -> Endpoint {
        let Endpoint::Child(path, _) = agent.clone() else { return agent.clone() };
        let cable = self.clone();
        let connector = move || {
            let (cable, path) = (cable.clone(), path.clone());
            Box::pin(async move { cable.connect(&path) }) as Pin<Box<dyn Future<Output = _> + Send>>
        };
        Endpoint::Connector("the agent behind a cable".to_owned(), Arc::new(connector))
    }

    fn connect(&self, path: &Path) -> std::io::Result<Box<dyn Transport>> {
        if self.pulled.load(Ordering::Relaxed) {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        self.open.lock().unwrap().push(stream.try_clone()?);
        Ok(Box::new(tokio::net::UnixStream::from_std(stream)?))
    }

    fn pull(&self) {
        self.pulled.store(true, Ordering::Relaxed);
        for stream in self.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).unwrap();
        }
    }

    fn plug_in(&self) {
        self.pulled.store(false, Ordering::Relaxed);
    }
}

impl Target {
    fn beside(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, "target").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let agent = match agent_process::start_local(child.id(), dir) {
            Ok(agent) => agent,
            Err(error) => {
                child.kill().unwrap();
                child.wait().unwrap();
                skip(&error.to_string());
            }
        };
        Self { child, stdin, lines, agent: Some(agent), cable: Cable::default() }
    }

    /// A client inside the target connects to its service, sends that many bytes, and says what it read and how long it took.
    fn visit(&mut self, size: usize) -> (String, Duration) {
        writeln!(self.stdin, "{size}").unwrap();
        let line = self.lines.next().unwrap().unwrap();
        let (said, micros) = line.rsplit_once(' ').unwrap();
        (said.to_owned(), Duration::from_micros(micros.parse().unwrap()))
    }
}

impl Peer for Target {
    async fn link(&self) -> AgentLink {
        let agent = self.agent.as_ref().expect("it runs until it is dropped");
        AgentLink::connect(self.cable.endpoint(&agent.endpoint), &agent.token).await.unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start(ports: Vec<PortSpec>) -> World<Target> {
    World::around(Target::beside, |config| config.incoming.ports = ports)
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

pub(crate) fn outgoing() {
    let world = start(Vec::new());
    // Bytes, half-close, end.
    let mut stream = world.programs.connect(at(ECHO)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    const SIZE: usize = 8 << 20;
    let writing = thread::spawn(move || {
        writer.write_all(&vec![7; SIZE]).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    assert_eq!(all.len(), SIZE);
    // The target's kernel decides.
    assert_eq!(world.programs.connect(at(9)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let nowhere: SocketAddr = "203.0.113.9:80".parse().unwrap();
    assert_eq!(world.programs.connect(nowhere).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    let mut stream = world.programs.connect(at(RESET)).unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // UDP: an answer, and nobody.
    let socket = world.programs.udp(at(ECHO));
    socket.send_to(b"hello", at(ECHO)).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 8]).unwrap(), (5, at(ECHO)));
    let socket = world.programs.udp(at(9));
    socket.connect(at(9)).unwrap();
    socket.send(b"anybody?").unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
}

pub(crate) fn stealing() {
    let mut world = start(vec![PortSpec { remote: SERVICE, local: 8080, mode: Mode::Steal }]);
    assert_eq!(world.agent.visit(0).0, "target", "nobody listens here yet");
    let listener = world.programs.listen("0.0.0.0:8080");
    let clients = Arc::new(AtomicUsize::new(0));
    let seen = clients.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            assert_eq!(stream.peer_addr().unwrap().ip(), IpAddr::from([10, 77, 0, 5]));
            seen.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"local").unwrap();
        }
    });
    let ports = world.handle.ports();
    let holds = |mode: mirrord_protocol::session::v1::Mode| {
        wait_for("the mode", || ports.borrow().first().filter(|port| port.mode() == mode).map(|_| ()));
    };
    holds(mirrord_protocol::session::v1::Mode::Steal);
    for _ in 0..20 {
        assert_eq!(world.agent.visit(0).0, "local");
    }
    assert_eq!(clients.load(Ordering::Relaxed), 20);
    world.run(world.handle.set_mode(SERVICE, Mode::Off)).unwrap();
    assert_eq!(world.agent.visit(0).0, "target");
}

/// A short cut of the network: the target serves by itself meanwhile, and afterwards the session has everything back.
pub(crate) fn link_cut() {
    let mut world = start(vec![PortSpec { remote: SERVICE, local: 8080, mode: Mode::Steal }]);
    let listener = world.programs.listen("0.0.0.0:8080");
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"local").ok();
        }
    });
    wait_for("it is stolen", || (world.agent.visit(0).0 == "local").then_some(()));
    let mut open = world.programs.connect(at(ECHO)).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0; 1]).unwrap();
    let cable = world.agent.cable.clone();
    for round in 0..3 {
        cable.pull();
        assert_eq!(open.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset, "round {round}");
        wait_for("the target serves by itself", || (world.agent.visit(0).0 == "target").then_some(()));
        cable.plug_in();
        wait_for("it is stolen again", || (world.agent.visit(0).0 == "local").then_some(()));
        open = wait_for("connections work again", || world.programs.connect(at(ECHO)).ok());
        open.write_all(b"x").unwrap();
        open.read_exact(&mut [0; 1]).unwrap();
    }
}

pub(crate) fn measure() {
    const SIZE: usize = 1 << 30;
    let rate = |took: Duration| SIZE as u128 / took.as_micros().max(1);
    println!("direct over loopback: {} MB/s", rate(measure::direct(SIZE)));
    let mut world = start(vec![PortSpec { remote: SERVICE, local: 80, mode: Mode::Steal }]);
    measure::connects(&world, at(ECHO), at(9));
    let start = Instant::now();
    measure::pour(world.programs.connect(at(SINK)).unwrap(), SIZE);
    println!("outgoing, program -> target's network: {} MB/s", rate(start.elapsed()));
    let listener = world.programs.listen("0.0.0.0:80");
    thread::spawn(move || {
        for stream in listener.incoming() {
            measure::sink(stream.unwrap());
        }
    });
    let ports = world.handle.ports();
    wait_for("stealing", || {
        let steals = |port: &&mirrord_protocol::session::v1::Port| {
            port.mode() == mirrord_protocol::session::v1::Mode::Steal
        };
        ports.borrow().first().filter(steals).map(|_| ())
    });
    println!("stolen, client -> program: {} MB/s", rate(world.agent.visit(SIZE).1));
}
