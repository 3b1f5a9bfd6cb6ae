//! Which side a path belongs to: pure, no I/O.
//!
//! Rules are tried in their order, the first that matches decides; when none does, `otherwise` holds. A rule with a replacement
//! (a path mapping) says where the path really is; its own decision holds for the new path, and without a decision of its own the
//! rules behind it are asked with the new path.

use std::borrow::Cow;

use mirrord_protocol::layer::v1::{PathDecision, PathRule};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use thiserror::Error;

pub use crate::defaults::{Mode, Places, default_rules};

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The kernel goes on.
    Local,
    /// The target.
    Remote,
    /// Neither: the path does not exist.
    NotFound,
}

/// What was decided for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Where the call goes.
    pub side: Side,
    /// Name of the rule that decided.
    pub rule: &'a str,
    /// The rule counts for reading only.
    pub read_only: bool,
    /// The path to use, changed when a mapping applied.
    pub path: Cow<'a, [u8]>,
}

/// The compiled rules of a session.
#[derive(Debug)]
pub struct Decider {
    patterns: RegexSet,
    rules: Vec<Rule>,
    otherwise: Side,
}

#[derive(Debug)]
struct Rule {
    /// `None` for a mapping that does not decide by itself.
    side: Option<Side>,
    name: String,
    read_only: bool,
    mapping: Option<(Regex, Vec<u8>)>,
}

/// A rule cannot be used.
#[derive(Debug, Error)]
#[error("the pattern of `{rule}` is not a regular expression that can be used")]
pub struct DecideError {
    rule: String,
    #[source]
    source: regex::Error,
}

/// Rule name of what no rule matched.
const OTHERWISE: &str = "default mode";

impl Decider {
    /// Compiles the rules.
    ///
    /// # Errors
    /// When a pattern is no regular expression, naming its rule.
    pub fn new(rules: &[PathRule], otherwise: PathDecision) -> Result<Self, DecideError> {
        let compiled = rules.iter().map(Rule::compile).collect::<Result<_, _>>()?;
        let patterns = compile_set(rules).map_err(|source| culprit(rules, source))?;
        Ok(Self { patterns, rules: compiled, otherwise: side(otherwise).unwrap_or(Side::Local) })
    }

    /// Decides for an absolute, normalised path.
    #[must_use]
    pub fn decide<'a>(&'a self, path: &'a [u8]) -> Decision<'a> {
        self.decide_from(Cow::Borrowed(path), 0)
    }

    fn decide_from<'a>(&'a self, path: Cow<'a, [u8]>, first: usize) -> Decision<'a> {
        let found = self.patterns.matches(&path).iter().find(|index| *index >= first);
        let Some((index, rule)) = found.and_then(|index| self.rules.get(index).map(|rule| (index, rule)))
        else {
            return Decision { side: self.otherwise, rule: OTHERWISE, read_only: true, path };
        };
        let path = match &rule.mapping {
            Some((pattern, replacement)) => {
                Cow::Owned(pattern.replace(&path, replacement.as_slice()).into_owned())
            }
            None => path,
        };
        match rule.side {
            Some(side) => Decision { side, rule: &rule.name, read_only: rule.read_only, path },
            None => self.decide_from(path, index + 1),
        }
    }
}

impl Rule {
    fn compile(rule: &PathRule) -> Result<Self, DecideError> {
        // The set tells which rules match; only a mapping needs its pattern by itself.
        let mapping = match rule.replacement.as_str() {
            "" => None,
            replacement => Some((regex(rule)?, replacement.as_bytes().to_vec())),
        };
        let decided = side(rule.decision());
        Ok(Self {
            side: if mapping.is_some() { decided } else { Some(decided.unwrap_or(Side::Local)) },
            name: rule.name.clone(),
            read_only: rule.read_only,
            mapping,
        })
    }
}

