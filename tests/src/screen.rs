//! A person at a terminal with a screen: what the program has drawn, as a terminal would show it, and how it left the terminal.

use std::{
    process::Command,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use rustix::termios::Termios;

use crate::{
    Terminal, User,
    process::children,
    wait::{LIMIT, wait_for},
};

/// The shell that starts the program, and shows its exit code. It stays until a line is typed, because a terminal whose first process
/// ends is reset by the kernel, which would hide what the program has left.
const SHELL: &str = "\"$@\"; echo \"ended with $?\"; read line";

/// A terminal with a program in it.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal,
    seen: Mutex<Seen>,
    before: Termios,
}

struct Seen {
    parser: vt100::Parser,
    bytes: usize,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Screen {
    /// Runs `command` of `user` on a screen of so many columns and rows.
    ///
    /// # Panics
    /// When there is no terminal to be had.
    #[must_use]
    pub fn run(user: User, command: &Command, columns: u16, rows: u16) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        Self::shell(user, &shell, columns, rows)
    }

    /// Runs a shell, or anything that itself leaves the terminal as it is.
    ///
    /// # Panics
    /// When there is no terminal to be had.
    #[must_use]
    pub fn shell(user: User, shell: &Command, columns: u16, rows: u16) -> Self {
        let terminal = Terminal::run_in(user, shell, "xterm-256color", (columns, rows));
        let before = terminal.settings();
        let seen = Mutex::new(Seen { parser: vt100::Parser::new(rows, columns, 0), bytes: 0 });
        Self { terminal, seen, before }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.terminal.type_in(keys);
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.look().parser.screen_mut().set_size(rows, columns);
        self.terminal.resize(rows, columns);
    }

    /// Everything on the screen now.
    #[must_use]
    pub fn text(&self) -> String {
        self.look().parser.screen().contents()
    }

    /// All bytes that were sent to the terminal.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        self.terminal.bytes(0)
    }

    fn look(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().expect("no look panics");
        let new = self.terminal.bytes(seen.bytes);
        seen.bytes += new.len();
        seen.parser.process(&new);
        seen
    }

    /// Waits until the screen satisfies `condition`; its text then.
    ///
    /// # Panics
    /// When it does not within [`LIMIT`]; the screen is printed.
    #[track_caller]
    pub fn wait(&self, what: &str, mut condition: impl FnMut(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let late = start.elapsed() >= LIMIT;
            let text = self.text();
            if condition(&text) {
                return text;
            }
            assert!(!late, "the screen does not show {what} within {LIMIT:?} but:\n{text}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until `needle` is on the screen.
    ///
    /// # Panics
    /// When it is not within [`LIMIT`].
    #[track_caller]
    pub fn wait_text(&self, needle: &str) -> String {
        self.wait(&format!("`{needle}`"), |text| text.contains(needle))
    }

    /// Whether the program has taken the terminal: other screen, no echo.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.look().parser.screen().alternate_screen()
    }

    /// Waits for the end of the program that [`Screen::run`] has started; its exit code as a shell says it.
    ///
    /// # Panics
    /// When it does not end within [`LIMIT`].
    #[track_caller]
    pub fn wait_end(&self) -> i32 {
        let code = |text: &str| -> Option<i32> {
            text.split("ended with ").nth(1)?.split_whitespace().next()?.parse().ok()
        };
        code(&self.wait("that the program has ended", |text| code(text).is_some())).expect("a code was shown")
    }

    /// The terminal is as it was before the program came.
    ///
    /// # Panics
    /// When it is not, with what differs.
    #[track_caller]
    pub fn assert_as_before(&self) {
        let seen = self.look();
        let screen = seen.parser.screen();
        assert!(!screen.alternate_screen(), "the other screen is still shown");
        assert!(!screen.hide_cursor(), "the cursor is hidden");
        assert!(!screen.bracketed_paste(), "pasted text comes in brackets");
        assert!(!screen.application_cursor() && !screen.application_keypad(), "keys send other codes");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None, "the mouse is reported");
        drop(seen);
        let now = self.terminal.settings();
        let settings =
            |line: &Termios| (line.input_modes, line.output_modes, line.control_modes, line.local_modes);
        assert_eq!(settings(&now), settings(&self.before), "the line is set differently");
    }

    /// Pid of the program that [`Screen::run`] has started.
    ///
    /// # Panics
    /// When there is none within [`LIMIT`].
    #[track_caller]
    pub fn pid(&self) -> u32 {
        wait_for("the shell has started the program", LIMIT, || {
            children(self.terminal.pid()).first().copied()
        })
    }
}
