//! Local pods without the rest of the program, and what is needed to measure them.
//!
//! `start NAME HOST:POD,...|- -- CMD...`, `ls`, `stop NAME`, `stop-all`, `exec NAME CMD...`, `node-exec CMD...`; `serve PORT`
//! answers every 4 bytes with 100 and streams after `bulk`; `load ADDRESS CONNECTIONS`,
//! `load-pod NAME PORT CONNECTIONS`, `ask ADDRESS` and `resolve NAME` are its clients.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a tool for tests and measurements"
)]

use std::{
    ffi::OsString,
    io::{Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::unix::process::CommandExt,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use mirrord_session::{
    local::{self, LocalError, StartSpec},
    role::Role,
};

fn main() -> ExitCode {
    if let Some(role) = Role::from_args(std::env::args_os()) {
        return ExitCode::from(role.run());
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("error: {text}\nhint: {}", error.hint().unwrap_or_default());
            ExitCode::from(error.exit_code().unwrap_or(1))
        }
    }
}

fn run(args: &[OsString]) -> Result<(), LocalError> {
    let word = |n: usize| args.get(n).and_then(|arg| arg.to_str()).unwrap_or_default();
    match word(0) {
        "start" => {
            let mut spec = StartSpec::new(word(1), args.iter().skip(4).cloned());
            if word(2) != "-" {
                spec.publish = word(2).split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            let before = Instant::now();
            let pod = local::start(&spec)?;
            println!("{pod:?}\nup in {:?}", before.elapsed());
        }
        "ls" => local::list()?.iter().for_each(|pod| println!("{pod:?}")),
        "stop" => local::stop(word(1))?,
        "stop-all" => println!("{} stopped", local::stop_all()?),
        "exec" => panic!("{}", local::exec_command(word(1), args.get(2..).unwrap_or_default())?.exec()),
        "node-exec" => panic!("{}", local::node_exec_command(args.get(1..).unwrap_or_default())?.exec()),
        "dial" => {
            let dialer = local::Dialer::open(word(1))?;
            let port = word(2).parse().expect("a port");
            let before = Instant::now();
            for _ in 0..1000 {
                dialer.dial(port)?;
            }
            println!("{:?} for each of 1000", before.elapsed() / 1000);
        }
        "ask" => ask(word(1)).expect("an answer"),
        "resolve" => resolve(word(1)),
        "serve" => serve(word(1).parse().expect("a port")),
        "load" => {
            let connections = word(2).parse().expect("a number of connections");
            let address = word(1).to_owned();
            load(connections, &move || TcpStream::connect(&address).expect("a connection"));
        }
        "load-pod" => {
            let connections = word(3).parse().expect("a number of connections");
            let (dialer, port) = (local::Dialer::open(word(1))?, word(2).parse().expect("a port"));
            load(connections, &move || dialer.dial(port).expect("a connection"));
        }
        other => panic!("what is {other}?"),
    }
    Ok(())
}

/// Asks a server once; prints where it was reached.
fn ask(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 100])?;
    println!("{}", stream.peer_addr()?);
    Ok(())
}

/// Prints the addresses of a name, or why there are none.
fn resolve(name: &str) {
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => addresses.for_each(|address| println!("{}", address.ip())),
        Err(error) => println!("{error}"),
    }
}

const LOAD_TIME: Duration = Duration::from_secs(3);

/// A server with a thread per connection.
fn serve(port: u16) {
    let listener = TcpListener::bind(("::", port)).expect("a listener");
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 4];
    loop {
        stream.read_exact(&mut request)?;
        if &request == b"bulk" {
            loop {
                stream.write_all(&[b'x'; 256 << 10])?;
            }
        }
        stream.write_all(&[b'x'; 100])?;
    }
}

/// Requests per second over some connections, then the speed of one stream.
fn load(connections: usize, connect: &(dyn Fn() -> TcpStream + Sync)) {
    let end = Instant::now() + LOAD_TIME;
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let mut stream = connect();
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let sent = Instant::now();
                        stream.write_all(b"ping").expect("a request");
                        stream.read_exact(&mut [0; 100]).expect("an answer");
                        times.push(sent.elapsed());
                    }
                    times
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{connections} connections: {} requests/s, p50 {:?}, p99 {:?}", times.len() / 3, at(50), at(99));
    let mut stream = connect();
    stream.write_all(b"bulk").expect("a request");
    let (mut buffer, mut bytes, start) = (vec![0; 256 << 10], 0, Instant::now());
    while start.elapsed() < LOAD_TIME {
        bytes += stream.read(&mut buffer).expect("bytes");
    }
    println!("one stream: {:.2} GB/s", bytes as f64 / start.elapsed().as_secs_f64() / 1e9);
}
