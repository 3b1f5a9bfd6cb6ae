//! One line per event, for people who read along in a terminal or a CI log.

use std::net::IpAddr;

use mirrord_protocol::session::v1::{
    self as wire, Direction, Event, Mode, Where, connection::Stage, event::Detail,
    process_event::Stage as ProcessStage,
};

/// Local time is not known without a time zone library; UTC of day is enough to order lines and compare with logs.
fn clock(time_ns: i64) -> String {
    let ms = time_ns.div_euclid(1_000_000);
    let (s, ms) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    format!(
        "{:02}:{:02}:{:02}.{ms:03}",
        s.div_euclid(3600).rem_euclid(24),
        s.div_euclid(60).rem_euclid(60),
        s.rem_euclid(60)
    )
}

/// The line of an event; `None` for those that a list does not show (a pending one is shown when it is done).
pub(crate) fn line(event: &Event) -> Option<String> {
    let detail = event.detail.as_ref()?;
    if event.pending && !matches!(detail, Detail::ConnectionDetail(_)) {
        return None;
    }
    let body = match detail {
        Detail::Request(request) => request_line(event, request),
        Detail::ConnectionDetail(connection) => connection_line(event, connection)?,
        Detail::Dns(dns) => dns_line(event, dns),
        Detail::File(file) => format!("file {:<9} {}{}", file.operation, event.subject, outcome(event)),
        Detail::Process(process) => process_line(event, process)?,
        Detail::Port(port) => format!("port {} {}", port.remote, port.text),
        Detail::Agent(agent) => format!("agent {}", agent.text),
        Detail::Warning(warning) if warning.hint.is_empty() => format!("warning: {}", warning.text),
        Detail::Warning(warning) => format!("warning: {}\n             hint: {}", warning.text, warning.hint),
        Detail::Output(_) => return None,
    };
    let ended = match detail {
        Detail::ConnectionDetail(connection) if connection.stage() == Stage::Closed => connection.duration_ns,
        _ => 0,
    };
    Some(format!("{} {body}", clock(event.time_ns.saturating_add(i64::try_from(ended).unwrap_or(0)))))
}

fn request_line(event: &Event, request: &wire::Request) -> String {
    let status = if request.status == 0 { "…".to_owned() } else { request.status.to_string() };
    let sign = sign(request.direction(), request.mode());
    let from = request.peer.as_ref().map_or_else(String::new, |peer| format!("  {}", address(peer)));
    let host = if request.direction() == Direction::Outgoing { request.host.as_str() } else { "" };
    let at = at_pod(event, request.direction());
    format!("{sign} {:<6} {host}{}  {status}{}{from}{at}", request.method, request.path, outcome(event))
}

fn connection_line(event: &Event, connection: &wire::Connection) -> Option<String> {
    let sign = sign(connection.direction(), connection.mode());
    let arrow = if connection.direction() == Direction::Outgoing { "→" } else { "←" };
    let name = if connection.name.is_empty() { String::new() } else { format!(" ({})", connection.name) };
    let peer = connection.peer.as_ref().map_or_else(|| event.subject.clone(), address);
    let port = if connection.direction() == Direction::Outgoing {
        String::new()
    } else {
        format!(" on {}", connection.port)
    };
    let what = match connection.stage() {
        Stage::Open => "open".to_owned(),
        Stage::Failed => format!("failed{}", outcome(event)),
        Stage::Closed => {
            let lost = if connection.gaps == 0 {
                String::new()
            } else {
                format!(", {} bytes lost", connection.gap_bytes)
            };
            format!("closed, {} in, {} out{lost}", size(connection.bytes_in), size(connection.bytes_out))
        }
        Stage::Unspecified => return None,
    };
    let at = at_pod(event, connection.direction());
    Some(format!("{sign} {} {arrow} {peer}{name}{port} {what}{}{at}", connection.transport, rule(event)))
}

/// The pod that was asked, with two spaces in front. What goes out needs none: it is the same for all.
fn at_pod(event: &Event, direction: Direction) -> String {
    if event.pod.is_empty() || direction != Direction::Incoming {
        return String::new();
    }
    format!("  @{}", event.pod)
}

