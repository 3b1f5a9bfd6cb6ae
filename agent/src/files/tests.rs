//! The operations on a root folder made for the test: what they answer, and that nothing leads out.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::{Mutex, PoisonError},
};

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::*;

struct Folder {
    folder: TempDir,
    root: Root,
}

/// A root with `/etc/hosts`, `/long` of 100 000 bytes, `/empty`, `/many/000..299`, and next to the root a file `secret`.
fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("root");
    fs::create_dir_all(inside.join("etc")).unwrap();
    fs::create_dir(inside.join("many")).unwrap();
    fs::write(folder.path().join("secret"), "outside").unwrap();
    fs::write(inside.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(inside.join("long"), vec![b'x'; 100_000]).unwrap();
    fs::write(inside.join("empty"), "").unwrap();
    for number in 0..300 {
        fs::write(inside.join(format!("many/{number:03}")), "").unwrap();
    }
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open(&inside, path, Mode::empty()).unwrap());
    Folder { folder, root }
}

impl Folder {
    fn link(&self, to: &str, name: &str) {
        symlink(to, self.folder.path().join("root").join(name)).unwrap();
    }

    fn open(&self, path: &'static str, inline_limit: u32) -> io::Result<(wire::OpenedFile, Option<Handle>)> {
        let answer = self.root.open(&wire::FileOpen {
            path: path.into(),
            inline_limit,
            ..wire::FileOpen::default()
        })?;
        match answer.outcome {
            Some(Outcome::Opened(opened)) => Ok((opened, answer.handle)),
            other => panic!("{other:?}"),
        }
    }

    fn errno(&self, path: &'static str) -> Option<Errno> {
        self.open(path, 1000).map(drop).map_err(|error| Errno::from_io_error(&error).unwrap()).err()
    }
}

fn names(answer: Answer) -> (Vec<String>, bool) {
    match answer.outcome {
        Some(Outcome::Entries(entries)) => {
            let names = entries.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
            (names.collect(), entries.end)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_files_come_inline_and_large_ones_as_handles() {
    let folder = folder();
    let (opened, handle) = folder.open("/etc/hosts", 1000).unwrap();
    assert!(opened.inline && handle.is_none());
    assert_eq!(&*opened.content, b"127.0.0.1 localhost\n");
    let (opened, handle) = folder.open("/empty", 0).unwrap();
    assert!(opened.inline && opened.content.is_empty() && handle.is_none());
    let (opened, handle) = folder.open("/long", 99_999).unwrap();
    assert!(!opened.inline && opened.content.is_empty());
    let Some(Handle::File(file)) = handle else { panic!("{handle:?}") };
    let read =
        |offset, length| match read_at(&file, &wire::FileRead { handle: 0, offset, length }).unwrap().outcome
        {
            Some(Outcome::Data(data)) => data.len(),
            other => panic!("{other:?}"),
        };
    assert_eq!((read(0, 10), read(99_990, 100), read(100_000, 1)), (10, 10, 0));
    assert!(matches!(folder.open("/etc", 0).unwrap().1, Some(Handle::Directory(_))));
}

#[test]
fn nothing_leads_out_of_the_root() {
    let folder = folder();
    let outside = folder.folder.path().join("secret").to_str().unwrap().to_owned();
    folder.link("../secret", "up");
    folder.link("../../../../../../../../etc/passwd", "far-up");
    folder.link(&outside, "absolute");
    folder.link("/etc/hosts", "inside");
    folder.link("/proc/self/root", "magic");
    folder.link("loop", "loop");
    for path in ["/../secret", "../secret", "/etc/../../secret", "/up", "/far-up", "/absolute", "/nothing"] {
        assert_eq!(folder.errno(path), Some(Errno::NOENT), "{path}");
    }
    assert_eq!(folder.errno("/loop"), Some(Errno::LOOP));
    assert_eq!(folder.errno("/etc/hosts/x"), Some(Errno::NOTDIR));
    assert_eq!(folder.errno("/a\0b"), Some(Errno::INVAL));
    let (opened, _) = folder.open("/inside", 1000).unwrap();
    assert_eq!(&*opened.content, b"127.0.0.1 localhost\n", "an absolute link means the target's root");
}

#[test]
fn magic_links_are_refused() {
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open("/", path, Mode::empty()).unwrap());
    for path in ["/proc/self/root/etc/passwd", "/proc/thread-self/cwd/x", "/proc/self/fd/0/x"] {
        let error = root.look(path, true).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP), "{path}");
    }
}

