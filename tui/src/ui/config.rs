//! The UI's own settings: defaults < file < environment < flags. Each value remembers where it came from, for the settings screen.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use regex::RegexBuilder;
use serde::Deserialize;
use thiserror::Error;

use super::{
    keys::{BINDINGS, Keymap},
    limits,
    model::store::Bounds,
    theme::ThemeName,
};

/// Settings in force.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) keys: Keymap,
    pub(crate) theme: ThemeName,
    pub(crate) mouse: bool,
    pub(crate) hints: bool,
    /// Nothing that changes a target, a session or a file is done.
    pub(crate) read_only: bool,
    /// Targets whose place or name matches are shown in red and ask before anything is done to them.
    protected: Vec<regex::Regex>,
    pub(crate) bounds: Bounds,
    /// Seconds that local time is ahead of UTC.
    pub(crate) utc_offset: i32,
    /// Working directory, where the launch form begins.
    pub(crate) cwd: String,
    /// Name, value and origin of each setting.
    pub(crate) origins: Vec<Origin>,
    /// What is odd about the config file.
    pub(crate) warnings: Vec<String>,
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) from: String,
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not valid", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
}

/// The file, `~/.config/mirrord-tui/config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    theme: Option<ThemeName>,
    mouse: Option<bool>,
    hints: Option<bool>,
    read_only: Option<bool>,
    protected: Option<Vec<String>>,
    rows: Option<usize>,
    megabytes: Option<usize>,
    keys: BTreeMap<String, Vec<String>>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

/// Names of protected places without a config.
const PROTECTED: [&str; 2] = [r"\bprod(uction)?\b", r"\blive\b"];

impl Default for Options {
    fn default() -> Self {
        resolve(File::default(), "", |_| None)
    }
}

impl Options {
    /// Reads the file, if there is one, and the environment.
    pub(crate) fn load() -> Result<Self, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(path) = config_dir(variable).map(|dir| dir.join("config.toml")) else {
            return Ok(resolve(File::default(), "", variable));
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.clone(), source })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        Ok(resolve(file, &path.display().to_string(), variable))
    }

    /// Whether a name or a place of targets is a protected one.
    pub(crate) fn is_protected(&self, text: &str) -> bool {
        self.protected.iter().any(|pattern| pattern.is_match(text))
    }
}

fn config_dir(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    base_dir(variable, "XDG_CONFIG_HOME", ".config")
}

/// Folder for what should survive a restart but is no setting: histories.
pub(crate) fn state_dir() -> Option<PathBuf> {
    base_dir(
        |name| std::env::var(name).ok().filter(|value| !value.is_empty()),
        "XDG_STATE_HOME",
        ".local/state",
    )
}

fn base_dir(variable: impl Fn(&str) -> Option<String>, xdg: &str, below_home: &str) -> Option<PathBuf> {
    let base = variable(xdg).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| variable("HOME").map(|home| Path::new(&home).join(below_home)));
    base.map(|base| base.join("mirrord-tui"))
}

fn resolve(file: File, path: &str, variable: impl Fn(&str) -> Option<String>) -> Options {
    let mut origins = Vec::new();
    let mut origin = |name, value: String, from: &str| {
        let from = if from.is_empty() { "default" } else { from };
        origins.push(Origin { name, value, from: from.to_owned() });
    };
    let from_file = |set: bool| if set { path } else { "" };

    let (theme, from) = if variable("NO_COLOR").is_some() {
        (ThemeName::Mono, "NO_COLOR")
    } else {
        (file.theme.unwrap_or_default(), from_file(file.theme.is_some()))
    };
    origin("theme", theme.name().to_owned(), from);
    let mouse = file.mouse.unwrap_or(true);
    origin("mouse", mouse.to_string(), from_file(file.mouse.is_some()));
    let hints = file.hints.unwrap_or(true);
    origin("hints", hints.to_string(), from_file(file.hints.is_some()));
    let read_only = file.read_only.unwrap_or(false);
    origin("read-only", read_only.to_string(), from_file(file.read_only.is_some()));
    let bounds = Bounds {
        rows: file.rows.unwrap_or(limits::ROWS).max(1),
        bytes: file.megabytes.map_or(limits::ROW_BYTES, |megabytes| megabytes.max(1).saturating_mul(1 << 20)),
    };
    origin("rows", bounds.rows.to_string(), from_file(file.rows.is_some()));
    origin("megabytes", (bounds.bytes >> 20).to_string(), from_file(file.megabytes.is_some()));

    let mut warnings: Vec<_> =
        file.unknown.keys().map(|key| format!("{path}: `{key}` is not known and has no effect")).collect();
    let from = from_file(file.protected.is_some());
    let names = file.protected.unwrap_or_else(|| PROTECTED.map(str::to_owned).to_vec());
    origin("protected", names.join(" "), from);
    let mut protected = Vec::new();
    for name in &names {
        match RegexBuilder::new(name).case_insensitive(true).build() {
            Ok(pattern) => protected.push(pattern),
            Err(_) => warnings.push(format!("{path}: `{name}` under protected is not a regular expression")),
        }
    }
    let mut keys = Keymap::default();
    for (name, list) in &file.keys {
        if let Err(error) = keys.rebind(name, list) {
            warnings.push(format!("{path}: keys.{name}: {error}"));
        } else if let Some(binding) = BINDINGS.iter().find(|binding| binding.name == name) {
            origin(binding.name, list.join(" "), path);
        }
    }
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default();
    Options { keys, theme, mouse, hints, read_only, protected, bounds, utc_offset: 0, cwd, origins, warnings }
}

