//! The path rules that hold without a word from the user: mirrord's default lists, as a pure function of mode and places.
//!
//! Order: not found, remote, local. The user's own patterns come before all of them, the mode after.

use std::path::Path;

use mirrord_protocol::layer::v1::{PathDecision, PathRule};

/// What holds for a path that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All local: there are no default rules.
    Local,
    /// Local but for a short list.
    LocalWithOverrides,
    /// Remote but for what a program and its tool chain need from this machine.
    Read,
}

/// Places of the user that stay local.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Home directory.
    pub home: &'a Path,
    /// Working directory of the command.
    pub cwd: &'a Path,
    /// The command's executable.
    pub executable: &'a Path,
    /// Directory of temporary files.
    pub temporary: &'a Path,
}

/// Credentials of the user that must not be mistaken for the target's (as in mirrord), below the home directory.
const NOT_FOUND_BELOW_HOME: [&str; 3] = ["/\\.config/gcloud", "/\\.kube", "/\\.azure"];

/// What the target's network and trust are made of.
const REMOTE: [&str; 3] =
    ["^/etc/(resolv\\.conf|hosts|hostname)$", "^/etc/nsswitch\\.conf$", "^/etc/ssl/certs(/|$)"];

/// What belongs to this machine: programs, libraries, devices, package managers' folders, sources. Few and broad patterns: compiling
/// them is a good part of a command's start.
const LOCAL: [&str; 4] = [
    "^/((proc|sys|dev|lib(32|64|x32)?|usr|s?bin|etc|home|opt|tmp|var/tmp|run|snap|nix|gnu/store)(/|$)|$)",
    "\\.(so(\\.[0-9]+)*|py[cdi]?|pth|egg-link|[cm]?[jt]sx?|vue|json5|jar|class|war|jmod|rb|gemspec|(ba)?sh|p[lm]|php|lua|dll|pdb|(deps|runtimeconfig)\\.json)$",
    "/((package(-lock)?|[jt]sconfig)\\.json|\\.yarnrc(\\.yml)?|\\.npmrc|\\.pnp\\.c?js|\\.yarn|Gemfile(\\.lock)?|\\.ruby-version|go\\.(mod|sum|work)|Cargo\\.(toml|lock)|[^/]*venv\\.cfg)$",
    "/(node_modules|__pycache__|\\.git)(/|$)",
];

/// The default rules of a mode.
#[must_use]
pub fn default_rules(mode: Mode, places: &Places<'_>) -> Vec<PathRule> {
    if mode == Mode::Local {
        return Vec::new();
    }
    let home = below(places.home);
    let not_found =
        home.iter().flat_map(|home| NOT_FOUND_BELOW_HOME.iter().map(move |end| format!("^{home}{end}(/|$)")));
    let local = LOCAL.iter().map(|pattern| (*pattern).to_owned()).chain(place_patterns(places));
    not_found
        .map(|pattern| rule(pattern, PathDecision::NotFound, "default not found"))
        .chain(
            REMOTE.iter().map(|pattern| rule((*pattern).to_owned(), PathDecision::Remote, "default remote")),
        )
        .chain(local.map(|pattern| rule(pattern, PathDecision::Local, "default local")))
        .collect()
}

fn place_patterns(places: &Places<'_>) -> impl Iterator<Item = String> {
    // A home is local as a whole wherever it lies: tools of the user are run from there.
    let folders = [places.home, places.cwd, places.temporary]
        .map(|folder| below(folder).map(|folder| format!("^{folder}(/|$)")));
    let executable = below(places.executable).map(|file| format!("^{file}$"));
    folders.into_iter().flatten().chain(executable)
}

/// The path as a pattern without a slash at its end; `None` for what would match everything or nothing.
fn below(path: &Path) -> Option<String> {
    let text = path.to_str()?.trim_end_matches('/');
    (text.starts_with('/')).then(|| regex::escape(text))
}

fn rule(pattern: String, decision: PathDecision, name: &str) -> PathRule {
    PathRule {
        pattern,
        decision: decision.into(),
        name: name.to_owned(),
        read_only: true,
        replacement: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decide::{Decider, Side};

    fn places() -> Places<'static> {
        Places {
            home: Path::new("/root"),
            cwd: Path::new("/srv/work (1)/app"),
            executable: Path::new("/data/bin/server"),
            temporary: Path::new("/scratch/"),
        }
    }

    fn decider(mode: Mode) -> Decider {
        let otherwise = if mode == Mode::Read { PathDecision::Remote } else { PathDecision::Local };
        Decider::new(&default_rules(mode, &places()), otherwise).unwrap()
    }

    #[test]
    fn reading_takes_the_targets_data_and_this_machines_programs() {
        let decider = decider(Mode::Read);
        for path in [
            "/var/run/secrets/token",
            "/data/config.yaml",
            "/etc/resolv.conf",
            "/etc/ssl/certs/ca.pem",
            "/app/x.json",
        ] {
            assert_eq!(decider.decide(path.as_bytes()).side, Side::Remote, "{path}");
        }
        for path in [
            "/",
            "/usr/bin/env",
            "/lib64/ld-linux-x86-64.so.2",
            "/etc/passwd",
            "/etc/resolv.conf.bak",
            "/srv/work (1)/app/config.yaml",
            "/data/bin/server",
            "/data/libx.so.1.2",
            "/scratch/tmp123",
            "/root/.cache/x",
            "/data/app.py",
        ] {
            assert_eq!(decider.decide(path.as_bytes()).side, Side::Local, "{path}");
        }
        assert_eq!(decider.decide(b"/root/.kube/config").side, Side::NotFound);
        assert_eq!(decider.decide(b"/libra/x").side, Side::Remote);
    }

    #[test]
    fn with_overrides_only_the_short_list_is_remote() {
        let decider = decider(Mode::LocalWithOverrides);
        assert_eq!(decider.decide(b"/etc/hosts").side, Side::Remote);
        assert_eq!(decider.decide(b"/data/config.yaml").side, Side::Local);
        assert_eq!(decider.decide(b"/root/.azure").side, Side::NotFound);
    }

    #[test]
    fn a_root_directory_as_place_takes_nothing_with_it() {
        let root = Path::new("/");
        let places = Places { home: root, cwd: root, executable: root, temporary: root };
        let decider = Decider::new(&default_rules(Mode::Read, &places), PathDecision::Remote).unwrap();
        assert_eq!(decider.decide(b"/data/config.yaml").side, Side::Remote);
    }

    #[test]
    fn local_mode_has_no_rules() {
        assert!(default_rules(Mode::Local, &places()).is_empty());
    }

    proptest! {
        #[test]
        fn any_path_gets_a_decision(path in "(/[a-zA-Z0-9._ -]{1,12}){1,8}") {
            let read = decider(Mode::Read);
            let decision = read.decide(path.as_bytes());
            prop_assert!(!decision.rule.is_empty());
            prop_assert_eq!(decision.path.as_ref(), path.as_bytes());
        }
    }
}
