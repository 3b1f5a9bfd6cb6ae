//! The one table of keys: what the handler asks, what help and hints show, what the manual prints and what the config may change.

use std::{fmt, str::FromStr};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use thiserror::Error;

/// Where a key is pressed. A key is looked up in its context first, then in [`Context::Global`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Context {
    Global,
    /// Rows that can be chosen: events, targets, sessions.
    List,
    /// Lists of targets and sessions.
    Home,
    /// Lists of events.
    Stream,
    /// Any tab of a session.
    Session,
    Details,
    Latency,
    Process,
    Replay,
}

impl Context {
    /// Heading in help and in the manual.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Global => "Everywhere",
            Self::List => "Lists",
            Self::Home => "Targets and sessions",
            Self::Stream => "Event lists",
            Self::Session => "Session",
            Self::Details => "Details",
            Self::Latency => "Latency",
            Self::Process => "Process",
            Self::Replay => "Recording",
        }
    }
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub(crate) action: Action,
    pub(crate) context: Context,
    /// Name in the config and in the palette.
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    pub(crate) help: &'static str,
    /// Short form for the hint bar; empty: not shown there.
    pub(crate) hint: &'static str,
}

macro_rules! bindings {
    ($($action:ident $context:ident $name:literal [$($key:literal),*] $help:literal $hint:literal;)*) => {
        /// What a key can do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Action { $($action),* }

        /// The table.
        pub(crate) const BINDINGS: &[Binding] = &[$(Binding {
            action: Action::$action, context: Context::$context, name: $name, keys: &[$($key),*], help: $help, hint: $hint,
        }),*];
    };
}

