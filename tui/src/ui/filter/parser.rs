//! Builds the tree of a filter. Grammar: `or = and {'|' and}`, `and = not {['&'] not}`, `not = '!' not | '(' or ')' | test`.

use std::ops;

use thiserror::Error;

use super::{
    ast::{Expr, Field, Order, Pattern, Property, Range, Test, Word},
    lexer::{Token, TokenKind, tokens},
};

/// Depth of `(` and `!`: deeper ones come from a mistake, and each level costs stack.
const DEPTH: usize = 64;

/// Why a text is no filter, and which bytes of it are to blame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub(crate) struct FilterError {
    pub(crate) reason: String,
    pub(crate) at: ops::Range<usize>,
}

/// An operator as help and completion show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operator {
    pub(crate) name: &'static str,
    pub(crate) argument: &'static str,
    pub(crate) help: &'static str,
    make: Make,
}

#[derive(Clone, Copy, Debug)]
enum Make {
    Text(Field),
    Is(Property),
    Status,
    Port,
    Pid,
    Latency,
    Size,
}

const fn text(name: &'static str, field: Field, help: &'static str) -> Operator {
    Operator { name, argument: "RE", help, make: Make::Text(field) }
}

const fn is(name: &'static str, property: Property, help: &'static str) -> Operator {
    Operator { name, argument: "", help, make: Make::Is(property) }
}

const fn number(name: &'static str, argument: &'static str, make: Make, help: &'static str) -> Operator {
    Operator { name, argument, help, make }
}

/// All operators: parser, printer, help and completion read this table.
pub(crate) const OPERATORS: [Operator; 35] = [
    text("m", Field::Method, "method of a request"),
    text("u", Field::Url, "path and host of a request"),
    text("d", Field::Host, "host name: request, connection or question"),
    number("c", "5|404|400-499", Make::Status, "status of the response"),
    text("h", Field::Header, "a header, as name: value"),
    text("hq", Field::RequestHeader, "a header of the request"),
    text("hs", Field::ResponseHeader, "a header of the response"),
    text("b", Field::Body, "body"),
    text("bq", Field::RequestBody, "body of the request"),
    text("bs", Field::ResponseBody, "body of the response"),
    text("t", Field::ContentType, "content type"),
    text("src", Field::Source, "address that it comes from"),
    text("dst", Field::Destination, "address that it goes to"),
    number("port", "80|8000-8999", Make::Port, "port of the target, or of the peer"),
    number("pid", "N", Make::Pid, "process"),
    text("cmd", Field::Command, "name of the process"),
    text("pod", Field::Pod, "pod of the cluster where it happened"),
    number("lat", ">200ms", Make::Latency, "latency"),
    number("size", ">10k", Make::Size, "bytes"),
    is("mirror", Property::Mirror, "mirrored"),
    is("steal", Property::Steal, "stolen"),
    is("out", Property::Outgoing, "outgoing"),
    text("file", Field::File, "path of a file"),
    text("op", Field::Operation, "file operation: open, read, stat, ..."),
    text("dns", Field::Dns, "question or answer of a lookup"),
    text("rc", Field::Rcode, "result of a lookup, e.g. NXDOMAIN"),
    is("e", Property::Error, "failed"),
    is("pending", Property::Pending, "not ended yet"),
    is("marked", Property::Marked, "marked with m"),
    text("comment", Field::Comment, "comment written with ;"),
    is("replay", Property::Replay, "sent again by you"),
    is("remote", Property::Remote, "done in the target"),
    is("local", Property::Local, "done on this machine"),
    is("refused", Property::Refused, "refused by a rule"),
    is("all", Property::All, "everything"),
];

