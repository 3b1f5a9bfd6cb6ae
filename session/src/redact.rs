//! Keeps secrets out of events, recordings and the screen: they are removed where they are observed, so nothing later can leak
//! them.
//!
//! By name only: a header, a query parameter or a variable whose name says that its value is a secret. Bodies are not looked into.

use std::borrow::Cow;

/// What stands in the place of a secret inside a text.
pub const MASK: &str = "‹redacted›";

/// Headers whose value is a credential.
const HEADERS: [&str; 12] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-vault-token",
    "sec-websocket-key",
];

/// Headers whose value is an address that may carry a secret in its query.
const ADDRESS_HEADERS: [&str; 5] =
    ["referer", "location", "content-location", "x-original-url", "x-rewrite-url"];

/// Parts of a name (of a variable, parameter or header) that say that the value is a secret; without `_` and `-`, lower case.
const WORDS: [&str; 16] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "credential",
    "cookie",
    "authorization",
    "signature",
    "sessionid",
];

/// Names that are secrets as a whole but too short to look for inside of others.
const WHOLE: [&str; 8] = ["auth", "sig", "key", "jwt", "code", "pin", "otp", "dsn"];

/// Names that hold such a word and are none.
const HARMLESS: [&str; 4] = ["pwd", "oldpwd", "tokenizersparallelism", "gitaskpass"];

/// Whether the name of a variable, parameter or option says that its value is a secret.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    !HARMLESS.contains(&plain.as_str())
        && (WHOLE.contains(&plain.as_str()) || WORDS.iter().any(|word| plain.contains(word)))
}

/// The value of a header as it may be shown, and whether something was taken out of it.
#[must_use]
pub fn header<'a>(name: &str, value: &'a [u8]) -> (Cow<'a, [u8]>, bool) {
    let is = |list: &[&str]| list.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is(&HEADERS) || is_secret_name(name) {
        return (Cow::Borrowed(b""), true);
    }
    if is(&ADDRESS_HEADERS)
        && let Ok(text) = std::str::from_utf8(value)
        && let Cow::Owned(clean) = target(text)
    {
        return (Cow::Owned(clean.into_bytes()), true);
    }
    (Cow::Borrowed(value), false)
}

/// A request target or URL with the values of secret query parameters, and the password before a host, masked.
#[must_use]
pub fn target(text: &str) -> Cow<'_, str> {
    let without_password = url_password(text);
    let Some((path, query)) = without_password.split_once('?') else { return without_password };
    let (query, fragment) =
        query.split_once('#').map_or((query, None), |(query, fragment)| (query, Some(fragment)));
    let secret = |pair: &str| {
        pair.split_once('=')
            .is_some_and(|(name, value)| !value.is_empty() && value != MASK && is_secret_name(name))
    };
    if !query.split(['&', ';']).any(secret) {
        return without_password;
    }
    let mut clean = format!("{path}?");
    for part in query.split_inclusive(['&', ';']) {
        let (pair, separator) = match part.strip_suffix(['&', ';']) {
            Some(pair) => (pair, part.get(pair.len()..).unwrap_or_default()),
            None => (part, ""),
        };
        match pair.split_once('=') {
            Some((name, _)) if secret(pair) => {
                clean.push_str(name);
                clean.push('=');
                clean.push_str(MASK);
            }
            _ => clean.push_str(pair),
        }
        clean.push_str(separator);
    }
    if let Some(fragment) = fragment {
        clean.push('#');
        clean.push_str(fragment);
    }
    Cow::Owned(clean)
}

/// The value of an environment variable as it may be shown: a secret by its name, or a URL with a password in it.
#[must_use]
pub fn variable<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if value.is_empty() {
        Cow::Borrowed(value)
    } else if is_secret_name(name) {
        Cow::Borrowed(MASK)
    } else {
        target(value)
    }
}

