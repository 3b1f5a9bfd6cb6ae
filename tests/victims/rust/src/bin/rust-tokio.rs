//! The victim with tokio: non-blocking sockets on epoll, file work and name lookups on its blocking threads.

use std::{env, io, process::ExitCode};

use tokio::{
    fs,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy, sink, stdout},
    net::{TcpListener, TcpStream, lookup_host},
};
use victim::{ErrorName, Head, USAGE, request, response, stat_line};

async fn serve(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await?;
    println!("listening {port}");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(talk(stream));
    }
}

async fn talk(stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut lines = String::new();
        while reader.read_line(&mut lines).await? > 2 {}
        let Some(head) = Head::parse(&lines) else { return Ok(()) };
        copy(&mut (&mut reader).take(head.content_length as u64), &mut sink()).await?;
        writer.write_all(head.reply("rust-tokio", peer).as_bytes()).await?;
        if !head.keep_alive {
            return Ok(());
        }
    }
}

async fn get(url: &str) -> io::Result<()> {
    let (authority, request) = request(url).ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(authority).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let (status, body) = response(&bytes)?;
    print(format!("{status}\n").as_bytes()).await?;
    print(body).await
}

async fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout();
    out.write_all(bytes).await?;
    out.flush().await
}

async fn resolve(name: &str) -> io::Result<()> {
    lookup_host((name, 0)).await?.for_each(|addr| println!("{}", addr.ip()));
    Ok(())
}

async fn connect(host: &str, port: &str) -> io::Result<()> {
    let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host, port)).await?;
    println!("ok {} -> {}", stream.local_addr()?, stream.peer_addr()?);
    Ok(())
}

async fn file(path: &str) -> io::Result<()> {
    print(&fs::read(path).await?).await
}

async fn ls(path: &str) -> io::Result<()> {
    let mut dir = fs::read_dir(path).await?;
    let mut names = Vec::new();
    while let Some(entry) = dir.next_entry().await? {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

async fn stat(path: &str) -> io::Result<()> {
    println!("{}", stat_line(&fs::metadata(path).await?));
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["serve", port] => serve(port).await,
        ["get", url] => get(url).await,
        ["resolve", name] => resolve(name).await,
        ["connect", host, port] => connect(host, port).await,
        ["file", path] => file(path).await,
        ["ls", dir] => ls(dir).await,
        ["stat", path] => stat(path).await,
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
