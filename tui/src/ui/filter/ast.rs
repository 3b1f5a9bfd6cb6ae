//! The tree of a filter. Normal form: `And` and `Or` have at least two children and none of their own kind.

use regex::Regex;

/// What an event must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Test(Test),
}

/// One question to an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    /// `~m RE` and the like: one text, or some texts, of the event match.
    Text(Field, Pattern),
    /// `~c 5`, `~c 404`, `~c 400-499`.
    Status(Range),
    /// `~port 80`, `~port 8000-8999`.
    Port(Range),
    /// `~pid 12`.
    Pid(u32),
    /// `~lat >200ms`, nanoseconds.
    Latency(Order, u64),
    /// `~size >10k`, bytes.
    Size(Order, u64),
    /// A property without argument.
    Is(Property),
    /// A bare word: part of the row.
    Word(Word),
}

/// Texts that a pattern can be asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Method,
    Url,
    Host,
    Header,
    RequestHeader,
    ResponseHeader,
    Body,
    RequestBody,
    ResponseBody,
    ContentType,
    Source,
    Destination,
    File,
    Operation,
    Dns,
    Rcode,
    Command,
    Pod,
    Comment,
}

/// Properties that an event has or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    All,
    Mirror,
    Steal,
    Outgoing,
    Error,
    Pending,
    Marked,
    Replay,
    Remote,
    Local,
    Refused,
}

/// Inclusive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) low: u32,
    pub(crate) high: u32,
}

/// How a number is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// A regular expression that knows its text. Without a capital letter in it, case does not matter.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

/// A plain text to be found, with the same rule about capital letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) any_case: bool,
}

/// A compiled pattern may take this much memory; the default of the library is 10 MiB.
const PATTERN_BYTES: usize = 1 << 20;

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, regex::Error> {
        let regex = regex::RegexBuilder::new(text)
            .case_insensitive(any_case(text))
            .size_limit(PATTERN_BYTES)
            .build()?;
        Ok(Self { text: text.to_owned(), regex })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Word {
    pub(crate) fn new(text: &str) -> Self {
        let any_case = any_case(text);
        Self { text: if any_case { text.to_lowercase() } else { text.to_owned() }, any_case }
    }

    pub(crate) fn is_in(&self, text: &str) -> bool {
        if !self.any_case {
            return text.contains(&self.text);
        }
        // Nearly all texts are ASCII: comparing in place saves an allocation for each row of a refilter.
        if text.is_ascii() && self.text.is_ascii() {
            let (text, word) = (text.as_bytes(), self.text.as_bytes());
            return word.is_empty() || text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
        }
        text.to_lowercase().contains(&self.text)
    }
}

fn any_case(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}
