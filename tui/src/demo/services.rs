//! The shop: what each service answers, and whom it asks.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    Service,
    http::{self, Answer, Request},
};

/// Port of the stock service: raw TCP, one line each way.
const STOCK_PORT: u16 = 7000;
/// Set where somebody sees what the orders service writes.
pub(super) const LOG: &str = "SHOP_LOG";
/// Pause between two visits of the shoppers: a few requests a second in all, enough to see and not to hurt.
const VISIT_PAUSE: Duration = Duration::from_millis(400);

/// Runs one service until the process is ended.
pub(super) fn run(service: Service) -> Result<ExitCode> {
    match service {
        Service::Catalog => http::serve(80, catalog),
        Service::Orders => http::serve(80, logged_orders),
        Service::Storefront => http::serve(80, storefront),
        Service::Stock => stock(),
        Service::Shoppers => shoppers(),
    }
    .with_context(|| format!("run the demo's service {service:?}"))?;
    Ok(ExitCode::SUCCESS)
}

fn catalog(request: &Request) -> Answer {
    let items = match std::fs::read_to_string("/app/catalog.json").map_err(|error| error.to_string()) {
        Ok(text) => serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default(),
        Err(error) => return failed("read the catalog", &error),
    };
    match request.path.strip_prefix("/items/") {
        None => Answer(200, Value::Array(items).to_string()),
        Some(id) => {
            match items.iter().find(|item| item.get("id").and_then(Value::as_u64) == id.parse().ok()) {
                Some(item) => Answer(200, item.to_string()),
                None => Answer(404, json!({ "error": "no such item" }).to_string()),
            }
        }
    }
}

/// Orders; on the screen of the demo it writes what it does, as programs do.
fn logged_orders(request: &Request) -> Answer {
    let answer = orders(request);
    if std::env::var_os(LOG).is_some() {
        let Answer(status, body) = &answer;
        // A closed terminal must not end the service.
        drop(writeln!(
            io::stdout(),
            "{} {} {} → {status} {body}",
            request.method,
            request.path,
            request.body
        ));
    }
    answer
}

/// The service that the demo's session impersonates: file, environment, HTTP by name, raw TCP by name.
fn orders(request: &Request) -> Answer {
    if request.method == "GET" {
        return Answer(200, json!({ "ok": true }).to_string());
    }
    let order: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let item = order.get("item").and_then(Value::as_u64).unwrap_or(1);
    let settings = match std::fs::read_to_string("/app/orders.toml") {
        Ok(settings) => settings,
        Err(error) => return failed("read the settings", &error.to_string()),
    };
    let currency = settings
        .lines()
        .find_map(|line| line.strip_prefix("currency = "))
        .unwrap_or("?")
        .trim_matches('"')
        .to_owned();
    let price = match http::ask("GET", "shop-catalog", &format!("/items/{item}"), "") {
        Ok((200, body)) => {
            serde_json::from_str::<Value>(&body).ok().and_then(|item| item.get("price").cloned())
        }
        Ok(_) => return Answer(404, json!({ "error": "no such item" }).to_string()),
        Err(error) => return failed("ask the catalog", &error.to_string()),
    };
    match left_in_stock(item) {
        Ok(0) => Answer(409, json!({ "error": "sold out", "item": item }).to_string()),
        Ok(left) => {
            let served_by = std::env::var("SHOP_SERVED_BY").unwrap_or_else(|_| "the pod".to_owned());
            let region = std::env::var("SHOP_REGION").unwrap_or_default();
            let answer = json!({ "item": item, "price": price, "currency": currency, "left": left, "region": region, "served_by": served_by });
            Answer(201, answer.to_string())
        }
        Err(error) => failed("ask the stock", &error.to_string()),
    }
}

fn left_in_stock(item: u64) -> io::Result<u64> {
    let connection = http::connect("shop-stock", STOCK_PORT)?;
    writeln!(&connection, "{item}")?;
    let mut line = String::new();
    BufReader::new(&connection).read_line(&mut line)?;
    line.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Each item has twelve pieces; when they are sold the shelf is filled again, so that errors happen now and then.
fn stock() -> io::Result<()> {
    static SOLD: AtomicU32 = AtomicU32::new(0);
    let listener = http::listen(STOCK_PORT)?;
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || -> io::Result<()> {
            for line in BufReader::new(&connection).lines() {
                line?;
                writeln!(&connection, "{}", 12 - SOLD.fetch_add(1, Ordering::Relaxed) % 13)?;
            }
            Ok(())
        });
    }
    Ok(())
}

fn storefront(request: &Request) -> Answer {
    let answer = match request.path.as_str() {
        "/" => http::ask("GET", "shop-catalog", "/items", ""),
        "/buy" => http::ask("POST", "shop-orders", "/orders", &request.body),
        _ => http::ask("GET", "shop-orders", "/healthz", ""),
    };
    match answer {
        Ok((status, body)) => Answer(status, body),
        Err(error) => failed("ask another service", &error.to_string()),
    }
}

fn shoppers() -> io::Result<()> {
    for visit in 0_u64.. {
        let body = json!({ "item": visit % 5 + 1, "visit": visit }).to_string();
        // A shop that is just starting or being debugged answers with errors; shoppers come back.
        for (method, path) in [("GET", "/"), ("POST", "/buy"), ("GET", "/health")] {
            drop(http::ask(method, "shop-storefront", path, &body));
            std::thread::sleep(VISIT_PAUSE);
        }
    }
    Ok(())
}

fn failed(what: &str, why: &str) -> Answer {
    Answer(500, json!({ "error": format!("cannot {what}: {why}") }).to_string())
}