/// The filter that a text means; an empty text means everything.
pub(crate) fn parse(text: &str) -> Result<Expr, FilterError> {
    let tokens = tokens(text).map_err(|unclosed| FilterError {
        reason: "the quote is not closed".to_owned(),
        at: unclosed.0..text.len(),
    })?;
    if tokens.is_empty() {
        return Ok(Expr::Test(Test::Is(Property::All)));
    }
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end: text.len(), depth: 0 };
    let expr = parser.or()?;
    match parser.tokens.next() {
        None => Ok(expr),
        Some(token) => Err(error("this `)` closes nothing", &token)),
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    end: usize,
    depth: usize,
}

impl Parser {
    fn or(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.and()?];
        while self.tokens.next_if(|token| token.kind == TokenKind::Or).is_some() {
            parts.push(self.and()?);
        }
        Ok(join(parts, Expr::Or, |part| match part {
            Expr::Or(inner) => Ok(inner),
            other => Err(other),
        }))
    }

    fn and(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.not()?];
        loop {
            let explicit = self.tokens.next_if(|token| token.kind == TokenKind::And).is_some();
            let ends =
                self.tokens.peek().is_none_or(|next| matches!(next.kind, TokenKind::Or | TokenKind::Close));
            if ends && !explicit {
                break;
            }
            parts.push(self.not()?);
        }
        Ok(join(parts, Expr::And, |part| match part {
            Expr::And(inner) => Ok(inner),
            other => Err(other),
        }))
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        let Some(token) = self.tokens.next() else {
            return Err(FilterError {
                reason: "something is missing here".to_owned(),
                at: self.end..self.end,
            });
        };
        match &token.kind {
            TokenKind::Not => {
                self.deeper(&token)?;
                let inner = self.not()?;
                self.depth -= 1;
                Ok(Expr::Not(Box::new(inner)))
            }
            TokenKind::Open => {
                self.deeper(&token)?;
                let inner = self.or()?;
                self.depth -= 1;
                match self.tokens.next() {
                    Some(Token { kind: TokenKind::Close, .. }) => Ok(inner),
                    _ => Err(error("this `(` is not closed", &token)),
                }
            }
            TokenKind::Operator(name) => self.operator(name, &token),
            TokenKind::Text(word) => Ok(Expr::Test(Test::Word(Word::new(word)))),
            TokenKind::Close | TokenKind::And | TokenKind::Or => {
                Err(error("something is missing before this", &token))
            }
        }
    }

    fn deeper(&mut self, token: &Token) -> Result<(), FilterError> {
        self.depth += 1;
        if self.depth > DEPTH { Err(error("nested too deeply", token)) } else { Ok(()) }
    }

    fn operator(&mut self, name: &str, token: &Token) -> Result<Expr, FilterError> {
        let Some(operator) = OPERATORS.iter().find(|operator| operator.name == name) else {
            return Err(error(&format!("`~{name}` is not an operator; F1 lists them"), token));
        };
        if let Make::Is(property) = operator.make {
            return Ok(Expr::Test(Test::Is(property)));
        }
        let missing = || error(&format!("after `~{name}` {} must follow", operator.argument), token);
        let (argument, at) = match self.tokens.next_if(|next| matches!(next.kind, TokenKind::Text(_))) {
            Some(Token { kind: TokenKind::Text(argument), start, end }) => (argument, start..end),
            _ => return Err(missing()),
        };
        argument_test(operator, &argument).map(Expr::Test).map_err(|reason| FilterError { reason, at })
    }
}

fn argument_test(operator: &Operator, argument: &str) -> Result<Test, String> {
    let wrong = || format!("`{argument}` does not fit: write ~{} {}", operator.name, operator.argument);
    match operator.make {
        Make::Text(field) => Pattern::new(argument)
            .map(|pattern| Test::Text(field, pattern))
            .map_err(|error| regex_reason(&error)),
        Make::Status => status(argument).map(Test::Status).ok_or_else(wrong),
        Make::Port => range(argument, u32::from(u16::MAX)).map(Test::Port).ok_or_else(wrong),
        Make::Pid => argument.parse().map(Test::Pid).map_err(|_| wrong()),
        Make::Latency => {
            compared(argument, duration_ns).map(|(order, ns)| Test::Latency(order, ns)).ok_or_else(wrong)
        }
        Make::Size => compared(argument, bytes).map(|(order, n)| Test::Size(order, n)).ok_or_else(wrong),
        Make::Is(property) => Ok(Test::Is(property)),
    }
}

