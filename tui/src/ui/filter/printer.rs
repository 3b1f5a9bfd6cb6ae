//! Writes a filter so that it parses to the same tree.

use std::fmt;

use super::{
    ast::{Expr, Order, Range, Test},
    parser::Operator,
};

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Or(parts) => joined(f, parts, " | ", |part| matches!(part, Self::Or(_))),
            Self::And(parts) => joined(f, parts, " ", |part| matches!(part, Self::Or(_) | Self::And(_))),
            Self::Not(inner) => {
                f.write_str("!")?;
                nested(f, inner, matches!(**inner, Self::Or(_) | Self::And(_)))
            }
            Self::Test(test) => test.fmt(f),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = Operator::of(self) {
            write!(f, "~{name}")?;
        }
        match self {
            Self::Text(_, pattern) => {
                f.write_str(" ")?;
                word(f, pattern.text())
            }
            Self::Status(range) => status(f, *range),
            Self::Port(range) => numbers(f, *range),
            Self::Pid(pid) => write!(f, " {pid}"),
            Self::Latency(order, ns) => write!(f, " {}{ns}ns", sign(*order)),
            Self::Size(order, bytes) => write!(f, " {}{bytes}", sign(*order)),
            Self::Is(_) => Ok(()),
            Self::Word(text) => word(f, &text.text),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    between: &str,
    wrap: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        nested(f, part, wrap(part))?;
    }
    Ok(())
}

fn nested(f: &mut fmt::Formatter<'_>, expr: &Expr, wrap: bool) -> fmt::Result {
    if wrap { write!(f, "({expr})") } else { write!(f, "{expr}") }
}

fn status(f: &mut fmt::Formatter<'_>, range: Range) -> fmt::Result {
    let class = range.low / 100;
    if (1..=9).contains(&class) && range.low == class * 100 && range.high == class * 100 + 99 {
        return write!(f, " {class}");
    }
    // A single digit would be read as a class.
    write!(f, " {}-{}", range.low, range.high)
}

fn numbers(f: &mut fmt::Formatter<'_>, range: Range) -> fmt::Result {
    if range.low == range.high {
        write!(f, " {}", range.low)
    } else {
        write!(f, " {}-{}", range.low, range.high)
    }
}

const fn sign(order: Order) -> &'static str {
    match order {
        Order::Above => ">",
        Order::AtLeast => ">=",
        Order::Below => "<",
        Order::AtMost => "<=",
    }
}

/// In quotes when the lexer would cut it or read it as something else.
fn word(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let special = |sign: char| sign.is_whitespace() || matches!(sign, '(' | ')' | '&' | '|' | '"');
    if !text.is_empty() && !text.starts_with(['~', '!']) && !text.contains(special) {
        return f.write_str(text);
    }
    f.write_str("\"")?;
    for sign in text.chars() {
        if matches!(sign, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{sign}")?;
    }
    f.write_str("\"")
}