#[test]
fn links_are_read_and_not_followed_when_asked() {
    let folder = folder();
    folder.link("/no/where", "dangling");
    let stat = |path: &'static str, follow| folder.root.stat(&wire::FileStat { path: path.into(), follow });
    let link = stat("/dangling", false).unwrap().stat.unwrap();
    assert_eq!(link.mode & 0o170_000, 0o120_000);
    assert!(stat("/dangling", true).is_err());
    assert_eq!(stat("/long", true).unwrap().stat.unwrap().size, 100_000);
    let read = |path: &'static str| folder.root.readlink(&wire::FileReadlink { path: path.into() });
    assert!(
        matches!(read("/dangling").unwrap().outcome, Some(Outcome::Link(link)) if &*link == b"/no/where")
    );
    let error = read("/long").unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL));
    assert!(folder.root.stat_fs(&wire::FileStatFs { path: "/".into() }).unwrap().outcome.is_some());
}

#[test]
fn listings_in_pieces_are_whole() {
    let folder = folder();
    let by_path = |offset, limit| {
        let request = wire::FileReadDir { path: "/many".into(), offset, limit, handle: 0 };
        names(folder.root.read_dir(&request).unwrap())
    };
    let (mut expected, end) = by_path(0, 1000);
    assert!(end && expected.len() == 300);
    let (tail, _) = by_path(290, 1000);
    assert_eq!(tail, expected[290..]);

    let Some(Handle::Directory(directory)) = folder.open("/many", 0).unwrap().1 else { panic!() };
    let list = |directory: &Mutex<Directory>, offset, limit| {
        names(directory.lock().unwrap_or_else(PoisonError::into_inner).list(offset, limit).unwrap())
    };
    let mut all = Vec::new();
    loop {
        let (piece, end) = list(&directory, all.len() as u64, 7);
        all.extend(piece);
        if end {
            break;
        }
    }
    assert_eq!(all, expected);
    assert_eq!(list(&directory, 5, 3).0, expected[5..8], "back to an earlier place");
    expected.sort();
    assert_eq!(expected[0], "000");
}

#[test]
fn devices_and_fifos_are_not_opened() {
    let folder = folder();
    let fifo = folder.folder.path().join("root/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(folder.errno("/fifo"), Some(Errno::NXIO));
}

#[test]
fn quick_answers_equal_slow_ones() {
    let target = crate::target::Target::open(std::process::id()).unwrap();
    let root = target.root().unwrap();
    let mut mounts = mounts::Mounts::of(&target);
    let here = std::env::current_exe().unwrap();
    let path: Bytes = here.into_os_string().into_encoded_bytes().into();
    let request = wire::FileStat { path: path.clone(), follow: true };
    let slow = root.stat(&request).unwrap().stat;
    // The executable of a running process is in the kernel's caches; on an unusual file system there is no quick answer.
    if let Some(quick) = quick::quick_stat(root, &mut mounts, &request) {
        assert_eq!(quick.unwrap().stat, slow);
    }
    let missing = wire::FileStat { path: "/surely/not/here".into(), follow: true };
    let error = root.stat(&missing).unwrap_err();
    if let Some(quick) = quick::quick_stat(root, &mut mounts, &missing) {
        assert_eq!(quick.unwrap_err().kind(), error.kind());
    }
    let open = wire::FileOpen { path, inline_limit: 10, ..wire::FileOpen::default() };
    assert!(quick::quick_open(root, &mut mounts, &open).is_none(), "too long to come inline");
}
