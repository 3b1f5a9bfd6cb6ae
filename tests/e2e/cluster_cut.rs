//! The network between this machine and the API server is cut: for 10 s and nothing is lost; for 30 s, or for good while the host
//! dies, and nothing is left a minute later. These two take longer than the cut, three quarters of a minute.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mirrord_tests::{
    Cluster, GONE, LIMIT, Session, Stolen, User, World, kubeconfig_through, signal, wait_until,
};
use rustix::process::Signal;

/// How long a cut takes that a session survives; the length itself is what is tested.
const CUT: Duration = Duration::from_secs(10);
/// A cut after which only the end counts.
const LONG_CUT: Duration = Duration::from_secs(30);

/// A wire to the API server that can be cut: nothing passes then, in neither direction, and nobody is told.
#[derive(Debug, Default)]
struct Wire {
    cut: Mutex<bool>,
    mended: Condvar,
    connections: AtomicUsize,
}

impl Wire {
    fn new() -> (Arc<Self>, SocketAddr) {
        let wire = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of_listener = Arc::clone(&wire);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                of_listener.connections.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(Cluster::SERVER).unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (there, back) = (Arc::clone(&of_listener), Arc::clone(&of_listener));
                thread::spawn(move || there.carry(client, server));
                thread::spawn(move || back.carry(back_from, back_to));
            }
        });
        (wire, address)
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let cut = self.cut.lock().unwrap();
            drop(self.mended.wait_while(cut, |cut| *cut).unwrap());
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let cut = self.cut.lock().unwrap();
        drop(self.mended.wait_while(cut, |cut| *cut).unwrap());
        drop(to.shutdown(Shutdown::Write));
    }

    fn cut(&self, cut: bool) {
        *self.cut.lock().unwrap() = cut;
        self.mended.notify_all();
    }
}

fn stolen(test: &str) -> Option<Stolen> {
    Stolen::new(test, env!("CARGO_BIN_EXE_e2e-tool"))
}

/// A session that steals, through a wire.
fn steal<'world>(stolen: &Stolen, world: &'world World) -> (Arc<Wire>, Session<'world>) {
    let (wire, through) = Wire::new();
    let kubeconfig = kubeconfig_through(stolen.namespace.cluster, world, &through.to_string());
    (wire, stolen.steal_through(world, &kubeconfig))
}

#[test]
fn a_session_survives_ten_seconds_without_a_network() {
    let Some(stolen) = stolen("cut") else { return };
    let world = World::new(User::Root);
    let (wire, session) = steal(&stolen, &world);
    let before = wire.connections.load(Ordering::Relaxed);

    wire.cut(true);
    thread::sleep(CUT);
    wire.cut(false);
    let mended = Instant::now();
    wait_until("the local process answers again", LIMIT, || stolen.is_stolen());
    let after = wire.connections.load(Ordering::Relaxed);
    println!("back after {:?}, {} new connections", mended.elapsed(), after - before);
    session.wait_mode(8080, "steal");
    session.mode(8080, "mirror");
    session.wait_mode(8080, "mirror");
    assert_eq!(session.lost_rows(), 0);
    let mut numbers: Vec<_> = session.events().iter().filter_map(|event| event["seq"].as_u64()).collect();
    numbers.sort_unstable();
    let first = numbers.first().copied().unwrap_or_default();
    assert!(
        numbers.iter().zip(first..).all(|(number, wanted)| *number == wanted),
        "a number is missing: {numbers:?}"
    );
    session.stop();
    stolen.is_over("a cut of 10 s");
}

#[test]
fn half_a_minute_without_a_network_leaves_nothing() {
    let Some(stolen) = stolen("long-cut") else { return };
    let world = World::new(User::Root);
    let (wire, session) = steal(&stolen, &world);
    wire.cut(true);
    thread::sleep(LONG_CUT);
    wire.cut(false);
    let mended = Instant::now();
    wait_until("the local process answers again", GONE, || stolen.is_stolen());
    println!("back after {:?}", mended.elapsed());
    session.stop();
    stolen.is_over("a cut of 30 s");
}

#[test]
fn a_host_that_dies_without_a_network_leaves_nothing() {
    let Some(stolen) = stolen("cut-kill") else { return };
    let world = World::new(User::Root);
    let (wire, session) = steal(&stolen, &world);
    wire.cut(true);
    let cut = Instant::now();
    let host = session.info()["host_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    signal(host, Signal::KILL);
    drop(session.wait());
    stolen.is_over("SIGKILL of the host behind a cut");
    println!("gone {:?} after the cut", cut.elapsed());
    wire.cut(false);
}
