//! Starts the command: what the child does between fork and exec, and how it reports to the supervisor.
//!
//! ```text
//! child: group or session -> standard descriptors -> cwd -> signals -> close-on-exec for the rest -> filter -> listener sent -> exec
//! ```
//! The reports travel over a socket pair that closes on exec: `L` with the filter's listener, `E` with errno and operation, and its
//! end, which means that the command runs (or the child has died).

use std::{
    ffi::CString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use mirrord_protocol::layer::v1::Launch;
use rustix::{
    fs::{Access, access},
    io::Errno,
    net::{
        self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
    process::Pid,
};
use thiserror::Error;

use crate::sys::{
    process::{self, Side},
    seccomp,
};

/// Where execvp(3) looks when there is no PATH (`_CS_PATH`).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";
/// Runs what has no magic number, as execvp(3) does.
const SHELL: &std::ffi::CStr = c"/bin/sh";
const LISTENER: u8 = b'L';
const FAILED: u8 = b'E';
/// Longest report: kind, errno, name of an operation.
const REPORT_BYTES: usize = 64;

/// A child that is on its way to the command.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) pid: Pid,
    reports: OwnedFd,
}

/// What the child said.
#[derive(Debug)]
pub(crate) enum Report {
    /// The filter is on, this is its listener.
    Listener(OwnedFd),
    /// The command cannot be started.
    Failed(LaunchError),
    /// The socket has closed: the command runs.
    Executed,
    /// Nothing yet.
    None,
}

/// Which step failed, and how.
#[derive(Debug, Error)]
#[error("`{operation}` failed")]
pub(crate) struct LaunchError {
    /// Name of the system call or step.
    pub(crate) operation: String,
    /// Its error number.
    #[source]
    pub(crate) source: io::Error,
}

impl LaunchError {
    pub(crate) fn new(operation: &str, source: impl Into<io::Error>) -> Self {
        Self { operation: operation.to_owned(), source: source.into() }
    }

    /// The error number; EINVAL when the failure was not a system call's.
    #[must_use]
    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EINVAL)
    }
}

/// Starts a child for the command. `filter` is the BPF program to run under, if any.
///
/// # Errors
/// When the command line cannot be passed on or no process can be made. What fails later comes as a [`Report`].
pub(crate) fn start(
    launch: &Launch,
    standard: &[OwnedFd; 3],
    filter: Option<&[libc::sock_filter]>,
) -> Result<Starting, LaunchError> {
    let command = Command::new(launch)?;
    let (ours, theirs) =
        net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| LaunchError::new("socketpair", error))?;
    match process::fork().map_err(|error| LaunchError::new("fork", error))? {
        Side::Parent(pid) => Ok(Starting { pid, reports: ours }),
        Side::Child => {
            drop(ours);
            let error = command.become_it(standard, filter, theirs.as_fd());
            // When the supervisor cannot be told any more it has died, and so will we.
            drop(report_failure(theirs.as_fd(), &error));
            leave()
        }
    }
}

#[expect(clippy::exit, reason = "a forked child must not return into the supervisor's code")]
fn leave() -> ! {
    std::process::exit(127)
}