/// A command line as it may be shown: values of options like `--token=x` and `--password x`, and passwords in URLs.
#[must_use]
pub fn arguments<T: AsRef<[u8]>>(arguments: &[T]) -> Vec<bytes::Bytes> {
    let mut secret_follows = false;
    let mut clean = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let bytes = argument.as_ref();
        let text = String::from_utf8_lossy(bytes);
        let masked = if std::mem::take(&mut secret_follows) && !text.starts_with('-') {
            Some(MASK.to_owned())
        } else if let Some((name, value)) = text.split_once('=') {
            let shown = variable(name.trim_start_matches('-'), value);
            (shown != value).then(|| format!("{name}={shown}"))
        } else {
            secret_follows = text.starts_with("--") && is_secret_name(&text);
            let shown = target(&text);
            (shown != text).then(|| shown.into_owned())
        };
        clean.push(masked.map_or_else(|| bytes::Bytes::copy_from_slice(bytes), bytes::Bytes::from));
    }
    clean
}

/// `scheme://user:password@host` with the password masked.
fn url_password(text: &str) -> Cow<'_, str> {
    let found = text.split_once("://").and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, host) = authority.rsplit_once('@')?;
        let (name, password) = user.split_once(':')?;
        let after = rest.strip_prefix(authority)?;
        (!password.is_empty()).then(|| format!("{scheme}://{name}:{MASK}@{host}{after}"))
    });
    found.map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_do_not_pass() {
        for (name, value) in [
            ("Authorization", "Bearer abc"),
            ("COOKIE", "sid=abc"),
            ("Set-Cookie", "sid=abc"),
            ("X-Api-Key", "abc"),
            ("X-My-Service-Token", "abc"),
            ("Proxy-Authorization", "Basic abc"),
        ] {
            assert_eq!(header(name, value.as_bytes()), (Cow::Borrowed(b"".as_slice()), true), "{name}");
        }
        assert_eq!(header("Accept", b"*/*"), (Cow::Borrowed(b"*/*".as_slice()), false));
        let (referer, redacted) = header("Referer", b"http://a/b?token=abc&x=1");
        assert_eq!((&*referer, redacted), (format!("http://a/b?token={MASK}&x=1").as_bytes(), true));
    }

    #[test]
    fn targets_keep_their_shape() {
        for (text, wanted) in [
            ("/a?b=c", "/a?b=c".to_owned()),
            ("/a?access_token=x&b=c#f", format!("/a?access_token={MASK}&b=c#f")),
            ("/a?api-key=x;b=c", format!("/a?api-key={MASK};b=c")),
            ("/a?token=", "/a?token=".to_owned()),
            ("postgres://me:pw@db:5432/x?sig=1", format!("postgres://me:{MASK}@db:5432/x?sig={MASK}")),
            ("http://host/a@b:c", "http://host/a@b:c".to_owned()),
        ] {
            assert_eq!(target(text), wanted);
        }
    }

    #[test]
    fn variables_and_arguments() {
        assert_eq!(variable("DB_PASSWORD", "x"), MASK);
        assert_eq!(variable("AWS_SECRET_ACCESS_KEY", "x"), MASK);
        assert_eq!(variable("PWD", "/home"), "/home");
        assert_eq!(variable("MONKEY", "banana"), "banana");
        assert_eq!(variable("REDIS_URL", "redis://:pw@r/0"), format!("redis://:{MASK}@r/0"));
        let shown = arguments(&["curl", "--token", "abc", "--password=x", "-v", "http://u:p@h/"]);
        let shown: Vec<_> =
            shown.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
        let password = format!("--password={MASK}");
        assert_eq!(shown, ["curl", "--token", MASK, &password, "-v", &format!("http://u:{MASK}@h/")]);
    }

    proptest! {
        /// No secret passes, and redacting twice changes nothing more.
        #[test]
        fn a_secret_never_passes(secret in "[a-z0-9]{6,12}", path in "/[a-z]{0,5}", other in "[a-z]{1,5}=[A-Z]{0,5}") {
            let text = format!("{path}?{other}&password={secret}&{other}");
            let clean = target(&text).into_owned();
            prop_assert!(!clean.contains(&secret));
            prop_assert_eq!(target(&clean), clean.as_str());
        }
    }
}
