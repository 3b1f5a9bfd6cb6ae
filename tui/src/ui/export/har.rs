//! Requests as HAR 1.2, which browsers, proxies and test tools read.

use mirrord_protocol::session::v1::{Body, Event, Header, Request, event::Detail};
use serde_json::{Value, json};

use super::url;
use crate::ui::text;

/// The requests among the events. Others have no place in this format.
pub(crate) fn archive(events: &[Event]) -> Value {
    let entries: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.detail {
            Some(Detail::Request(request)) => Some(entry(event, request)),
            _ => None,
        })
        .collect();
    json!({ "log": {
        "version": "1.2",
        "creator": { "name": "mirrord-tui", "version": env!("CARGO_PKG_VERSION") },
        "entries": entries,
    }})
}

fn entry(event: &Event, request: &Request) -> Value {
    let ms = event.latency_ns / 1_000;
    let ms = f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1_000.0;
    json!({
        "startedDateTime": timestamp(event.time_ns),
        "time": ms,
        "request": {
            "method": request.method,
            "url": url(request),
            "httpVersion": request.protocol,
            "headers": headers(&request.headers),
            "queryString": query(&request.path),
            "cookies": [],
            "headersSize": -1,
            "bodySize": size(request.body.as_ref()),
            "postData": request.body.as_ref().filter(|body| !body.data.is_empty()).map(|body| content(body, &request.headers)),
        },
        "response": {
            "status": request.status,
            "statusText": "",
            "httpVersion": request.protocol,
            "headers": headers(&request.response_headers),
            "cookies": [],
            "content": request.response_body.as_ref().map_or_else(
                || json!({ "size": 0, "mimeType": "" }),
                |body| content(body, &request.response_headers),
            ),
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": size(request.response_body.as_ref()),
        },
        "cache": {},
        "timings": { "send": 0, "wait": ms, "receive": 0 },
        "serverIPAddress": request.peer.as_ref().and_then(text::ip).map(|ip| ip.to_string()).unwrap_or_default(),
        "comment": event.error,
        "_mirrord": { "seq": event.seq, "mode": format!("{:?}", request.mode()).to_lowercase(), "port": request.port },
    })
}

fn headers(headers: &[Header]) -> Vec<Value> {
    let value = |header: &Header| {
        let text = String::from_utf8_lossy(&header.value);
        if header.redacted && text.is_empty() { "‹redacted›".to_owned() } else { text.into_owned() }
    };
    headers.iter().map(|header| json!({ "name": header.name, "value": value(header) })).collect()
}

fn query(path: &str) -> Vec<Value> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            json!({ "name": name, "value": value })
        })
        .collect()
}

fn size(body: Option<&Body>) -> u64 {
    body.map_or(0, |body| body.size)
}

fn content(body: &Body, headers: &[Header]) -> Value {
    let mime = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-type"));
    let mime = mime.map(|header| String::from_utf8_lossy(&header.value)).unwrap_or_default();
    match std::str::from_utf8(&body.data) {
        Ok(text) => json!({ "size": body.size, "mimeType": mime, "text": text }),
        Err(_) => json!({ "size": body.size, "mimeType": mime, "comment": "not text, left out" }),
    }
}

/// RFC 3339 in UTC.
fn timestamp(time_ns: i64) -> String {
    let days = time_ns.div_euclid(86_400_000_000_000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{}Z", text::time_of_day(time_ns, 0))
}

/// Year, month and day of a day since 1970 in the Gregorian calendar (Howard Hinnant's days_from_civil, backwards).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_709_210_096_789_000_000), "2024-02-29T12:34:56.789Z");
    }

    #[test]
    fn requests_become_entries() {
        let request = Request {
            method: "GET".to_owned(),
            path: "/a?b=c".to_owned(),
            host: "h".to_owned(),
            status: 200,
            response_body: Some(Body { data: "hi".into(), size: 2, truncated: false }),
            ..Request::default()
        };
        let event = Event {
            seq: 3,
            latency_ns: 1_500_000,
            detail: Some(Detail::Request(request)),
            ..Event::default()
        };
        let har = archive(&[event, Event::default()]);
        let entries = har["log"]["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0]["time"], 1.5);
        assert_eq!(entries[0]["request"]["queryString"][0]["value"], "c");
        assert_eq!(entries[0]["response"]["content"]["text"], "hi");
    }
}
