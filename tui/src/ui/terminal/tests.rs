//! The guard of the terminal at a real one: this test program starts itself again in a pseudo terminal, panics there in all the ways
//! that a program can, and looks at what it has left.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::*;
use crate::ui::fake;

/// Tells the program started again how it shall end.
const ENDING: &str = "MIRRORD_TUI_TEST_ENDING";

/// A pseudo terminal: the side of the person, and the line.
fn terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let line = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    tcsetwinsize(&line, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (master, line)
}

fn modes(
    line: &OwnedFd,
) -> (rustix::termios::InputModes, rustix::termios::OutputModes, rustix::termios::LocalModes) {
    let Termios { input_modes, output_modes, local_modes, .. } = tcgetattr(line).unwrap();
    (input_modes, output_modes, local_modes)
}

/// Runs `the_guard_is_dropped_in_many_ways` in a terminal; its exit code, and what it has shown.
fn run(ending: &str) -> (i32, String) {
    let (master, line) = terminal();
    let before = modes(&line);
    let stdio = || Stdio::from(line.try_clone().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ui::terminal::tests::the_guard_is_dropped_in_many_ways", "--nocapture"])
        .env(ENDING, ending)
        .env("RUST_BACKTRACE", "0")
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    let mut screen = File::from(master.try_clone().unwrap());
    let reader = thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        // The line is closed when its last holder has gone: the read fails then.
        while let Ok(read @ 1..) = screen.read(&mut buffer) {
            all.extend_from_slice(&buffer[..read]);
        }
        all
    });
    let code = child.wait().unwrap().code().unwrap();
    assert_eq!(modes(&line), before, "{ending}: the line is set differently");
    drop(line);
    let mut parser = vt100::Parser::new(24, 80, 0);
    parser.process(&reader.join().unwrap());
    let screen = parser.screen();
    assert!(!screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste(), "{ending}");
    assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None, "{ending}");
    (code, screen.contents())
}

#[test]
fn a_panic_gives_the_terminal_back_and_is_read_afterwards() {
    for ending in ["panic", "panic in a thread", "panic in a task", "panic while drawing"] {
        let (code, shown) = run(ending);
        // 101 is the test program's own code for a test that has panicked.
        assert_eq!(code, 101, "{ending}: {shown}");
        assert!(shown.contains(&format!("this is a {ending}")), "{ending}: {shown}");
    }
}

#[test]
fn leaving_gives_the_terminal_back() {
    let (code, shown) = run("return");
    assert_eq!(code, 0, "{shown}");
}

/// Does nothing unless the tests above run it, in a terminal of its own.
#[test]
#[expect(clippy::exit, reason = "the end of a program of its own, as after a panic")]
fn the_guard_is_dropped_in_many_ways() {
    let Ok(ending) = std::env::var(ENDING) else { return };
    let mut terminal = Terminal::take(true).unwrap();
    let (columns, rows) = terminal.size();
    assert_eq!((columns, rows), (80, 24));
    let model = fake::model(columns, rows);
    terminal.draw(&model).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match ending.as_str() {
        "return" => return,
        "panic" => panic!("this is a {ending}"),
        "panic in a thread" => drop(thread::spawn(|| panic!("this is a panic in a thread")).join()),
        "panic in a task" => runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async { panic!("this is a panic in a task") });
            assert!(tasks.join_next().await.unwrap().is_err());
        }),
        "panic while drawing" => {
            let _writing = WRITING.lock().unwrap();
            panic!("this is a {ending}");
        }
        other => unreachable!("no such ending: {other}"),
    }
    // The loop notices, and nothing is drawn any more on the screen that was given back.
    runtime.block_on(terminal.failed());
    terminal.draw(&model).unwrap();
    assert!(has_panicked());
    drop(terminal);
    std::process::exit(101);
}
