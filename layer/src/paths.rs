//! From the path argument of a call to the absolute path that it means.
//!
//! Paths are made absolute and normalised by their text: `..` goes to the parent by name, as shells and most runtimes do it, not
//! through symbolic links. Relative paths are taken through the caller's own working directory or descriptor, or, when that is a
//! directory that we handed out, through its path in the target.

use std::{collections::HashMap, os::fd::AsFd};

use rustix::fs::{AtFlags, CWD, Stat};

use crate::limits::KNOWN_DIRECTORIES;

/// An absolute path without `.`, `..`, doubled or trailing slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Absolute {
    pub(crate) path: Vec<u8>,
    /// The text ended with a slash or a dot: it must be a directory.
    pub(crate) directory: bool,
    /// It lies below a directory that we handed out, so it is the target's whatever the rules say.
    pub(crate) remote: bool,
}

/// What a directory is recognised by. The time is that of its last change, which nobody can make: our directories are read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    #[expect(
        clippy::useless_conversion,
        reason = "the types of the fields differ between architectures and libraries"
    )]
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            changed: (i64::from(stat.st_ctime), i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        }
    }
}

/// Directories of the target that processes hold descriptors of.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    known: HashMap<Identity, Vec<u8>>,
}

impl Directories {
    /// Remembers a directory that is about to be handed out. When there are too many the table starts anew; relative calls on the
    /// forgotten ones are local then, which finds the skeleton's names but no content.
    pub(crate) fn add(&mut self, directory: impl AsFd, path: &[u8]) -> rustix::io::Result<()> {
        let stat = rustix::fs::fstat(directory)?;
        if self.known.len() >= KNOWN_DIRECTORIES {
            self.known.clear();
        }
        self.known.insert(Identity::of(&stat), path.to_vec());
        Ok(())
    }

    fn find(&self, proc_path: &str) -> Option<&[u8]> {
        if self.known.is_empty() {
            return None;
        }
        let stat = rustix::fs::statat(CWD, proc_path, AtFlags::empty()).ok()?;
        self.known.get(&Identity::of(&stat)).map(Vec::as_slice)
    }
}

/// What `raw` means for thread `tid`, `directory` being the descriptor argument (AT_FDCWD or a number). `None`: it cannot be told
/// or is not for us, and the kernel shall do the call.
pub(crate) fn resolve(directories: &Directories, tid: u32, directory: i32, raw: &[u8]) -> Option<Absolute> {
    if raw.is_empty() {
        return None;
    }
    if raw.starts_with(b"/") {
        return Some(normalise(b"/", raw));
    }
    let link = match directory {
        libc::AT_FDCWD => format!("/proc/{tid}/cwd"),
        number if number >= 0 => format!("/proc/{tid}/fd/{number}"),
        _ => return None,
    };
    if let Some(base) = directories.find(&link) {
        let absolute = normalise(base, raw);
        let remote = is_below(&absolute.path, base);
        return Some(Absolute { remote, ..absolute });
    }
    let base = rustix::fs::readlinkat(CWD, link, Vec::new()).ok()?.into_bytes();
    // A pipe, a socket, or a directory that has been removed.
    if !base.starts_with(b"/") || base.ends_with(b" (deleted)") {
        return None;
    }
    Some(normalise(&base, raw))
}

fn is_below(path: &[u8], base: &[u8]) -> bool {
    let base = base.strip_suffix(b"/").unwrap_or(base);
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Joins and cleans by text alone.
fn normalise(base: &[u8], raw: &[u8]) -> Absolute {
    let mut parts: Vec<&[u8]> = Vec::new();
    let base = if raw.starts_with(b"/") { b"".as_slice() } else { base };
    for part in base.split(|byte| *byte == b'/').chain(raw.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let mut path = Vec::with_capacity(base.len() + raw.len() + 1);
    for part in parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    let last = raw.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    Absolute { path, directory: matches!(last, b"" | b"." | b".."), remote: false }
}

/// Paths that mean something else for each process: they are never the target's, whatever a rule says.
pub(crate) fn is_private(path: &[u8]) -> bool {
    const PRIVATE: [&[u8]; 7] = [
        b"/proc/self",
        b"/proc/thread-self",
        b"/dev/fd",
        b"/dev/stdin",
        b"/dev/stdout",
        b"/dev/stderr",
        b"/dev/tty",
    ];
    PRIVATE.iter().any(|private| is_below(path, private))
}

/// Whether the thread sees the same root directory as we do; paths of another root are left alone.
pub(crate) fn shares_our_root(tid: u32) -> bool {
    let theirs = rustix::fs::statat(CWD, format!("/proc/{tid}/root"), AtFlags::empty());
    let ours = rustix::fs::statat(CWD, "/", AtFlags::empty());
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(base: &str, raw: &str) -> (String, bool) {
        let absolute = normalise(base.as_bytes(), raw.as_bytes());
        (String::from_utf8(absolute.path).unwrap(), absolute.directory)
    }

    #[test]
    fn paths_are_cleaned_by_text() {
        for (base, raw, path, directory) in [
            ("/", "/a/b", "/a/b", false),
            ("/x", "/a//b/", "/a/b", true),
            ("/x/y", "b", "/x/y/b", false),
            ("/x/y", "../b/./c", "/x/b/c", false),
            ("/x", "../../..", "/", true),
            ("/x", ".", "/x", true),
            ("/", "/..", "/", true),
            ("/x", "...", "/x/...", false),
        ] {
            assert_eq!(text(base, raw), (path.to_owned(), directory), "{base} {raw}");
        }
    }

    #[test]
    fn relative_paths_go_through_the_callers_directory() {
        let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let cwd = std::env::current_dir().unwrap();
        let directories = Directories::default();
        let found = resolve(&directories, me, libc::AT_FDCWD, b"some/file").unwrap();
        assert_eq!(found.path, cwd.join("some/file").into_os_string().into_encoded_bytes());
        assert_eq!(resolve(&directories, me, libc::AT_FDCWD, b""), None);
        assert_eq!(resolve(&directories, me, 999_999, b"x"), None);
        assert_eq!(resolve(&directories, me, 999_999, b"/x").unwrap().path, b"/x");
    }

    #[test]
    fn a_directory_that_was_handed_out_is_a_remote_base() {
        let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let file = std::fs::File::open("/proc").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let mut directories = Directories::default();
        directories.add(&file, b"/data/sub").unwrap();
        let inside = resolve(&directories, me, number, b"x/y").unwrap();
        assert_eq!((inside.path.as_slice(), inside.remote), (&b"/data/sub/x/y"[..], true));
        let above = resolve(&directories, me, number, b"../z").unwrap();
        assert_eq!((above.path.as_slice(), above.remote), (&b"/data/z"[..], false));
    }

    #[test]
    fn what_differs_between_processes_is_private() {
        assert!(is_private(b"/proc/self/maps") && is_private(b"/dev/tty") && is_private(b"/dev/fd/3"));
        assert!(!is_private(b"/proc/selfish") && !is_private(b"/data"));
    }

    #[test]
    fn we_share_our_own_root() {
        assert!(shares_our_root(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()));
        assert!(!shares_our_root(0x3fff_ffff));
    }

    proptest! {
        #[test]
        fn the_result_is_absolute_and_stays_the_same(raw in "[a/.]{0,24}", base in "(/[a-c]{1,3}){0,4}") {
            let once = normalise(base.as_bytes(), raw.as_bytes()).path;
            prop_assert!(once.starts_with(b"/"));
            let twice = normalise(b"/", &once).path;
            prop_assert_eq!(twice, once);
        }
    }
}
