//! A request as a curl command that a shell reads.

use mirrord_protocol::session::v1::Request;

use super::url;
use crate::ui::text::shell_word;

/// Headers that curl makes itself, or that would be wrong for another connection.
const OWN: [&str; 4] = ["content-length", "host", "connection", "transfer-encoding"];

/// The command, one line. Headers that were redacted are left out and said in a comment.
pub(crate) fn command(request: &Request) -> String {
    let mut words = vec!["curl".to_owned()];
    let body = request.body.as_ref().filter(|body| !body.data.is_empty());
    let implied = if body.is_some() { "POST" } else { "GET" };
    if request.method == "HEAD" {
        words.push("--head".to_owned());
    } else if request.method != implied {
        words.push(format!("-X {}", shell_word(&request.method)));
    }
    let mut missing = Vec::new();
    for header in &request.headers {
        if header.redacted {
            missing.push(header.name.as_str());
        } else if !OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own)) {
            let line = format!("{}: {}", header.name, String::from_utf8_lossy(&header.value));
            words.push(format!("-H {}", shell_word(&line)));
        }
    }
    if let Some(body) = body {
        match std::str::from_utf8(&body.data) {
            Ok(text) => words.push(format!("--data-raw {}", shell_word(text))),
            Err(_) => missing.push("body (not text)"),
        }
        if body.truncated {
            missing.push("rest of the body");
        }
    }
    words.push(shell_word(&url(request)));
    if !missing.is_empty() {
        words.push(format!("# left out: {}", missing.join(", ")));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::session::v1::{Body, Header};

    use super::*;

    #[test]
    fn a_shell_can_run_it() {
        let request = Request {
            method: "POST".to_owned(),
            path: "/orders?a=1&b='x'".to_owned(),
            host: "shop.svc".to_owned(),
            headers: vec![
                Header { name: "Content-Length".to_owned(), value: "3".into(), redacted: false },
                Header { name: "X-A".to_owned(), value: "it's".into(), redacted: false },
                Header { name: "Cookie".to_owned(), value: "".into(), redacted: true },
            ],
            body: Some(Body { data: "{\"a\":1}".into(), size: 7, truncated: false }),
            ..Request::default()
        };
        let expected = r#"curl -H 'X-A: it'\''s' --data-raw '{"a":1}' 'http://shop.svc/orders?a=1&b='\''x'\''' # left out: Cookie"#;
        assert_eq!(command(&request), expected);
        let plain =
            Request { method: "GET".to_owned(), path: "/".to_owned(), port: 80, ..Request::default() };
        assert_eq!(command(&plain), "curl http://localhost:80/");
    }
}
