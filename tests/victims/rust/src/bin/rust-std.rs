//! The victim with Rust's standard library: blocking sockets, one thread per connection.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    process::ExitCode,
    thread,
};

use victim::{ErrorName, Head, USAGE, request, response, stat_line};

fn serve(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening {port}");
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        thread::spawn(move || talk(stream));
    }
}

fn talk(mut stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut lines = String::new();
        while reader.read_line(&mut lines)? > 2 {}
        let Some(head) = Head::parse(&lines) else { return Ok(()) };
        io::copy(&mut reader.by_ref().take(head.content_length as u64), &mut io::sink())?;
        stream.write_all(head.reply("rust-std", peer).as_bytes())?;
        if !head.keep_alive {
            return Ok(());
        }
    }
}

fn get(url: &str) -> io::Result<()> {
    let (authority, request) = request(url).ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(authority)?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let (status, body) = response(&bytes)?;
    println!("{status}");
    io::stdout().write_all(body)
}

fn resolve(name: &str) -> io::Result<()> {
    (name, 0).to_socket_addrs()?.for_each(|addr| println!("{}", addr.ip()));
    Ok(())
}

fn connect(host: &str, port: &str) -> io::Result<()> {
    let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host, port))?;
    println!("ok {} -> {}", stream.local_addr()?, stream.peer_addr()?);
    Ok(())
}

fn file(path: &str) -> io::Result<()> {
    io::stdout().write_all(&fs::read(path)?)
}

fn ls(path: &str) -> io::Result<()> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

fn stat(path: &str) -> io::Result<()> {
    println!("{}", stat_line(&fs::metadata(path)?));
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["serve", port] => serve(port),
        ["get", url] => get(url),
        ["resolve", name] => resolve(name),
        ["connect", host, port] => connect(host, port),
        ["file", path] => file(path),
        ["ls", dir] => ls(dir),
        ["stat", path] => stat(path),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error {}", ErrorName(error));
            ExitCode::FAILURE
        }
    }
}