/// Patterns of ASCII text are compiled for bytes, which takes a third of the time; `\\w` and its like then mean ASCII, and `.` any
/// byte, as paths need not be UTF-8. What asks for Unicode is compiled for it.
fn compile_set(rules: &[PathRule]) -> Result<RegexSet, regex::Error> {
    let build = |unicode| {
        let patterns = rules.iter().map(|rule| &rule.pattern);
        RegexSetBuilder::new(patterns).case_insensitive(true).unicode(unicode).build()
    };
    if rules.iter().all(|rule| rule.pattern.is_ascii()) {
        build(false).or_else(|_| build(true))
    } else {
        build(true)
    }
}

fn regex(rule: &PathRule) -> Result<Regex, DecideError> {
    let built = RegexBuilder::new(&rule.pattern).case_insensitive(true).build();
    built.map_err(|source| DecideError { rule: rule.name.clone(), source })
}

/// The error of the set, by the rule that it comes from. Patterns are compiled one by one only here, which takes longer than all
/// of them as a set.
fn culprit(rules: &[PathRule], source: regex::Error) -> DecideError {
    let first = rules.iter().find_map(|rule| regex(rule).err());
    first.unwrap_or_else(|| DecideError { rule: "all rules together".to_owned(), source })
}

const fn side(decision: PathDecision) -> Option<Side> {
    match decision {
        PathDecision::Unspecified => None,
        PathDecision::Local => Some(Side::Local),
        PathDecision::Remote => Some(Side::Remote),
        PathDecision::NotFound => Some(Side::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, decision: PathDecision, replacement: &str) -> PathRule {
        PathRule {
            pattern: pattern.to_owned(),
            decision: decision.into(),
            name: pattern.to_owned(),
            read_only: false,
            replacement: replacement.to_owned(),
        }
    }

    fn decider(rules: &[PathRule]) -> Decider {
        Decider::new(rules, PathDecision::Remote).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let decider = decider(&[
            rule("secret", PathDecision::NotFound, ""),
            rule("^/data/", PathDecision::Remote, ""),
            rule("^/", PathDecision::Local, ""),
        ]);
        for (path, side, name) in [
            ("/data/secret", Side::NotFound, "secret"),
            ("/data/x", Side::Remote, "^/data/"),
            ("/DATA/x", Side::Remote, "^/data/"),
            ("/x", Side::Local, "^/"),
        ] {
            let decision = decider.decide(path.as_bytes());
            assert_eq!((decision.side, decision.rule), (side, name), "{path}");
        }
    }

    #[test]
    fn without_a_match_the_mode_decides() {
        let decider = decider(&[rule("^/usr", PathDecision::Local, "")]);
        assert_eq!(decider.decide(b"/srv").side, Side::Remote);
        assert_eq!(decider.decide(b"/srv/\xff\xfe").side, Side::Remote);
        assert_eq!(decider.decide(b"/srv").rule, OTHERWISE);
    }

    #[test]
    fn a_mapping_says_where_the_path_is() {
        let decider = decider(&[
            rule("^/home/[^/]+/app", PathDecision::Unspecified, "/app"),
            rule("^/mapped", PathDecision::Remote, "/there"),
            rule("^/app", PathDecision::NotFound, ""),
        ]);
        let decision = decider.decide(b"/home/kim/app/x");
        assert_eq!((decision.side, decision.path.as_ref()), (Side::NotFound, &b"/app/x"[..]));
        let decision = decider.decide(b"/mapped/y");
        assert_eq!((decision.side, decision.path.as_ref()), (Side::Remote, &b"/there/y"[..]));
    }

    #[test]
    fn patterns_may_speak_unicode() {
        for (pattern, path) in
            [("^/größe", "/GRÖSSE/../größe"), ("^/\\p{Greek}+$", "/αβγ"), ("^/[^a]+$", "/ü")]
        {
            let side = decider(&[rule(pattern, PathDecision::NotFound, "")]).decide(path.as_bytes()).side;
            assert_eq!(side == Side::NotFound, pattern != "^/größe", "{pattern}");
        }
        let upper = decider(&[rule("^/größe", PathDecision::NotFound, "")]);
        assert_eq!(upper.decide("/GRÖßE".as_bytes()).side, Side::NotFound);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Decider::new(&[rule("(", PathDecision::Local, "")], PathDecision::Local).unwrap_err();
        assert!(error.to_string().contains("`(`"), "{error}");
    }
}
