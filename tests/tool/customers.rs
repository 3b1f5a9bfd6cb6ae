//! Clients at full speed: many connections that stay open, and a few threads that open a new connection for every request. Each
//! request has an id of its own, and the answer must carry it.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clerk::Head;

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// Threads that open a new connection for every request.
const COMERS: usize = 8;

/// What all customers share.
#[derive(Debug, Default)]
struct Shop {
    next: AtomicU64,
    closing: AtomicBool,
    errors: Mutex<Vec<String>>,
    /// Id of a request and the name of the clerk who answered it.
    answers: Mutex<Vec<(u64, String)>>,
    fresh: AtomicU64,
}

/// Asks until stdin ends, then writes `ID NAME` for every answered request to `log` and prints the counts.
pub(super) fn run(address: SocketAddr, connections: usize, log: &str) -> Result<Value> {
    let shop = Shop::default();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| shop.note(shop.stay(address)));
        }
        for _ in 0..COMERS {
            scope.spawn(|| shop.note(shop.come_and_go(address)));
        }
        println!("asking");
        let ended = std::io::stdin().read_to_end(&mut Vec::new());
        shop.closing.store(true, Ordering::Relaxed);
        shop.note(ended.map(drop).context("read stdin"));
    });
    let answers = shop.answers.into_inner().unwrap_or_default();
    let mut file = BufWriter::new(File::create(log).with_context(|| format!("create {log}"))?);
    for (id, name) in &answers {
        writeln!(file, "{id} {name}")?;
    }
    file.flush()?;
    let errors = shop.errors.into_inner().unwrap_or_default();
    Ok(json!({
        "asked": shop.next.into_inner(), "answered": answers.len(), "fresh": shop.fresh.into_inner(),
        "failed": errors.len(), "errors": errors.iter().take(10).collect::<Vec<_>>(),
    }))
}

impl Shop {
    fn note(&self, result: Result<()>) {
        if let Err(error) = result
            && let Ok(mut errors) = self.errors.lock()
        {
            errors.push(format!("{error:#}"));
        }
    }

    fn open(&self) -> bool {
        !self.closing.load(Ordering::Relaxed)
    }

    /// One connection for the whole time.
    fn stay(&self, address: SocketAddr) -> Result<()> {
        let connection = connect(address)?;
        let mut reader = BufReader::new(&connection);
        let mut answers = Vec::new();
        let mut result = Ok(());
        while self.open() && result.is_ok() {
            result = self.ask(&connection, &mut reader, false, &mut answers);
        }
        self.answers.lock().map_err(|_| anyhow::anyhow!("a customer panicked"))?.append(&mut answers);
        result.context("on a connection that stays")
    }

    /// A new connection for every request; one that fails is noted and the next one comes.
    fn come_and_go(&self, address: SocketAddr) -> Result<()> {
        let mut answers = Vec::new();
        while self.open() {
            let result = connect(address).and_then(|connection| {
                self.ask(&connection, &mut BufReader::new(&connection), true, &mut answers)
            });
            self.fresh.fetch_add(1, Ordering::Relaxed);
            self.note(result.context("on a new connection"));
            // As fast as this and no faster: every closed connection keeps a port for a minute.
            std::thread::sleep(Duration::from_millis(5));
        }
        self.answers.lock().map_err(|_| anyhow::anyhow!("a customer panicked"))?.append(&mut answers);
        Ok(())
    }

    fn ask(
        &self,
        mut connection: &TcpStream,
        reader: &mut BufReader<&TcpStream>,
        close: bool,
        answers: &mut Vec<(u64, String)>,
    ) -> Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let close = if close { "connection: close\r\n" } else { "" };
        let request = format!("GET /{id} HTTP/1.1\r\nhost: shop\r\nx-id: {id}\r\n{close}\r\n");
        connection.write_all(request.as_bytes()).with_context(|| format!("send request {id}"))?;
        let head = Head::read(reader).with_context(|| format!("read the answer to {id}"))?;
        let head = head.with_context(|| format!("request {id} was not answered"))?;
        let mut body = String::new();
        reader
            .take(head.length)
            .read_to_string(&mut body)
            .with_context(|| format!("read the body for {id}"))?;
        let (name, answered) = body.split_once(' ').context("an answer names its clerk and its request")?;
        ensure!(answered == id.to_string(), "request {id} got the answer to {answered}");
        ensure!(head.status == 200, "request {id} got status {}", head.status);
        answers.push((id, name.to_owned()));
        Ok(())
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let connection = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}