impl Starting {
    /// The next report, without waiting.
    pub(crate) fn report(&self) -> Report {
        let mut bytes = [0; REPORT_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            net::recvmsg(&self.reports, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        let count = match received {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return Report::None,
            Err(_) => 0,
        };
        let mut descriptors = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        match (bytes.get(..count).unwrap_or_default(), descriptors.next()) {
            ([LISTENER], Some(listener)) => Report::Listener(listener),
            ([FAILED, e0, e1, e2, e3, operation @ ..], _) => Report::Failed(LaunchError {
                operation: String::from_utf8_lossy(operation).into_owned(),
                source: io::Error::from_raw_os_error(i32::from_ne_bytes([*e0, *e1, *e2, *e3])),
            }),
            _ => Report::Executed,
        }
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }
}

/// The file that the command will most likely be: the first candidate that may be executed.
pub(crate) fn executable(launch: &Launch) -> Vec<u8> {
    let program = launch.arguments.first().map(AsRef::as_ref).unwrap_or_default();
    let absolute = |candidate: Vec<u8>| match candidate.first() {
        Some(b'/') => candidate,
        _ => [&launch.cwd, &b"/"[..], &candidate].concat(),
    };
    let mut all = candidates(program, path_of(launch)).into_iter().map(absolute);
    all.find(|candidate| access(candidate.as_slice(), Access::EXEC_OK).is_ok()).unwrap_or_default()
}

fn path_of(launch: &Launch) -> &[u8] {
    let path = launch.environment.iter().find(|entry| entry.name.as_ref() == b"PATH");
    path.map_or(DEFAULT_PATH, |entry| entry.value.as_ref())
}

/// Everything the child needs, made before the fork.
struct Command {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    cwd: CString,
    process_group: u32,
    new_session: bool,
    ignored_signals: u64,
    blocked_signals: u64,
}

impl Command {
    fn new(launch: &Launch) -> Result<Self, LaunchError> {
        let invalid = || LaunchError::new("command line", io::Error::from_raw_os_error(libc::EINVAL));
        let string = |bytes: &[u8]| CString::new(bytes).map_err(|_| invalid());
        let program = launch.arguments.first().filter(|program| !program.is_empty()).ok_or_else(invalid)?;
        // A variable that holds a NUL cannot be passed on; it is left out rather than the command refused.
        let environment = launch.environment.iter().filter_map(|entry| {
            CString::new([entry.name.as_ref(), b"=", entry.value.as_ref()].concat()).ok()
        });
        Ok(Self {
            candidates: candidates(program, path_of(launch))
                .iter()
                .map(|candidate| string(candidate))
                .collect::<Result<_, _>>()?,
            arguments: launch.arguments.iter().map(|argument| string(argument)).collect::<Result<_, _>>()?,
            environment: environment.collect(),
            cwd: string(&launch.cwd)?,
            process_group: launch.process_group,
            new_session: launch.new_session,
            ignored_signals: launch.ignored_signals,
            blocked_signals: launch.blocked_signals,
        })
    }

    /// Runs in the child; returns only what went wrong.
    fn become_it(
        &self,
        standard: &[OwnedFd; 3],
        filter: Option<&[libc::sock_filter]>,
        reports: BorrowedFd<'_>,
    ) -> LaunchError {
        match self.prepare(standard, filter, reports) {
            Err(error) => error,
            Ok(()) => LaunchError { operation: "execve".to_owned(), source: self.execute() },
        }
    }

    fn prepare(
        &self,
        standard: &[OwnedFd; 3],
        filter: Option<&[libc::sock_filter]>,
        reports: BorrowedFd<'_>,
    ) -> Result<(), LaunchError> {
        let [stdin, stdout, stderr] = standard;
        self.join_group().map_err(|(operation, error)| LaunchError::new(operation, error))?;
        rustix::stdio::dup2_stdin(stdin).map_err(|error| LaunchError::new("dup2", error))?;
        rustix::stdio::dup2_stdout(stdout).map_err(|error| LaunchError::new("dup2", error))?;
        rustix::stdio::dup2_stderr(stderr).map_err(|error| LaunchError::new("dup2", error))?;
        if self.new_session {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .map_err(|error| LaunchError::new("TIOCSCTTY", error))?;
        }
        rustix::process::chdir(self.cwd.as_c_str()).map_err(|error| LaunchError::new("chdir", error))?;
        process::set_dispositions(self.ignored_signals);
        process::close_on_exec_all().map_err(|error| LaunchError::new("close_range", error))?;
        if let Some(filter) = filter {
            let listener = install(filter).map_err(|error| LaunchError::new("seccomp", error))?;
            send(reports, &[LISTENER], Some(listener.as_fd()))
                .map_err(|error| LaunchError::new("sendmsg", error))?;
        }
        process::set_mask(self.blocked_signals).map_err(|error| LaunchError::new("sigprocmask", error))
    }

    fn join_group(&self) -> Result<(), (&'static str, Errno)> {
        if self.new_session {
            return rustix::process::setsid().map(drop).map_err(|error| ("setsid", error));
        }
        let group = Pid::from_raw(self.process_group.cast_signed());
        rustix::process::setpgid(None, group).map_err(|error| ("setpgid", error))
    }

    /// As execvp(3): goes on while a candidate does not exist or may not be executed.
    fn execute(&self) -> io::Error {
        let mut denied = false;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            last = process::execute(candidate, &self.arguments, &self.environment);
            match last.raw_os_error() {
                Some(libc::EACCES) => denied = true,
                Some(libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT) => {}
                Some(libc::ENOEXEC) => {
                    let script = [SHELL.to_owned(), candidate.clone()];
                    let arguments: Vec<_> =
                        script.into_iter().chain(self.arguments.iter().skip(1).cloned()).collect();
                    return process::execute(SHELL, &arguments, &self.environment);
                }
                _ => return last,
            }
        }
        if denied { io::Error::from_raw_os_error(libc::EACCES) } else { last }
    }
}

/// A process with CAP_SYS_ADMIN may install a filter as it is, so setuid programs keep working below it; all others must give up
/// gaining privileges first.
pub(crate) fn install(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    match seccomp::install(filter) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            rustix::thread::set_no_new_privs(true)?;
            seccomp::install(filter)
        }
        result => result,
    }
}

/// The paths to try for a program's name. A folder that the user may not search holds nothing for him, as in a shell: the kernel's
/// EACCES for it would make a program that is nowhere look like one that may not be executed.
fn candidates(program: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let folders = path.split(|byte| *byte == b':');
    folders
        .filter(|folder| !folder.starts_with(b"/") || access(*folder, Access::EXEC_OK) != Err(Errno::ACCESS))
        .map(|folder| match folder {
            b"" => program.to_vec(),
            folder => [folder, b"/", program].concat(),
        })
        .collect()
}

fn report_failure(reports: BorrowedFd<'_>, error: &LaunchError) -> io::Result<()> {
    let mut bytes = vec![FAILED];
    bytes.extend_from_slice(&error.errno().to_ne_bytes());
    bytes.extend_from_slice(error.operation.as_bytes());
    bytes.truncate(REPORT_BYTES);
    send(reports, &bytes, None)
}

fn send(reports: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    net::sendmsg(reports, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_for_in_path_and_paths_are_not() {
        let text = |program: &str, path: &str| {
            let found = candidates(program.as_bytes(), path.as_bytes());
            found.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(text("ls", "/bin::rel"), ["/bin/ls", "ls", "rel/ls"]);
        assert_eq!(text("./ls", "/bin"), ["./ls"]);
    }

    #[test]
    fn an_empty_command_line_is_refused_before_anything_is_started() {
        for arguments in [vec![], vec![bytes("")], vec![bytes("a\0b")]] {
            let launch = Launch { arguments, ..Launch::default() };
            assert!(Command::new(&launch).is_err_and(|error| error.errno() == libc::EINVAL));
        }
    }

    fn bytes(text: &'static str) -> prost::bytes::Bytes {
        prost::bytes::Bytes::from_static(text.as_bytes())
    }
}