fn dns_line(event: &Event, dns: &wire::Dns) -> String {
    let answer = if dns.answers.is_empty() { dns.rcode.clone() } else { dns.answers.join(" ") };
    format!("dns {} {} = {answer}{}", dns.question, dns.record, outcome(event))
}

fn process_line(event: &Event, process: &wire::ProcessEvent) -> Option<String> {
    let arguments: Vec<_> =
        process.arguments.iter().map(|argument| String::from_utf8_lossy(argument)).collect();
    Some(match process.stage() {
        ProcessStage::Start | ProcessStage::Exec if arguments.is_empty() => return None,
        ProcessStage::Start | ProcessStage::Exec => format!("process {} {}", event.pid, arguments.join(" ")),
        ProcessStage::Exit => {
            let how = process.exit.as_ref().map_or_else(String::new, |exit| match exit.signal {
                0 => format!(" with {}", exit.code),
                signal => format!(" by signal {signal}"),
            });
            format!("process {} ended{how}", event.pid)
        }
        ProcessStage::Outside => format!("process {} runs outside the session: {}", event.pid, event.subject),
        ProcessStage::Unspecified => return None,
    })
}

fn sign(direction: Direction, mode: Mode) -> char {
    match (direction, mode) {
        (Direction::Outgoing, _) => 'O',
        (Direction::Local, _) => 'L',
        (_, Mode::Steal) => 'S',
        (_, Mode::Mirror) => 'M',
        _ => ' ',
    }
}

/// Latency and error, each with two spaces in front.
fn outcome(event: &Event) -> String {
    let mut text = String::new();
    if event.latency_ns > 0 {
        text = format!("  {}", duration(event.latency_ns));
    }
    if !event.error.is_empty() {
        text = format!("{text}  {}", event.error);
    }
    text.push_str(&rule(event));
    text
}

/// The rule that decided, where it was not the remote default.
fn rule(event: &Event) -> String {
    match &event.decision {
        Some(decision) if decision.r#where() != Where::Remote && !decision.rule.is_empty() => {
            format!("  [{}]", decision.rule)
        }
        _ => String::new(),
    }
}

/// Three significant figures with a unit.
pub(crate) fn duration(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let ns = ns as f64;
    for (limit, divisor, unit) in [(1e3, 1.0, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")] {
        if ns < limit {
            return format!("{:.*}{unit}", decimals(ns / divisor), ns / divisor);
        }
    }
    format!("{:.2}s", ns / 1e9)
}

fn decimals(value: f64) -> usize {
    if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    }
}

/// Bytes with a unit, powers of 1000.
pub(crate) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three figures are shown")]
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// `IP:PORT`, IPv6 in brackets.
pub(crate) fn address(address: &wire::Address) -> String {
    let bytes: &[u8] = &address.ip;
    let ip = <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    match ip {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", address.port),
        Ok(ip) => format!("{ip}:{}", address.port),
        Err(_) => format!("?:{}", address.port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stolen_request_reads_as_one_line() {
        let event = Event {
            time_ns: 50_521_123_000_000,
            latency_ns: 3_140_000,
            pod: "shop-1".into(),
            detail: Some(Detail::Request(wire::Request {
                direction: Direction::Incoming.into(),
                mode: Mode::Steal.into(),
                method: "GET".into(),
                path: "/items/42".into(),
                status: 200,
                peer: Some(wire::Address { ip: vec![10, 1, 0, 7].into(), port: 4711 }),
                ..Default::default()
            })),
            ..Event::default()
        };
        assert_eq!(
            line(&event).unwrap(),
            "14:02:01.123 S GET    /items/42  200  3.14ms  10.1.0.7:4711  @shop-1"
        );
    }

    #[test]
    fn numbers_have_three_figures_and_a_unit() {
        assert_eq!(
            [duration(950), duration(1500), duration(12_340_000), duration(2_500_000_000)],
            ["950ns", "1.50us", "12.3ms", "2.50s"]
        );
        assert_eq!([size(12), size(2048), size(5_000_000)], ["12 B", "2.0 kB", "5.0 MB"]);
    }
}