bindings! {
    Help Global "help" ["?", "f1"] "keys and filter operators; / searches them" "help";
    Palette Global "palette" [":", "ctrl-p"] "any command by name" "command";
    Back Global "back" ["esc", "q"] "one step back; asks before it leaves the program" "back";
    Quit Global "quit" ["Q", "ctrl-c"] "leave the program; asks while a session lives" "quit";
    Suspend Global "suspend" ["ctrl-z"] "to the shell; fg comes back" "";
    Redraw Global "redraw" ["ctrl-l"] "draw everything anew" "";
    Previous Global "back-in-history" ["["] "to the screen or tab before, as in a browser" "";
    Next Global "forward-in-history" ["]"] "forward again" "";
    LastPlace Global "last" ["-"] "to the last screen or tab, and back here" "";
    Targets Global "targets" [] "screen of targets" "";
    Sessions Global "sessions" ["S"] "screen of sessions" "sessions";
    Messages Global "messages" ["E"] "messages and errors so far" "";
    Settings Global "settings" [","] "settings in force and where each comes from" "";
    Mouse Global "mouse" ["ctrl-g"] "mouse on or off; off lets the terminal select text" "";
    Hints Global "hints" ["H"] "hint bar on or off" "";
    Theme Global "theme" [] "next colour theme" "";

    Down List "down" ["j", "down"] "next row" "";
    Up List "up" ["k", "up"] "previous row" "";
    PageDown List "page-down" ["pagedown", "ctrl-f"] "a page down" "";
    PageUp List "page-up" ["pageup", "ctrl-b"] "a page up" "";
    HalfDown List "half-down" ["ctrl-d"] "half a page down" "";
    HalfUp List "half-up" ["ctrl-u"] "half a page up" "";
    Top List "top" ["g", "home"] "first row" "";
    Bottom List "bottom" ["G", "end"] "last row; event lists follow from there" "";
    Open List "open" ["enter"] "open the row" "open";
    Filter List "filter" ["/", "f"] "filter; empty shows all" "filter";
    FilterToggle List "filter-toggle" ["ctrl-t"] "filter off and on again" "";

    Launch Home "launch" ["L"] "run a command in the context of the target" "launch";
    CopyName Home "copy-name" ["c"] "copy the name" "";
    StopRow Home "stop-row" ["X"] "end the session (asks)" "";
    Namespace Home "namespace" ["n"] "targets of another namespace of the cluster" "namespace";
    AllNamespaces Home "all-namespaces" ["0"] "targets of all namespaces" "";
    ClusterContext Home "context" ["C"] "targets of another cluster of the kubeconfig" "context";

    Peek Stream "peek" ["d"] "details beside or below the list" "details";
    Freeze Stream "freeze" ["space"] "stand still; capture goes on" "freeze";
    Follow Stream "follow" ["F"] "stay at the newest row" "follow";
    Sort Stream "sort" ["o"] "order by ..." "";
    Reverse Stream "reverse" ["v"] "reverse the order" "";
    Mark Stream "mark" ["m"] "mark the row; marked rows stay and ~marked finds them" "mark";
    UnmarkAll Stream "unmark-all" ["U"] "remove all marks" "";
    CopyMenu Stream "copy" ["y"] "copy ..." "copy";
    CopyCurl Stream "copy-curl" ["c"] "copy the request as a curl command" "";
    Export Stream "export" ["x"] "export the rows of the list ..." "export";
    SaveBody Stream "save-body" ["b"] "write the body to a file" "";
    Resend Stream "resend" ["r"] "send the request to the local process again" "resend";
    EditResend Stream "edit-resend" ["e"] "edit the request in your editor, then send it to the local process" "";
    Comment Stream "comment" [";"] "write a comment to the row; ~comment finds it" "";
    Clear Stream "clear" ["z"] "empty the list (asks)" "";
    Wide Stream "wide" ["ctrl-w"] "more columns, or fewer" "";
    TimeForm Stream "time" ["t"] "time of day, age, or distance to the row above" "";

    Tab1 Session "tab-traffic" ["1"] "requests" "";
    Tab2 Session "tab-conns" ["2"] "connections" "";
    Tab3 Session "tab-files" ["3"] "file operations" "";
    Tab4 Session "tab-dns" ["4"] "lookups" "";
    Tab5 Session "tab-latency" ["5"] "latencies" "";
    Tab6 Session "tab-process" ["6"] "the command and its output" "";
    Tab7 Session "tab-events" ["7"] "all other events" "";
    NextTab Session "next-tab" ["right", "l"] "tab to the right" "";
    PreviousTab Session "previous-tab" ["left", "h"] "tab to the left" "";
    NextPane Session "next-pane" ["tab", "backtab"] "between list and details" "pane";
    Zoom Session "zoom" ["\\"] "details on the whole screen" "";
    Mode Session "mode" ["M"] "mirror, steal or off for a port" "mode";
    Arrives Session "arrives" ["a"] "why nothing arrives: the way of a request, station by station" "";
    Pause Session "pause" [] "switch all ports off: nothing is copied or taken until resume" "";
    Resume Session "resume" [] "switch the ports back to what they were before pause" "";
    Record Session "record" ["W"] "write all events to a file; again: stop" "";
    Restart Session "restart" ["R"] "start the command again (asks)" "";
    Stop Session "stop" ["X"] "end the session (asks)" "";
    CopyCommand Session "copy-command" ["C"] "copy the command line that starts an equal session" "";

    ScrollDown Details "details-down" ["j", "down"] "a line down" "";
    ScrollUp Details "details-up" ["k", "up"] "a line up" "";
    ScrollPageDown Details "details-page-down" ["pagedown", "ctrl-f", "space"] "a page down" "";
    ScrollPageUp Details "details-page-up" ["pageup", "ctrl-b"] "a page up" "";
    ScrollHalfDown Details "details-half-down" ["ctrl-d"] "half a page down" "";
    ScrollHalfUp Details "details-half-up" ["ctrl-u"] "half a page up" "";
    ScrollTop Details "details-top" ["g", "home"] "to the top" "";
    ScrollBottom Details "details-bottom" ["G", "end"] "to the end" "";
    Section Details "section" ["s"] "whole, request, response, timing" "section";
    BodyView Details "body-view" ["v"] "body as it fits, as text, as hex" "body view";
    Search Details "search" ["/"] "search in the text" "search";
    SearchNext Details "search-next" ["n"] "next match" "";
    SearchPrevious Details "search-previous" ["N"] "previous match" "";
    Wrap Details "wrap" ["w"] "long lines: continued below or cut" "";
    OlderRow Details "row-up" ["K"] "row above, details stay open" "";
    NewerRow Details "row-down" ["J"] "row below, details stay open" "";

    KindNext Latency "kind-next" ["tab"] "next kind of operation" "kind";
    KeyDown Latency "key-down" ["j", "down"] "next route, host or operation" "";
    KeyUp Latency "key-up" ["k", "up"] "previous one" "";
    ScaleUp Latency "scale-up" ["+", "="] "shorter span of the histogram" "";
    ScaleDown Latency "scale-down" ["-"] "longer span" "";
    ScaleAuto Latency "scale-auto" ["0"] "span from the values" "";
    SlowRows Latency "slow-rows" ["enter"] "list the slow ones" "slow ones";

    Type Process "type" ["i"] "type into the command; ctrl-] leaves" "type";
    OutputUp Process "output-up" ["k", "up", "pageup", "ctrl-b", "ctrl-u"] "scroll back" "";
    OutputDown Process "output-down" ["j", "down", "pagedown", "ctrl-f", "ctrl-d"] "scroll forward" "";
    OutputEnd Process "output-end" ["G", "end"] "to the end" "";

    ScrubBack Replay "scrub-back" ["<", "["] "recording a second back; twice as far each time" "back in time";
    ScrubForward Replay "scrub-forward" [">", "]"] "a second forward" "forward";
    ScrubEnd Replay "scrub-end" ["."] "to the end of the recording" "";
}