/// The last line of the library's message says what is wrong; the ones before draw it.
fn regex_reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("not a regular expression: {}", last.trim_start_matches("error: "))
}

/// `5` means 500-599, `404` itself.
fn status(text: &str) -> Option<Range> {
    match text.parse::<u32>() {
        Ok(class @ 1..=9) => Some(Range { low: class * 100, high: class * 100 + 99 }),
        _ => range(text, 999),
    }
}

fn range(text: &str, most: u32) -> Option<Range> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high && high <= most).then_some(Range { low, high })
}

fn compared(text: &str, number: impl Fn(&str) -> Option<u64>) -> Option<(Order, u64)> {
    let orders = [
        (">=", Order::AtLeast),
        ("<=", Order::AtMost),
        (">", Order::Above),
        ("<", Order::Below),
        ("", Order::AtLeast),
    ];
    let (sign, order) = orders.into_iter().find(|(sign, _)| text.starts_with(sign))?;
    Some((order, number(text.strip_prefix(sign)?)?))
}

/// `200ms`, `1.5s`, `90us`; without a unit milliseconds, as the lists show them.
fn duration_ns(text: &str) -> Option<u64> {
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
    ];
    units
        .iter()
        .find_map(|(unit, scale)| scaled(text.strip_suffix(unit)?, *scale))
        .or_else(|| scaled(text, 1_000_000))
}

/// `10k`, `2M`, `512`, in powers of 1024 as the lists show them.
fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix(['b', 'B']).unwrap_or(text);
    let units =
        [('k', 1 << 10), ('K', 1 << 10), ('m', 1 << 20), ('M', 1 << 20), ('g', 1 << 30), ('G', 1 << 30)];
    units
        .iter()
        .find_map(|(unit, scale)| scaled(text.strip_suffix(*unit)?, *scale))
        .or_else(|| scaled(text, 1))
}

/// A decimal number times a scale, exactly.
fn scaled(text: &str, scale: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !(part.is_empty() || digits(part)) || (part.is_empty() && text.contains('.')) {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let mut place = scale;
    for digit in part.bytes() {
        place /= 10;
        value = value.checked_add(u64::from(digit - b'0').checked_mul(place)?)?;
    }
    Some(value)
}

/// One part stays itself; parts of the same kind are taken in, so that the tree has its normal form.
fn join(parts: Vec<Expr>, make: fn(Vec<Expr>) -> Expr, same: fn(Expr) -> Result<Vec<Expr>, Expr>) -> Expr {
    let mut flat = Vec::new();
    for part in parts {
        match same(part) {
            Ok(inner) => flat.extend(inner),
            Err(other) => flat.push(other),
        }
    }
    match flat.len() {
        1 => flat.remove(0),
        _ => make(flat),
    }
}

fn error(reason: &str, token: &Token) -> FilterError {
    FilterError { reason: reason.to_owned(), at: token.start..token.end }
}

impl Operator {
    /// The operator that a test of the tree came from.
    pub(super) fn of(test: &Test) -> Option<&'static str> {
        let made = |operator: &&Self| match (operator.make, test) {
            (Make::Text(field), Test::Text(other, _)) => field == *other,
            (Make::Is(property), Test::Is(other)) => property == *other,
            (Make::Status, Test::Status(_))
            | (Make::Port, Test::Port(_))
            | (Make::Pid, Test::Pid(_))
            | (Make::Latency, Test::Latency(..))
            | (Make::Size, Test::Size(..)) => true,
            _ => false,
        };
        OPERATORS.iter().find(made).map(|operator| operator.name)
    }
}
