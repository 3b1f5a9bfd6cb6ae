//! Turns a path into the key that its latency is counted under: what looks like an identifier becomes a placeholder.

/// Longest route; a longer one is cut, so that keys stay small.
const ROUTE_BYTES: usize = 200;
/// From this length on, letters mixed with digits are taken for an identifier.
const OPAQUE_CHARS: usize = 16;
/// Shortest run of hexadecimal digits that is taken for an identifier: short ones are words like `feed` or years.
const HEX_CHARS: usize = 8;

/// `GET /items/42?page=2` becomes `GET /items/{n}`.
pub(crate) fn route(method: &str, target: &str) -> String {
    let mut route = String::with_capacity(method.len() + target.len() + 1);
    route.push_str(method);
    route.push(' ');
    let path = target.split(['?', '#']).next().unwrap_or_default();
    // An absolute target (to a proxy) keeps its host.
    let (scheme, path) = match path.split_once("://") {
        Some((scheme, path)) => (Some(scheme), path),
        None => (None, path),
    };
    if let Some(scheme) = scheme {
        route.push_str(scheme);
        route.push_str("://");
    }
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            route.push('/');
        }
        route.push_str(placeholder(segment).unwrap_or(segment));
        if route.len() > ROUTE_BYTES {
            let cut = route.floor_char_boundary(ROUTE_BYTES);
            route.truncate(cut);
            route.push('…');
            break;
        }
    }
    route
}

/// What stands for a segment that differs from call to call.
fn placeholder(segment: &str) -> Option<&'static str> {
    if segment.is_empty() || !segment.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if segment.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some("{n}");
    }
    if is_uuid(segment) {
        return Some("{uuid}");
    }
    if segment.len() >= HEX_CHARS && segment.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some("{hex}");
    }
    let opaque = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=~.".contains(&byte);
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    // Words with a number (`http2-status-page`) have few digits; a file name has an extension.
    let looks_opaque =
        segment.len() >= OPAQUE_CHARS && digits * 5 >= segment.len() && segment.bytes().all(opaque);
    looks_opaque.then_some("{id}")
}

fn is_uuid(segment: &str) -> bool {
    let mut lengths = [8usize, 4, 4, 4, 12].iter();
    segment
        .split('-')
        .all(|part| lengths.next() == Some(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && lengths.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_become_placeholders() {
        for (target, wanted) in [
            ("/", "GET /"),
            ("/items/42?page=2", "GET /items/{n}"),
            ("/items/42/parts/7", "GET /items/{n}/parts/{n}"),
            ("/u/550e8400-e29b-41d4-a716-446655440000/x", "GET /u/{uuid}/x"),
            ("/blob/deadbeef01", "GET /blob/{hex}"),
            ("/api/v1/feed", "GET /api/v1/feed"),
            ("/s/AbC123dEf456gHi789", "GET /s/{id}"),
            ("/http2-status-page-long", "GET /http2-status-page-long"),
            ("http://shop:80/items/1", "GET http://shop:80/items/{n}"),
            ("*", "GET *"),
            ("/a#frag", "GET /a"),
        ] {
            assert_eq!(route("GET", target), wanted);
        }
        assert!(route("GET", &"/ä".repeat(1000)).len() < ROUTE_BYTES + 16);
    }
}
