//! The user's editor on the terminal that the UI has given back for as long: what it gets, and what it leaves.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write, stdin},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crossterm::{cursor, execute, terminal::LeaveAlternateScreen};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::process::Command;

use super::limits;

/// Lets the user edit a text; what is left of it.
///
/// # Errors
/// When the editor cannot be run, or says that it has failed.
///
/// # Cancel safety
/// When dropped, the editor is killed, the line is set as it was before and the file is removed.
pub(super) async fn edit(text: &str) -> io::Result<String> {
    let file = Draft::new(text)?;
    let line = Line::keep();
    let editor = program();
    // As git does it: the variable may hold options, so a shell reads it.
    let mut command = Command::new("sh");
    command.arg("-c").arg({
        let mut script = editor.clone();
        script.push(" \"$@\"");
        script
    });
    command.arg(&editor).arg(&file.path).kill_on_drop(true);
    let status = command.status().await?;
    line.leave_it();
    if !status.success() {
        return Err(io::Error::other(format!("the editor {} {status}", editor.to_string_lossy())));
    }
    file.content()
}

/// The editor of the user's choice.
fn program() -> OsString {
    let named = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os);
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "vi".into())
}

/// A file that only the user may read: requests hold what others must not see. Removed with this.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn new(text: &str) -> io::Result<Self> {
        let name = |attempt: u32| format!("mirrord-tui-{}-{attempt}.http", std::process::id());
        for attempt in 0..limits::DRAFT_NAMES {
            let path = std::env::temp_dir().join(name(attempt));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    let draft = Self { path };
                    file.write_all(text.as_bytes())?;
                    return Ok(draft);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("there is no free name for the draft"))
    }

    fn content(&self) -> io::Result<String> {
        let size = fs::metadata(&self.path)?.len();
        if size > limits::DRAFT_BYTES {
            return Err(io::Error::other(format!("the draft is longer than {} bytes", limits::DRAFT_BYTES)));
        }
        fs::read_to_string(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // One that is gone is what is wanted; another failure leaves a file that only the user can read.
    drop(fs::remove_file(path));
}

/// How the line was set before the editor, which sets it as it likes and may be killed before it has set it back.
struct Line {
    before: Option<Termios>,
}

impl Line {
    fn keep() -> Self {
        Self { before: tcgetattr(stdin()).ok() }
    }

    /// The editor has ended by itself.
    fn leave_it(mut self) {
        self.before = None;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A line that has gone needs no settings.
            tcsetattr(stdin(), OptionalActions::Now, before).ok();
            drop(execute!(io::stdout(), LeaveAlternateScreen, cursor::Show));
        }
    }
}