/// A key as the config writes it: `ctrl-d`, `G`, `f1`, `space`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    code: KeyCode,
    ctrl: bool,
    alt: bool,
}

/// Why a text is not a key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a key: write j, G, ctrl-d, alt-x, f5, space, enter, pageup")]
pub(crate) struct KeyError(String);

const NAMED: [(&str, KeyCode); 15] = [
    ("space", KeyCode::Char(' ')),
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backtab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
];

impl From<KeyEvent> for Key {
    fn from(event: KeyEvent) -> Self {
        Self {
            code: event.code,
            ctrl: event.modifiers.contains(KeyModifiers::CONTROL),
            alt: event.modifiers.contains(KeyModifiers::ALT),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut rest = text;
        let (mut ctrl, mut alt) = (false, false);
        loop {
            // A lone `-` or a key that is called like a modifier stays a key.
            if let Some(after) = rest.strip_prefix("ctrl-").filter(|after| !after.is_empty()) {
                (rest, ctrl) = (after, true);
            } else if let Some(after) = rest.strip_prefix("alt-").filter(|after| !after.is_empty()) {
                (rest, alt) = (after, true);
            } else {
                break;
            }
        }
        let error = || KeyError(text.to_owned());
        let named = NAMED.iter().find(|(name, _)| *name == rest).map(|(_, code)| *code);
        let function =
            || rest.strip_prefix('f')?.parse().ok().filter(|n| (1..=24).contains(n)).map(KeyCode::F);
        let mut signs = rest.chars();
        let code = match (signs.next(), signs.next()) {
            (Some(sign), None) => KeyCode::Char(sign),
            _ => named.or_else(function).ok_or_else(error)?,
        };
        Ok(Self { code, ctrl, alt })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("ctrl-")?;
        }
        if self.alt {
            f.write_str("alt-")?;
        }
        match (NAMED.iter().find(|(_, code)| *code == self.code), self.code) {
            (Some((name, _)), _) => f.write_str(name),
            (None, KeyCode::Char(sign)) => write!(f, "{sign}"),
            (None, KeyCode::F(n)) => write!(f, "f{n}"),
            (None, _) => f.write_str("?"),
        }
    }
}

/// The keys in force: the table, with the changes of the config.
#[derive(Clone, Debug)]
pub(crate) struct Keymap {
    entries: Vec<(Context, Key, Action)>,
}

/// Why a change of keys is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum KeymapError {
    #[error("there is no command `{0}`; `?` lists them")]
    Unknown(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("`{key}` means both {first} and {second}")]
    Twice { key: String, first: &'static str, second: &'static str },
}

impl Default for Keymap {
    fn default() -> Self {
        let keys = |binding: &Binding| -> Vec<_> {
            let parse = |key: &&str| Some((binding.context, key.parse().ok()?, binding.action));
            binding.keys.iter().filter_map(parse).collect()
        };
        Self { entries: BINDINGS.iter().flat_map(keys).collect() }
    }
}