/// A file with all settings and their defaults, as `gen-config` prints it.
pub(crate) fn sample() -> String {
    let defaults = Options::default();
    let mut text = String::from(
        "# Settings of the terminal UI: ~/.config/mirrord-tui/config.toml. Everything here is the default.\n\n",
    );
    text.push_str("# terminal (16 colours on your own background), light, mono\n");
    text.push_str(&format!("theme = \"{}\"\n", defaults.theme.name()));
    text.push_str(&format!("mouse = {}\nhints = {}\n", defaults.mouse, defaults.hints));
    text.push_str("# Refuse everything that changes a target or a session.\n");
    text.push_str(&format!("read-only = {}\n", defaults.read_only));
    text.push_str("# Targets and clusters whose name matches one of these are shown in red and ask first.\n");
    let protected: Vec<_> = PROTECTED.iter().map(|name| format!("'{name}'")).collect();
    text.push_str(&format!("protected = [{}]\n", protected.join(", ")));
    text.push_str("# What one session may keep in memory.\n");
    text.push_str(&format!(
        "rows = {}\nmegabytes = {}\n\n",
        defaults.bounds.rows,
        defaults.bounds.bytes >> 20
    ));
    text.push_str("[keys]\n");
    for binding in BINDINGS {
        let keys: Vec<_> = binding.keys.iter().map(|key| format!("'{key}'")).collect();
        text.push_str(&format!("# {}: {}\n", binding.context.title(), binding.help));
        text.push_str(&format!("{} = [{}]\n", binding.name, keys.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str, no_color: bool) -> Options {
        let file = toml::from_str(text).unwrap();
        resolve(file, "config.toml", |name| (no_color && name == "NO_COLOR").then(|| "1".to_owned()))
    }

    #[test]
    fn the_sample_is_the_default() {
        let sample = options(&sample(), false);
        let default = Options::default();
        assert_eq!(sample.warnings, Vec::<String>::new());
        assert_eq!(format!("{:?}", sample.bounds), format!("{:?}", default.bounds));
        assert_eq!((sample.theme, sample.mouse, sample.hints), (default.theme, default.mouse, default.hints));
        for binding in BINDINGS {
            assert_eq!(
                sample.keys.keys(binding.action),
                default.keys.keys(binding.action),
                "{}",
                binding.name
            );
        }
        assert!(sample.is_protected("kind-prod / shop") && !sample.is_protected("products"));
    }

    #[test]
    fn what_is_odd_becomes_a_warning() {
        let options = options("them = 'x'\nprotected = ['(']\n[keys]\nfreeze = ['m']\nfly = ['w']\n", false);
        assert_eq!(options.warnings.len(), 4, "{:?}", options.warnings);
    }

    #[test]
    fn the_environment_wins_and_says_so() {
        let options = options("theme = 'light'", true);
        assert_eq!(options.theme, ThemeName::Mono);
        assert_eq!(options.origins.iter().find(|origin| origin.name == "theme").unwrap().from, "NO_COLOR");
    }
}
