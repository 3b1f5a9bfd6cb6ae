//! Every bound and deadline of the layer, with its unit and its reason. Nothing else in the crate names one.

use std::time::Duration;

/// One datagram between supervisor and host; larger messages travel in a memfd.
pub const MESSAGE_BYTES: usize = 64 << 10;
/// Largest message that is read from a memfd: a command line and an environment (the kernel allows about 2 MiB for both).
pub const SPILLED_BYTES: u64 = 8 << 20;
/// Descriptors beside one message: standard input, output and error, and the memfd of a large message.
pub const DESCRIPTORS: usize = 4;
/// Longest path that a system call takes, with its NUL (PATH_MAX of linux/limits.h).
pub const PATH_BYTES: usize = 4096;
/// Arguments of an executed program that are shown.
pub const SHOWN_ARGUMENTS: usize = 64;
/// Bytes of one shown argument.
pub const SHOWN_ARGUMENT_BYTES: usize = 512;
/// Messages that wait for the host. Calls are bounded by the threads of the command; beyond this reports are dropped and counted.
pub const QUEUED_MESSAGES: usize = 4096;
/// Answers kept for a call that a signal interrupted, until the thread asks again.
pub const KEPT_ANSWERS: usize = 256;
/// How long such an answer is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(5);
/// A call that the host does not answer in this time fails with EIO. The host itself gives the agent 20 s.
pub const HOST_ANSWER: Duration = Duration::from_secs(30);
/// Patience for the host's answer to a call on a socket: longer than the host lets a connection attempt take, shorter than the library
/// in the program waits.
pub const SOCKET_ANSWER: Duration = Duration::from_secs(34);
/// A socket that the holder of the session netns does not make in this time fails with ENETDOWN.
pub const HOLDER_ANSWER: Duration = Duration::from_secs(5);
/// How often deadlines are looked at while something is waited for.
pub const DEADLINE_TICK: Duration = Duration::from_millis(500);
/// Sockets of each common kind that lie ready, so that socket(2) waits for nobody. A burst empties it, 5 us a piece refill it.
pub const POOLED_SOCKETS: usize = 4;
/// Threads whose process and name are remembered. Beyond it the table starts anew.
pub const KNOWN_THREADS: usize = 16_384;
/// Processes that are watched by pidfd. Beyond it they still run under the layer, but their end is not reported.
pub const WATCHED_PROCESSES: usize = 8_192;
/// Directories of the target that are recognised as base of relative paths.
pub const KNOWN_DIRECTORIES: usize = 16_384;
/// Paths written locally in this session, which are read locally from then on.
pub const WRITTEN_PATHS: usize = 16_384;
/// Questions of the library that wait at one time: one per thread of the command. Beyond it calls go their usual way.
pub const QUESTIONS: usize = 8_192;
/// Addresses of one name that a program gets.
pub const ADDRESSES: usize = 32;
/// Programs outside the session that the user is told about by name.
pub const NAMED_PROGRAMS: usize = 256;
/// Interpreters of interpreters that are followed, as in the kernel (fs/exec.c).
pub const INTERPRETERS: usize = 5;
/// Program headers that are read; compilers make about a dozen.
pub const PROGRAM_HEADERS: usize = 64;
/// Bytes of a note segment that are read; the notes of interest are the first ones.
pub const PROGRAM_NOTE: usize = 4096;
/// Pause between two rounds of killing a process tree; a round ends earlier when a process ends.
pub const KILL_ROUND: Duration = Duration::from_millis(5);
/// A process that is still there so long after SIGKILL hangs in the kernel; we end without it.
pub const KILL_DEADLINE: Duration = Duration::from_secs(10);
