//! Reads a configuration file: format by extension, `get_env` templates, errors that name line and key.

use std::{
    io,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use regex::{Captures, Regex};
use thiserror::Error;

use super::file::FileConfig;

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The extension is none of those known.
    #[error("{path} is not a configuration file: its name must end in .json, .toml, .yaml or .yml")]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Syntax, type or key is wrong; the text has line and column.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A template other than `get_env`, or a variable without value and default.
    #[error("{path}: template `{template}`: {reason}")]
    Template {
        /// The file.
        path: PathBuf,
        /// As written.
        template: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads `path`; variables of templates come from `environment`.
///
/// # Errors
/// When the file cannot be read or is not a configuration; the message names line and key.
pub fn load(path: &Path, environment: impl Fn(&str) -> Option<String>) -> Result<FileConfig, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let text = expand(&text, environment).map_err(|(template, reason)| LoadError::Template {
        path: path.to_owned(),
        template,
        reason,
    })?;
    let parsed = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|error| error.to_string()),
        Some("toml") => toml::from_str(&text).map_err(|error: toml::de::Error| toml_message(&text, &error)),
        Some("yaml" | "yml") => serde_saphyr::from_str(&text).map_err(|error| first_line(&error.to_string())),
        _ => return Err(LoadError::Format { path: path.to_owned() }),
    };
    parsed.map_err(|message| LoadError::Parse { path: path.to_owned(), message: with_suggestion(message) })
}

/// The YAML reader adds an excerpt of the file below its message; line and column are in the first line.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn toml_message(text: &str, error: &toml::de::Error) -> String {
    let line =
        error.span().map(|span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
    match line {
        Some(line) => format!("{} at line {line}", error.message()),
        None => error.message().to_owned(),
    }
}

/// serde names all keys that are known; a reader wants the nearest one.
fn with_suggestion(message: String) -> String {
    static UNKNOWN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"unknown (?:field|key) `([^`]*)`, expected (?:one of )?((?:`?[$\w]+`?(?:, | or )?)+)")
            .ok()
    });
    let Some(captures) = UNKNOWN.as_ref().and_then(|regex| regex.captures(&message)) else { return message };
    let (Some(whole), Some(key), Some(known)) = (captures.get(0), captures.get(1), captures.get(2)) else {
        return message;
    };
    let nearest = known
        .as_str()
        .split([',', '`', ' '])
        .filter(|word| !matches!(*word, "" | "or"))
        .map(|candidate| (distance(key.as_str(), candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.as_str().len() / 3);
    let advice = nearest.map_or_else(String::new, |(_, name)| format!(", did you mean `{name}`?"));
    message.replace(whole.as_str(), &format!("unknown key `{}`{advice}", key.as_str()))
}

/// Levenshtein distance; the words are keys of a few letters.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let substituted = row.get(j).copied().unwrap_or(usize::MAX) + usize::from(x != *y);
            let deleted = row.get(j + 1).copied().unwrap_or(usize::MAX).saturating_add(1);
            let inserted = next.last().copied().unwrap_or(usize::MAX).saturating_add(1);
            next.push(substituted.min(deleted).min(inserted));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Replaces `{{ get_env(name="X", default="y") }}`, the one template that existing files use.
fn expand(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<String, (String, &'static str)> {
    static TEMPLATE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\{\{(.*?)\}\}").ok());
    static GET_ENV: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"^\s*get_env\(\s*name\s*=\s*["']([^"']+)["']\s*(?:,\s*default\s*=\s*["']([^"']*)["']\s*)?\)\s*$"#).ok()
    });
    let (Some(template), Some(get_env)) = (TEMPLATE.as_ref(), GET_ENV.as_ref()) else {
        return Ok(text.to_owned());
    };
    let mut failure = None;
    let expanded = template.replace_all(text, |found: &Captures<'_>| {
        let inside = found.get(1).map_or("", |part| part.as_str());
        let Some(call) = get_env.captures(inside) else {
            failure.get_or_insert_with(|| {
                (inside.trim().to_owned(), "only get_env(name=\"X\", default=\"y\") is known")
            });
            return String::new();
        };
        let name = call.get(1).map_or("", |name| name.as_str());
        environment(name).or_else(|| call.get(2).map(|default| default.as_str().to_owned())).unwrap_or_else(
            || {
                failure.get_or_insert_with(|| {
                    (inside.trim().to_owned(), "the variable is not set and there is no default")
                });
                String::new()
            },
        )
    });
    failure.map_or_else(|| Ok(expanded.into_owned()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<FileConfig, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(&path, |name| (name == "POD").then(|| "pod/api-0".to_owned()))
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let json = read("a.json", "{\n \"feature\": {\n  \"netwrok\": true } }").unwrap_err().to_string();
        assert!(json.contains("`netwrok`, did you mean `network`?") && json.contains("line 3"), "{json}");
        let toml = read("a.toml", "[feature]\nenv = true\nnetwrok = true\n").unwrap_err().to_string();
        assert!(toml.contains("`netwrok`, did you mean `network`?") && toml.contains("line 3"), "{toml}");
        let yaml = read("a.yaml", "feature:\n  env: true\n  netwrok: true\n").unwrap_err().to_string();
        assert!(yaml.contains("`netwrok`, did you mean `network`?") && yaml.contains('3'), "{yaml}");
    }

    #[test]
    fn broken_syntax_names_the_line() {
        assert!(read("a.json", "{\n \"target\": ,\n}").unwrap_err().to_string().contains("line 2"));
        assert!(read("a.toml", "a = 1\nb = = 2\n").unwrap_err().to_string().contains("line"));
        assert!(read("a.ini", "").unwrap_err().to_string().contains(".json, .toml"));
    }

    #[test]
    fn templates_take_the_environment_or_the_default() {
        let config = read("a.json", r#"{"target": "{{ get_env(name="POD") }}", "kube_context": "{{get_env(name='NO', default='dev')}}"}"#).unwrap();
        assert!(
            matches!(config.target, Some(super::super::shapes::Shorthand::Word(word)) if word == "pod/api-0")
        );
        assert_eq!(config.kube_context.as_deref(), Some("dev"));
        assert!(read("a.json", r#"{"kube_context": "{{ now() }}"}"#).is_err());
        assert!(read("a.json", r#"{"kube_context": "{{ get_env(name="NO") }}"}"#).is_err());
    }
}
