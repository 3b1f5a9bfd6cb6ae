//! Figures, printed when asked for by name. In a debug build they say little.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mirrord_session::{config::Mode, network::dns_message, testing::fake_agent::Destination};

use crate::{
    dns::{SERVER, query},
    world::{Peer, World, wait_for},
};

const ROUNDS: usize = 2000;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?} p90 {:?} p99 {:?} max {:?}", at(50), at(90), at(99), at(100));
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
}

pub(crate) fn connect() {
    let world = World::start();
    let refused: SocketAddr = "203.0.113.9:8".parse().unwrap();
    world.agent.script.tcp(refused, Destination::Errno(libc::ECONNREFUSED));
    connects(&world, "203.0.113.9:7".parse().unwrap(), refused);
}

/// `to` echoes, `refused` refuses.
pub(crate) fn connects<A: Peer>(world: &World<A>, to: SocketAddr, refused: SocketAddr) {
    let mut connects = Vec::new();
    let mut echoes = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut stream = world.programs.connect(to).unwrap();
        connects.push(start.elapsed());
        let start = Instant::now();
        echo(&mut stream);
        echoes.push(start.elapsed());
    }
    report("socket + connect through the agent", connects);
    report("first echo", echoes);
    let mut stream = world.programs.connect(to).unwrap();
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        echo(&mut stream);
        start.elapsed()
    });
    report("echo on an open connection", times.collect());
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        world.programs.connect(refused).unwrap_err();
        start.elapsed()
    });
    report("refused connect", times.collect());
}

pub(crate) fn direct(size: usize) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let sink = thread::spawn(move || sink(listener.accept().unwrap().0));
    let start = Instant::now();
    pour(TcpStream::connect(to).unwrap(), size);
    assert_eq!(sink.join().unwrap(), size);
    start.elapsed()
}

pub(crate) fn pour(mut stream: TcpStream, size: usize) {
    let chunk = vec![7; 256 << 10];
    let mut left = size;
    while left > 0 {
        let now = left.min(chunk.len());
        stream.write_all(&chunk[..now]).unwrap();
        left -= now;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

pub(crate) fn sink(mut stream: TcpStream) -> usize {
    let mut buffer = vec![0; 256 << 10];
    let mut all = 0;
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return all,
            count => all += count,
        }
    }
}

pub(crate) fn throughput() {
    const SIZE: usize = 1 << 30;
    let rate = |took: Duration| SIZE as f64 / took.as_secs_f64() / 1e6;
    println!("direct over loopback: {:.0} MB/s", rate(direct(SIZE)));
    let world = World::with_port(80, 80, Mode::Steal);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far: SocketAddr = "203.0.113.9:7".parse().unwrap();
    world.agent.script.tcp(far, Destination::Forward(listener.local_addr().unwrap()));
    let sinking = thread::spawn(move || sink(listener.accept().unwrap().0));
    let start = Instant::now();
    pour(world.programs.connect(far).unwrap(), SIZE);
    assert_eq!(sinking.join().unwrap(), SIZE);
    println!("outgoing, program -> far end: {:.0} MB/s", rate(start.elapsed()));
    // Stolen: the client's bytes come from the agent.
    let inside = world.programs.listen("0.0.0.0:80");
    let sinking = thread::spawn(move || sink(inside.accept().unwrap().0));
    wait_for("a parked stream", || (world.agent.script.parked() > 0).then_some(()));
    let start = Instant::now();
    world.run(async {
        let client = "203.0.113.7:40000".parse().unwrap();
        let stolen = world.agent.script.steal(client, "10.99.0.5:80".parse().unwrap()).await.unwrap();
        let chunk = bytes::Bytes::from(vec![7; 256 << 10]);
        for _ in 0..SIZE / chunk.len() {
            stolen.send(chunk.clone()).await;
        }
        stolen.shut_down().await;
        assert_eq!(tokio::task::spawn_blocking(move || sinking.join().unwrap()).await.unwrap(), SIZE);
    });
    println!("stolen, client -> program: {:.0} MB/s", rate(start.elapsed()));
}

pub(crate) fn dns() {
    let world = World::start();
    world.agent.script.name("db.example", &[[10, 0, 0, 9].into()]);
    let server: SocketAddr = SERVER.parse().unwrap();
    let mut fresh = Vec::new();
    let mut buffer = [0; 600];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let socket = world.programs.udp(server);
        socket.connect(server).unwrap();
        socket.send(&query(7, "db.example", 1)).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        fresh.push(start.elapsed());
        assert_eq!(dns_message::reply(&buffer[..length]).unwrap().answers, ["10.0.0.9"]);
    }
    report("DNS lookup with a socket of its own", fresh);
    let socket = world.programs.udp(server);
    socket.connect(server).unwrap();
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        socket.send(&query(7, "db.example", 1)).unwrap();
        socket.recv(&mut buffer).unwrap();
        start.elapsed()
    });
    report("DNS lookup on an open socket", times.collect());
}
