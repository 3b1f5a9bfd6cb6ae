//! A terminal of a test: a pseudo terminal whose foreground process is the program, as if a person sat there.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, fchown, open},
    process::{Gid, Uid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    User,
    finish::{Collected, text},
    wait::{LIMIT, wait_for},
};

/// A pseudo terminal with a program in its foreground.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    screen: Collected,
    child: Child,
}

impl Terminal {
    /// Runs `command` in a new terminal of `user`, as leader of a new session.
    ///
    /// # Panics
    /// When there is no terminal to be had.
    #[must_use]
    pub fn run(user: User, command: &Command) -> Self {
        Self::run_in(user, command, "dumb", (80, 24))
    }

    /// The same in a terminal of this kind (`TERM`), with so many columns and rows.
    pub(crate) fn run_in(user: User, command: &Command, kind: &str, size: (u16, u16)) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("own the terminal");
        unlockpt(&master).expect("unlock the terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
        let line = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let line = line.expect("open the terminal");
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.uid()));
        fchown(&line, Some(uid), Some(gid)).expect("give the terminal to the user");
        tcsetwinsize(&master, Winsize { ws_row: size.1, ws_col: size.0, ws_xpixel: 0, ws_ypixel: 0 })
            .expect("size the terminal");
        let stdio = || Stdio::from(line.try_clone().expect("duplicate the terminal"));
        // setsid(1) takes stdin as its controlling terminal and becomes the program.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        leader.env("TERM", kind).stdin(stdio()).stdout(stdio()).stderr(stdio());
        if let Some(folder) = command.get_current_dir() {
            leader.current_dir(folder);
        }
        user.apply(&mut leader);
        let child = leader.spawn().expect("start setsid");
        drop(line);
        Self::over(master, child)
    }

    fn over(master: OwnedFd, child: Child) -> Self {
        let screen = File::from(master.try_clone().expect("duplicate the terminal"));
        Self { keyboard: master.into(), screen: Collected::start(screen), child }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("type");
    }

    /// Changes the size of the window.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).expect("resize the terminal");
    }

    /// What has been shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        text(&self.screen.so_far())
    }

    /// The bytes that have been shown so far, from the `skip`th on.
    pub(crate) fn bytes(&self, skip: usize) -> Vec<u8> {
        self.screen.so_far().split_off(skip)
    }

    /// How the line is set: echo, line mode, signals.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.keyboard).expect("read the terminal's settings")
    }

    /// Waits until `needle` has been shown.
    ///
    /// # Panics
    /// When it is not within [`LIMIT`].
    #[track_caller]
    pub fn wait_shown(&self, needle: &str) {
        let start = Instant::now();
        while !self.shown().contains(needle) {
            assert!(
                start.elapsed() < LIMIT,
                "the terminal did not show `{needle}` within {LIMIT:?} but:\n{}",
                self.shown()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Pid of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// When it does not end within [`LIMIT`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the program in the terminal ends", LIMIT, || {
            self.child.try_wait().expect("ask for the program's end")
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
