//! A request as text that is edited before it is sent again: what an editor gets, and what it means when it comes back.

use mirrord_protocol::session::v1::{Header, Request};

/// Headers that are made anew for the new body and connection.
const OWN: [&str; 4] = ["content-length", "connection", "transfer-encoding", "expect"];

/// What shall be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// The text for the editor, or why the request cannot be one.
pub(crate) fn write(request: &Request) -> Result<String, &'static str> {
    let body = request.body.as_ref();
    if body.is_some_and(|body| body.data.is_empty() && body.size > 0) {
        return Err("the body is still at the session host; press the key again");
    }
    let data = body.map(|body| body.data.as_ref()).unwrap_or_default();
    let data = std::str::from_utf8(data).map_err(|_| "the body is not text, so it cannot be edited")?;
    let mut text = String::from(
        "# Goes to the local process once the editor is left, after a question. Nothing is sent when all of it is removed\n\
         # or nothing is changed. Lines like these are left out.\n",
    );
    let redacted: Vec<_> = request.headers.iter().filter(|header| header.redacted).collect();
    if !redacted.is_empty() {
        let names: Vec<_> = redacted.iter().map(|header| header.name.as_str()).collect();
        text.push_str(&format!("# Secret, and therefore not here: {}\n", names.join(", ")));
    }
    if body.is_some_and(|body| body.truncated) {
        text.push_str("# Only the beginning of the body was kept.\n");
    }
    text.push_str(&format!("{} {}\n", request.method, request.path));
    let own = |header: &&Header| OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own));
    for header in request.headers.iter().filter(|header| !header.redacted && !own(header)) {
        text.push_str(&format!("{}: {}\n", header.name, String::from_utf8_lossy(&header.value)));
    }
    text.push('\n');
    text.push_str(data);
    Ok(text)
}

/// What an edited text means; `None` when nothing is left of it.
pub(crate) fn parse(text: &str) -> Result<Option<Draft>, String> {
    let mut rest = text;
    let mut line = || -> Option<&str> {
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let is_last = rest.is_empty();
        rest = after;
        (!is_last).then(|| first.trim_end_matches('\r'))
    };
    let first = loop {
        match line() {
            None => return Ok(None),
            Some(comment) if comment.starts_with('#') || comment.trim().is_empty() => {}
            Some(first) => break first,
        }
    };
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(format!("`{first}` is not METHOD PATH"));
    };
    let mut headers = Vec::new();
    while let Some(header) = line().filter(|line| !line.trim().is_empty()) {
        let (name, value) =
            header.split_once(':').ok_or_else(|| format!("`{header}` is not a header, NAME: VALUE"))?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    // Editors end the last line; a body of one line did not have that.
    let body = match rest.strip_suffix('\n') {
        Some(line) if !line.contains('\n') => line,
        _ => rest,
    };
    Ok(Some(Draft { method: method.to_owned(), path: path.to_owned(), headers, body: body.to_owned() }))
}

#[cfg(test)]
mod tests {
    use mirrord_protocol::session::v1::Body;
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, value: &str) -> Header {
        Header { name: name.to_owned(), value: value.as_bytes().to_vec().into(), redacted: false }
    }

    #[test]
    fn what_is_not_changed_comes_back() {
        let request = Request {
            method: "POST".to_owned(),
            path: "/orders?a=1".to_owned(),
            headers: vec![
                header("host", "shop"),
                header("Content-Length", "9"),
                Header { name: "cookie".to_owned(), redacted: true, ..Header::default() },
            ],
            body: Some(Body { data: "{\"qty\":2}".into(), size: 9, truncated: false }),
            ..Request::default()
        };
        let text = write(&request).unwrap();
        assert!(text.contains("not here: cookie"), "{text}");
        let draft = parse(&text).unwrap().unwrap();
        assert_eq!((draft.method.as_str(), draft.path.as_str()), ("POST", "/orders?a=1"));
        assert_eq!(draft.headers, [("host".to_owned(), "shop".to_owned())]);
        assert_eq!(draft.body, "{\"qty\":2}");
        assert_eq!(parse(&(text + "\n")).unwrap().unwrap(), draft, "editors end the last line");
    }

    #[test]
    fn nothing_left_is_nothing_sent_and_what_is_wrong_is_said() {
        assert_eq!(parse("# only\n\n# comments\n"), Ok(None));
        assert_eq!(parse(""), Ok(None));
        assert!(parse("GET\n").unwrap_err().contains("METHOD PATH"));
        assert!(parse("GET /\nno header\n").unwrap_err().contains("no header"));
        let binary = Body { data: vec![0xff].into(), size: 1, truncated: false };
        assert!(write(&Request { body: Some(binary), ..Request::default() }).is_err());
        let away = Body { size: 5, ..Body::default() };
        assert!(write(&Request { body: Some(away), ..Request::default() }).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            drop(parse(&text));
        }
    }
}
