//! `bench-tool`: the small programs that a benchmark runs beside, inside and outside of sessions. Each prints one JSON object.

mod load;
mod server;

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["server", port] => server::run(port.parse()?)?,
        ["relay", port, upstream] => server::relay(port.parse()?, upstream)?,
        ["load", address, connections, seconds] => {
            load::run(address, connections.parse()?, seconds.parse()?)?
        }
        ["spawn", count, program, rest @ ..] => each(count, || spawn(program, rest))?,
        ["connect-get", address, count] => each(count, || connect_get(address))?,
        ["resolve", name, count] => each(count, || resolve(name))?,
        ["open-read", path, count] => each(count, || open_read(path))?,
        ["stat", path, count] => each(count, || std::fs::metadata(path).map(drop).context("stat"))?,
        ["syscall", count] => each(count, || {
            // getppid(2) is neither trapped nor cached by the C library.
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        })?,
        ["read-all", path] => {
            throughput(|| Ok(std::io::copy(&mut File::open(path)?, &mut std::io::sink())?))?
        }
        ["send", address, bytes] => send(address, bytes.parse()?)?,
        ["sink", port] => sink(port.parse()?)?,
        _ => bail!("unknown call {args:?}"),
    };
    println!("{result}");
    Ok(())
}

/// Repeats `work` and gives the median and the 99th percentile of one run in microseconds.
fn each(count: &str, mut work: impl FnMut() -> Result<()>) -> Result<Value> {
    let count: usize = count.parse()?;
    let mut times = Vec::with_capacity(count);
    work()?;
    for _ in 0..count {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get((times.len() * part / 100).min(times.len() - 1))
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Ok(
        json!({ "p50_us": at(50), "p99_us": at(99), "mean_us": times.iter().sum::<Duration>().as_secs_f64() * 1e6 / times.len() as f64 }),
    )
}

fn throughput(work: impl FnOnce() -> Result<u64>) -> Result<Value> {
    let start = Instant::now();
    let bytes = work()?;
    Ok(json!({ "bytes": bytes, "mb_per_s": bytes as f64 / 1e6 / start.elapsed().as_secs_f64() }))
}

fn spawn(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status()?;
    if status.success() { Ok(()) } else { bail!("{program}: {status}") }
}

fn connect_get(address: &str) -> Result<()> {
    let mut connection = TcpStream::connect(one_address(address)?)?;
    connection.set_nodelay(true)?;
    connection.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        bail!("answer {:?}", String::from_utf8_lossy(&answer))
    }
}

fn resolve(name: &str) -> Result<()> {
    (name, 80).to_socket_addrs()?.next().map(drop).context("no address")
}

fn open_read(path: &str) -> Result<()> {
    let mut content = Vec::with_capacity(8192);
    File::open(path)?.read_to_end(&mut content)?;
    Ok(())
}

/// Sends so many bytes and waits until the sink has counted them.
fn send(address: &str, bytes: u64) -> Result<Value> {
    let chunk = vec![b'x'; 256 << 10];
    throughput(|| {
        let mut connection = TcpStream::connect(one_address(address)?)?;
        let mut left = bytes;
        while left > 0 {
            let part = chunk.get(..usize::try_from(left.min(chunk.len() as u64))?).unwrap_or(&chunk);
            connection.write_all(part)?;
            left -= part.len() as u64;
        }
        connection.shutdown(std::net::Shutdown::Write)?;
        let mut counted = String::new();
        connection.read_to_string(&mut counted)?;
        if counted == bytes.to_string() {
            Ok(bytes)
        } else {
            bail!("the sink counted {counted} of {bytes} bytes")
        }
    })
}

/// Counts what each connection brings and answers with the number.
fn sink(port: u16) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        std::thread::spawn(move || -> Result<()> {
            let mut buffer = vec![0; 1 << 20];
            let mut total = 0_u64;
            loop {
                match connection.read(&mut buffer)? {
                    0 => break,
                    bytes => total += bytes as u64,
                }
            }
            connection.write_all(total.to_string().as_bytes())?;
            Ok(())
        });
    }
    Ok(Value::Null)
}

fn one_address(text: &str) -> Result<SocketAddr> {
    text.to_socket_addrs()?.next().with_context(|| format!("{text} has no address"))
}
