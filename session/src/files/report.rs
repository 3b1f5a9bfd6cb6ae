//! One event per path call.

use std::time::Duration;

use mirrord_protocol::{
    layer::v1::{Caller, FileCall, FileReport, file_call::Want},
    session::v1 as wire,
};

use super::Done;
use crate::events::Events;

/// A call that went to the target.
pub(super) fn called(events: &Events, call: &FileCall, done: &Done, latency: Duration) {
    let (place, errno, size) = match done {
        Done::Errno(libc::EROFS) if call.want() == Want::Existence => (wire::Where::Refused, libc::EROFS, 0),
        Done::Errno(errno) => (wire::Where::Remote, *errno, 0),
        Done::Local => (wire::Where::Local, 0, 0),
        Done::Stat(stat) | Done::Descriptor(_, stat) => (wire::Where::Remote, 0, stat.size),
        Done::Link(link) => (wire::Where::Remote, 0, u64::try_from(link.len()).unwrap_or(0)),
        Done::StatFs(_) => (wire::Where::Remote, 0, 0),
    };
    let moved = if matches!(done, Done::Descriptor(..)) { size } else { 0 };
    let file = wire::File {
        operation: call.operation.clone(),
        path: call.path.clone(),
        errno: errno_name(errno),
        size,
        flags: if call.want() == Want::Descriptor { open_flags(call.flags) } else { String::new() },
    };
    emit(events, call.caller.as_ref(), (place, &call.rule), moved, latency, file);
}

/// A call that the layer decided.
pub(super) fn decided(events: &Events, report: FileReport) {
    let place = if report.refused { wire::Where::Refused } else { wire::Where::Local };
    let file = wire::File {
        operation: report.operation,
        path: report.path,
        errno: errno_name(i32::try_from(report.errno).unwrap_or(libc::EIO)),
        ..wire::File::default()
    };
    emit(events, report.caller.as_ref(), (place, &report.rule), 0, Duration::ZERO, file);
}

fn emit(
    events: &Events,
    caller: Option<&Caller>,
    (place, rule): (wire::Where, &str),
    bytes: u64,
    latency: Duration,
    file: wire::File,
) {
    let caller = caller.cloned().unwrap_or_default();
    events.emit(wire::Event {
        pid: caller.pid,
        tid: caller.tid,
        comm: caller.comm,
        kind: wire::Kind::File.into(),
        subject: String::from_utf8_lossy(&file.path).into_owned(),
        decision: Some(wire::Decision { r#where: place.into(), rule: rule.to_owned() }),
        error: file.errno.clone(),
        bytes,
        latency_ns: u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX),
        detail: Some(wire::event::Detail::File(file)),
        ..wire::Event::default()
    });
}

/// The flags of open(2) that say something, as strace writes them.
fn open_flags(flags: u32) -> String {
    const NAMES: [(i32, &str); 6] = [
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
        (libc::O_NONBLOCK, "O_NONBLOCK"),
        (libc::O_PATH, "O_PATH"),
        (libc::O_NOATIME, "O_NOATIME"),
        (libc::O_CLOEXEC, "O_CLOEXEC"),
    ];
    let set = NAMES.iter().filter(|(flag, _)| flags & flag.unsigned_abs() != 0).map(|(_, name)| *name);
    ["O_RDONLY"].into_iter().chain(set).collect::<Vec<_>>().join("|")
}

/// The name of an error number; empty for 0.
fn errno_name(errno: i32) -> String {
    let name = match errno {
        0 => "",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EACCES => "EACCES",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::EFBIG => "EFBIG",
        libc::EROFS => "EROFS",
        libc::ELOOP => "ELOOP",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ESTALE => "ESTALE",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_in_the_manual() {
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECTORY).unsigned_abs();
        assert_eq!(open_flags(flags), "O_RDONLY|O_DIRECTORY|O_CLOEXEC");
    }
}
