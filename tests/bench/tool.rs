//! `bench-tool`: the small programs that a benchmark runs beside, inside and outside of sessions. Each prints one JSON object.

mod load;
mod server;

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
        ["exchange", port] => exchange(port.parse()?)?,
        ["upload", address, bytes] => exchange_with(address, UP, bytes.parse()?)?,
        ["download", address, bytes] => exchange_with(address, DOWN, bytes.parse()?)?,
        // When the first instruction of a command ran.
        ["now"] => json!({ "unix": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() }),
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
    throughput(|| {
        let mut connection = TcpStream::connect(one_address(address)?)?;
        send_all(&mut connection, bytes)?;
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

/// Moves so many bytes to an [`exchange`] or from it. Without an end of the stream in between, which port-forwards do not carry over.
fn exchange_with(address: &str, direction: u8, bytes: u64) -> Result<Value> {
    throughput(|| {
        let mut connection = TcpStream::connect(one_address(address)?)?;
        connection.write_all(&[&[direction][..], &bytes.to_be_bytes()].concat())?;
        if direction == UP {
            send_all(&mut connection, bytes)?;
            connection.read_exact(&mut [0])?;
        } else {
            take_all(&mut connection, bytes)?;
        }
        Ok(bytes)
    })
}

/// First byte of a connection to an [`exchange`]: bytes go there, or come from there. How many is said by the next eight.
const UP: u8 = b'>';
const DOWN: u8 = b'<';

/// Takes as many bytes as each connection announces and acknowledges them, or sends as many as it asks for.
fn exchange(port: u16) -> Result<Value> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        std::thread::spawn(move || -> Result<()> {
            let (mut direction, mut bytes) = ([0], [0; 8]);
            connection.read_exact(&mut direction)?;
            connection.read_exact(&mut bytes)?;
            let bytes = u64::from_be_bytes(bytes);
            if direction == [UP] {
                take_all(&mut connection, bytes)?;
                connection.write_all(&[1])?;
            } else {
                send_all(&mut connection, bytes)?;
            }
            Ok(())
        });
    }
    Ok(Value::Null)
}

fn send_all(connection: &mut TcpStream, mut bytes: u64) -> Result<()> {
    let chunk = vec![b'x'; 256 << 10];
    while bytes > 0 {
        let part = chunk.get(..usize::try_from(bytes.min(chunk.len() as u64))?).unwrap_or(&chunk);
        connection.write_all(part)?;
        bytes -= part.len() as u64;
    }
    Ok(())
}

fn take_all(connection: &mut TcpStream, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    while total < bytes {
        match connection.read(&mut buffer)? {
            0 => bail!("the stream ended after {total} of {bytes} bytes"),
            read => total += read as u64,
        }
    }
    Ok(())
}

fn one_address(text: &str) -> Result<SocketAddr> {
    text.to_socket_addrs()?.next().with_context(|| format!("{text} has no address"))
}