impl Keymap {
    /// Gives a command other keys than the table has.
    pub(crate) fn rebind<T: AsRef<str>>(&mut self, name: &str, keys: &[T]) -> Result<(), KeymapError> {
        let binding = BINDINGS
            .iter()
            .find(|binding| binding.name == name)
            .ok_or_else(|| KeymapError::Unknown(name.to_owned()))?;
        let keys = keys.iter().map(|key| key.as_ref().parse()).collect::<Result<Vec<Key>, _>>()?;
        for key in &keys {
            let other = |(context, old, action): &&(Context, Key, Action)| {
                *context == binding.context && old == key && *action != binding.action
            };
            if let Some((_, key, action)) = self.entries.iter().find(other) {
                return Err(KeymapError::Twice {
                    key: key.to_string(),
                    first: action.binding().name,
                    second: binding.name,
                });
            }
        }
        self.entries.retain(|(_, _, action)| *action != binding.action);
        self.entries.extend(keys.into_iter().map(|key| (binding.context, key, binding.action)));
        Ok(())
    }

    /// What a key does: the first context that knows it decides.
    pub(crate) fn action(&self, contexts: &[Context], key: Key) -> Option<Action> {
        contexts.iter().chain([&Context::Global]).find_map(|context| {
            let found = self.entries.iter().find(|(own, known, _)| own == context && *known == key);
            found.map(|(_, _, action)| *action)
        })
    }

    /// The keys of a command, as help shows them.
    pub(crate) fn keys(&self, action: Action) -> Vec<String> {
        let own = self.entries.iter().filter(|(_, _, known)| *known == action);
        own.map(|(_, key, _)| key.to_string()).collect()
    }
}

impl Action {
    /// Its line of the table.
    pub(crate) fn binding(self) -> &'static Binding {
        // Every action has a line: the macro makes both from the same list.
        BINDINGS.iter().find(|binding| binding.action == self).unwrap_or(&MISSING)
    }
}

const MISSING: Binding =
    Binding { action: Action::Help, context: Context::Global, name: "", keys: &[], help: "", hint: "" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_is_a_key_and_means_one_thing() {
        let mut seen = std::collections::HashMap::new();
        for binding in BINDINGS {
            assert!(!binding.help.is_empty());
            for key in binding.keys {
                let parsed: Key = key.parse().unwrap();
                assert_eq!(parsed.to_string(), *key);
                let before = seen.insert((binding.context, parsed), binding.name);
                assert_eq!(before, None, "{key} of {}", binding.name);
            }
        }
        let mut names: Vec<_> = BINDINGS.iter().map(|binding| binding.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BINDINGS.len());
    }

    #[test]
    fn flow_control_and_multiplexer_prefixes_are_left_alone() {
        for binding in BINDINGS {
            assert!(
                !binding.keys.contains(&"ctrl-s") && !binding.keys.contains(&"ctrl-q"),
                "{}",
                binding.name
            );
            let only_prefix = binding.keys.iter().all(|key| matches!(*key, "ctrl-a" | "ctrl-b"));
            assert!(!only_prefix || binding.keys.is_empty(), "{}", binding.name);
        }
    }

    #[test]
    fn the_nearest_context_decides() {
        let keys = Keymap::default();
        let press = |contexts: &[Context], key: &str| keys.action(contexts, key.parse().unwrap());
        assert_eq!(press(&[Context::Details, Context::Session], "j"), Some(Action::ScrollDown));
        assert_eq!(press(&[Context::Stream, Context::List, Context::Session], "j"), Some(Action::Down));
        assert_eq!(press(&[Context::Stream], "?"), Some(Action::Help));
        assert_eq!(press(&[Context::Stream], "f9"), None);
    }

    #[test]
    fn a_command_gets_other_keys() {
        let mut keys = Keymap::default();
        keys.rebind("freeze", &["f9", "ctrl--"]).unwrap();
        assert_eq!(keys.action(&[Context::Stream], "f9".parse().unwrap()), Some(Action::Freeze));
        assert_eq!(keys.action(&[Context::Stream], "space".parse().unwrap()), None);
        assert_eq!(keys.keys(Action::Freeze), ["f9", "ctrl--"]);
        assert!(matches!(keys.rebind("freeze", &["m"]), Err(KeymapError::Twice { .. })));
        assert!(matches!(keys.rebind("frieze", &["m"]), Err(KeymapError::Unknown(_))));
        assert!(matches!(keys.rebind("freeze", &["hyper-x"]), Err(KeymapError::Key(_))));
    }
}
