//! The environment of the command: the caller's with the target's over it.
//!
//! What describes the machine a process runs on (paths, runtimes, the terminal) stays the caller's; everything else of the
//! target wins, as in mirrord.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use mirrord_protocol::agent::v1::EnvEntry;

use crate::config;

/// Set to the session's id in the command, so that a session inside a session is noticed.
pub const SESSION_VARIABLE: &str = "MIRRORD_TUI_SESSION";

/// Variables that are never taken from the target unless `include` names them exactly: they describe its machine, its
/// runtimes or its loader. mirrord's list and what goes wrong without the last three lines.
const LOCAL: [&str; 40] = [
    "PATH",
    "HOME",
    "HOMEPATH",
    "PWD",
    "OLDPWD",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "_",
    "CLASSPATH",
    "JAVA_EXE",
    "JAVA_HOME",
    "JAVA_TOOL_OPTIONS",
    "JAVA_*",
    "JDK_HOME",
    "CATALINA_HOME",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "NODE_PATH",
    "GOPATH",
    "GOROOT",
    "GOMODCACHE",
    "GEM_*",
    "BUNDLE_*",
    "RUBY*",
    "DOTNET_*",
    "CARGO_*",
    "RUSTUP_*",
    "RUST_LOG",
    "SHLVL",
    "TERM",
    "COLORTERM",
    "HOSTTYPE",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "DYLD_*",
    "XDG_RUNTIME_DIR",
];

/// The merged environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Name and value of each variable.
    pub variables: BTreeMap<OsString, OsString>,
    /// How many come from the target.
    pub taken: usize,
    /// How many of the target's were left out.
    pub excluded: usize,
}

impl Merged {
    /// For the message that launches the command.
    #[must_use]
    pub fn entries(self) -> Vec<EnvEntry> {
        let bytes = |text: OsString| text.into_vec().into();
        self.variables
            .into_iter()
            .map(|(name, value)| EnvEntry { name: bytes(name), value: bytes(value) })
            .collect()
    }
}

/// Merges the caller's and the target's environment for the session `id`.
#[must_use]
pub fn merge(
    config: &config::Env,
    caller: &BTreeMap<OsString, OsString>,
    target: &[EnvEntry],
    id: &str,
) -> Merged {
    let mut merged = Merged { variables: caller.clone(), ..Merged::default() };
    for EnvEntry { name, value } in target {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0) {
            continue;
        }
        if config.enabled && is_wanted(config, name) {
            merged.taken += 1;
            merged.variables.insert(OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned());
        } else {
            merged.excluded += 1;
        }
    }
    for (name, value) in &config.overrides {
        merged.variables.insert(name.into(), value.into());
    }
    if !config.unset.is_empty() {
        let gone = |name: &OsString| config.unset.iter().any(|pattern| matches(pattern, name.as_bytes()));
        merged.variables.retain(|name, _| !gone(name));
    }
    merged.variables.insert(SESSION_VARIABLE.into(), id.into());
    merged
}

fn is_wanted(config: &config::Env, name: &[u8]) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
    if any(&config.exclude) {
        return false;
    }
    if config.include.iter().any(|wanted| wanted.as_bytes() == name) {
        return true;
    }
    let local = LOCAL.iter().any(|pattern| matches(pattern, name));
    !local && (config.include.is_empty() || any(&config.include))
}

/// Whether a name matches a pattern with `*` and `?`. Takes at most the product of their lengths.
fn matches(pattern: &str, name: &[u8]) -> bool {
    let (mut pattern, mut rest) = (pattern.as_bytes(), name);
    // Where to go on when what follows the last star does not match: the star takes one byte more.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), rest.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, rest));
                pattern = after;
            }
            (Some((b'?', p)), Some((_, r))) => (pattern, rest) = (p, r),
            (Some((a, p)), Some((b, r))) if a == b => (pattern, rest) = (p, r),
            (None, None) => return true,
            _ => match retry {
                Some((after, [_, more @ ..])) => {
                    retry = Some((after, more));
                    (pattern, rest) = (after, more);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Vec<EnvEntry> {
        let entry = |(name, value): &(&str, &str)| EnvEntry {
            name: name.to_string().into(),
            value: value.to_string().into(),
        };
        pairs.iter().map(entry).collect()
    }

    fn shown(merged: &Merged) -> Vec<String> {
        let pair = |(name, value): (&OsString, &OsString)| format!("{}={}", name.display(), value.display());
        merged.variables.iter().map(pair).collect()
    }

    #[test]
    fn the_target_wins_but_the_machine_stays_ours() {
        let caller = [("PATH", "/mine"), ("DB", "local"), ("EDITOR", "vi")];
        let caller = caller.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let target = entries(&[
            ("PATH", "/theirs"),
            ("DB", "remote"),
            ("JAVA_OPTS", "x"),
            ("LD_PRELOAD", "x"),
            ("", "x"),
            ("A=B", "x"),
        ]);
        let mut env = config::Config::default().env;
        let merged = merge(&env, &caller, &target, "s1");
        assert_eq!(shown(&merged), ["DB=remote", "EDITOR=vi", "MIRRORD_TUI_SESSION=s1", "PATH=/mine"]);
        assert_eq!((merged.taken, merged.excluded), (1, 3));
        env.include = vec!["PATH".to_owned()];
        env.overrides.insert("NEW".to_owned(), "1".to_owned());
        env.unset = vec!["ED*".to_owned(), "MIRRORD_TUI_SESSION".to_owned()];
        let merged = merge(&env, &caller, &target, "s1");
        assert_eq!(shown(&merged), ["DB=local", "MIRRORD_TUI_SESSION=s1", "NEW=1", "PATH=/theirs"]);
        env.enabled = false;
        assert_eq!(merge(&env, &caller, &target, "s1").taken, 0);
    }

    #[test]
    fn excluded_outranks_included() {
        let mut env = config::Config::default().env;
        env.include = vec!["DB_*".to_owned()];
        env.exclude = vec!["*_PASS????".to_owned()];
        let target = entries(&[("DB_HOST", "h"), ("DB_PASSWORD", "p"), ("OTHER", "o")]);
        let merged = merge(&env, &BTreeMap::new(), &target, "s");
        assert_eq!(shown(&merged), ["DB_HOST=h", "MIRRORD_TUI_SESSION=s"]);
    }

    proptest! {
        /// The same as the regular expression that the pattern stands for.
        #[test]
        fn patterns_are_what_they_look_like(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let expression = format!("^{}$", pattern.replace('*', ".*").replace('?', "."));
            let wanted = regex::Regex::new(&expression).unwrap().is_match(&name);
            prop_assert_eq!(matches(&pattern, name.as_bytes()), wanted);
        }
    }
}
