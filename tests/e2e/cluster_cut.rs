//! The network between this machine and the API server is cut for 10 s: a pause, and nothing is lost.

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

use mirrord_tests::{Cluster, LIMIT, User, World, wait_until};

/// Where the API server listens (`tests/cluster/README.md`).
const SERVER: &str = "10.243.0.2:6443";
/// How long the cut takes; the length itself is what is tested.
const CUT: Duration = Duration::from_secs(10);

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
                let server = TcpStream::connect(SERVER).unwrap();
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

#[test]
fn a_session_survives_ten_seconds_without_a_network() {
    let Some(cluster) = Cluster::get("cut") else { return };
    let namespace = cluster.namespace("cut");
    let address = namespace.pod("app", "hello", &[]);
    namespace.customer();
    let url = format!("http://{address}:8080/");
    let world = World::new(User::Root);
    let (wire, through) = Wire::new();
    let kubeconfig =
        std::fs::read_to_string(cluster.kubeconfig()).unwrap().replace(SERVER, &through.to_string());
    let kubeconfig = world.file("kubeconfig", &kubeconfig).to_string_lossy().into_owned();
    let tool = world.install(env!("CARGO_BIN_EXE_e2e-tool"));
    let log = world.home().join("own.log").to_string_lossy().into_owned();
    let options =
        ["--kubeconfig", &kubeconfig, "-n", &namespace.name, "-t", "pod/app", "-p", "8080", "--steal"];
    let session = world.exec(&options, &[&tool, "clerk", "8080", "own", &log]);
    session.wait_mode(8080, "steal");
    assert!(namespace.ask(&url).is_some_and(|answer| answer.starts_with("own ")));
    let before = wire.connections.load(Ordering::Relaxed);

    wire.cut(true);
    thread::sleep(CUT);
    wire.cut(false);
    let mended = Instant::now();
    wait_until("the local process answers again", LIMIT, || {
        namespace.ask(&url).is_some_and(|answer| answer.starts_with("own "))
    });
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
}
