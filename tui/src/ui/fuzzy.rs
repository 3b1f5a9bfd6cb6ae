//! Fuzzy matching of names: all signs of the pattern in their order; beginnings of words and runs count more.

/// How well a text matches; `None` when it does not. An empty pattern matches everything alike.
pub(crate) fn score(pattern: &str, text: &str) -> Option<i32> {
    let any_case = !pattern.chars().any(char::is_uppercase);
    let fold = |sign: char| if any_case { sign.to_ascii_lowercase() } else { sign };
    // Words of the pattern may stand in any order.
    let signs: Vec<char> = text.chars().map(fold).collect();
    pattern
        .split_whitespace()
        .map(|word| word_score(&word.chars().map(fold).collect::<Vec<_>>(), &signs))
        .sum()
}

fn word_score(word: &[char], signs: &[char]) -> Option<i32> {
    let first = word.first()?;
    let starts = signs.iter().enumerate().filter(|(_, sign)| *sign == first).map(|(at, _)| at);
    starts.filter_map(|start| from(word, signs, start)).max()
}

/// The score when the first sign is taken from `start` and each other one from its next place.
fn from(word: &[char], signs: &[char], start: usize) -> Option<i32> {
    let mut at = start;
    let mut score = 0;
    let mut last: Option<usize> = None;
    for wanted in word {
        let found = signs.iter().skip(at).position(|sign| sign == wanted)? + at;
        let begins = found == 0 || signs.get(found - 1).is_some_and(|before| !before.is_alphanumeric());
        let runs = last.is_some_and(|last| last + 1 == found);
        let gap = last.map_or(0, |last| i32::try_from(found - last - 1).unwrap_or(i32::MAX).min(5));
        score += 2 + if begins { 4 } else { 0 } + if runs { 5 } else { 0 } - gap;
        last = Some(found);
        at = found + 1;
    }
    Some(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_beginnings_win() {
        let best = |pattern: &str, texts: &[&'static str]| {
            let found = texts.iter().filter_map(|text| Some((score(pattern, text)?, *text)));
            found.max_by_key(|(score, _)| *score).map(|(_, text)| text)
        };
        assert_eq!(best("ord", &["local/forwarder", "local/orders"]), Some("local/orders"));
        assert_eq!(best("shop l", &["local/shop", "pid/12 shop"]), Some("local/shop"));
        assert_eq!(best("xyz", &["local/shop"]), None);
        assert_eq!(score("", "anything"), Some(0));
        assert_eq!(score("S", "shop"), None);
    }
}
