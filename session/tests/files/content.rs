//! Content and attributes of files.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use mirrord_protocol::session::v1 as wire;
use mirrord_session::files::FileOptions;
use tempfile::TempDir;

use crate::{
    target::Target,
    world::{World, block_on, events_of, sh},
};

/// What stat(1) says by path and, for the descriptor, by number: size, mode, mtime, device, inode.
const AGREES: &str = "f() { stat -L -c '%s %a %y %d %i' \"$1\"; }; for n in $FILES; do
    by_path=$(f /remote/$n); by_descriptor=$(f /dev/fd/3 3</remote/$n)
    [ \"$by_path\" = \"$by_descriptor\" ] && echo same || echo \"$n: $by_path; $by_descriptor\"; done";

pub(crate) fn folder() -> (TempDir, Arc<Target>) {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(folder.path()));
    (folder, target)
}

fn write(folder: &Path, name: &str, content: &[u8], mode: u32) {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 123_456_789);
    fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn small() {
    let (folder, target) = folder();
    write(folder.path(), "one", b"first\n", 0o640);
    write(folder.path(), "empty", b"", 0o644);
    write(folder.path(), "full", &vec![b'x'; 1 << 20], 0o600);
    std::os::unix::fs::symlink("one", folder.path().join("link")).unwrap();
    block_on(async {
        let script = format!("FILES='one empty full link'; {AGREES}");
        assert_eq!(sh(target.clone(), &script).await, "same\nsame\nsame\nsame\n");
        let copied = "d=$(mktemp -d); cp -p /remote/one /remote/full $d && cat $d/one && stat -c '%s %a %Y' $d/full; rm -r $d";
        assert_eq!(sh(target.clone(), copied).await, "first\n1048576 600 1600000000\n");
        let attributes =
            sh(target.clone(), "stat -c '%s %a %Y %U' /remote/one; cat /remote/link; readlink /remote/link")
                .await;
        assert!(
            attributes.starts_with("6 640 1600000000 ") && attributes.ends_with("\nfirst\none\n"),
            "{attributes}"
        );
        // It cannot be written through its descriptor either.
        let written =
            sh(target.clone(), "exec 3</remote/one; echo x >/dev/fd/3 || echo refused; cat /remote/one")
                .await;
        assert!(written.ends_with("refused\nfirst\n"), "{written}");
        assert_eq!(sh(target, "cd /; head -c 3 <remote/one; cat /remote/./x/../one").await, "firfirst\n");
    });
}

pub(crate) fn changed() {
    let (folder, target) = folder();
    write(folder.path(), "one", b"first\n", 0o644);
    let path = folder.path().join("one");
    let script = "exec 3</remote/one; cat /remote/one; printf 'second!\\n' >$ONE; cat /remote/one; stat -c %s /remote/one; cat <&3";
    let script = format!("ONE={}; {script}", path.display());
    assert_eq!(block_on(sh(target, &script)), "first\nsecond!\n8\nfirst\n");
}

pub(crate) fn modes() {
    let (folder, target) = folder();
    let is_root = rustix::process::geteuid().is_root();
    // As root the agent reads everything; as an ordinary user the folder is read by this process, which needs the owner's bit.
    let modes: &[u32] = if is_root { &[0o000, 0o040, 0o4755, 0o400] } else { &[0o400, 0o4755] };
    for mode in modes {
        write(folder.path(), &format!("{mode:o}"), b"content\n", *mode);
    }
    block_on(async {
        for mode in modes {
            let script = format!("cat /remote/{mode:o}; cat /remote/{mode:o}; stat -c %a /remote/{mode:o}");
            assert_eq!(sh(target.clone(), &script).await, format!("content\ncontent\n{mode:o}\n"));
        }
    });
}

/// More files than copies are kept, some larger than all kept bytes together would allow.
pub(crate) fn many() {
    let (folder, target) = folder();
    for index in 0..400 {
        let size = if index % 4 == 0 { 1 << 20 } else { 10 };
        write(folder.path(), &format!("f{index}"), &vec![b'x'; size], 0o644);
    }
    block_on(async {
        let world = World::new(target, FileOptions::default()).await;
        let files = world.files.clone();
        let (ended, _) = world.run(&["sh", "-c", "cat /remote/f* 2>/dev/null | wc -c; cd /; for i in $(seq 0 399); do cat /remote/f$i; done | wc -c"]).await;
        assert!(ended.output.ends_with(&format!("{}\n", 100 * (1 << 20) + 300 * 10)), "{}", ended.output);
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 200, "{open} descriptors are open");
        drop(files);
    });
}

pub(crate) fn large() {
    let (folder, target) = folder();
    let content: Vec<u8> =
        (0..5 * 1024 * 1024 + 17_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    write(folder.path(), "large", &content, 0o644);
    let path = folder.path().join("large");
    block_on(async {
        let script = format!("sha256sum </remote/large; sha256sum <{}", path.display());
        let sums = sh(target.clone(), &script).await;
        let lines: Vec<_> = sums.lines().collect();
        assert_eq!(lines[0], lines[1]);
        // In the middle, across the border of a piece, and at the end.
        let read = "dd if=/remote/large bs=1000 skip=1048 count=2 status=none | cksum; tail -c 20 /remote/large | cksum";
        let expected = read.replace("/remote/large", path.to_str().unwrap());
        assert_eq!(sh(target.clone(), read).await, sh(target.clone(), &expected).await);
        let script = format!(
            "FILES='large'; {AGREES}; d=$(mktemp -d); cp /remote/large $d && cmp /remote/large $d/large && echo copied; rm -r $d"
        );
        assert_eq!(sh(target.clone(), &script).await, "same\ncopied\n");
    });
    assert_eq!(target.open_handles(), 0);
}

/// Sparse, so that it costs nothing here.
pub(crate) fn huge() {
    let (folder, target) = folder();
    let file = fs::File::create(folder.path().join("huge")).unwrap();
    file.set_len(3 << 30).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", (3 << 30) - 3).unwrap();
    let (output, warnings) = block_on(async {
        let world = World::new(target.clone(), FileOptions::default()).await;
        let (ended, events) = world.run(&["sh", "-c", "tail -c 3 /remote/huge"]).await;
        (ended.output, events_of(&events, wire::Kind::Warning).len())
    });
    if fuse_is_here() {
        assert_eq!((output.as_str(), warnings), ("end", 0));
    } else {
        assert!(output.contains("File too large") && warnings == 1, "{output}");
    }
    assert_eq!(target.open_handles(), 0);
}

fn fuse_is_here() -> bool {
    fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

pub(crate) fn reopened() {
    if !fuse_is_here() {
        crate::runner::skip("/dev/fuse cannot be opened");
    }
    let (folder, target) = folder();
    write(folder.path(), "large", &vec![b'x'; 8 << 20], 0o644);
    let fifo = folder.path().join("go");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let forgetful = target.clone();
    let path = fifo.clone();
    let forgetting = std::thread::spawn(move || {
        // Opens when the script does, which then has the file open.
        let mut go = fs::OpenOptions::new().write(true).open(path).unwrap();
        forgetful.forget_handles();
        std::io::Write::write_all(&mut go, b"go\n").unwrap();
    });
    let script = format!(
        "exec 3</remote/large; head -c 10 <&3 >/dev/null; read x <{}; cat <&3 | wc -c",
        fifo.display()
    );
    let output = block_on(sh(target, &script));
    assert_eq!(output, format!("{}\n", (8 << 20) - 10));
    forgetting.join().unwrap();
}

/// A file whose size its stat does not say, and what cannot be opened.
pub(crate) fn special() {
    let (folder, target) = folder();
    // In procfs: stat says 0 bytes.
    std::os::unix::fs::symlink("/proc/version", folder.path().join("version")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    block_on(async {
        let output = sh(target.clone(), "cat /remote/version; cat /remote/version").await;
        let version = fs::read_to_string("/proc/version").unwrap();
        assert_eq!(output, format!("{version}{version}"));
        let output = sh(target.clone(), "cat /remote/fifo; cat /remote/version/; cat /remote").await;
        let errors: Vec<_> = output.lines().map(|line| line.rsplit(": ").next().unwrap()).collect();
        assert_eq!(errors, ["No such device or address", "Not a directory", "Is a directory"]);
        assert_eq!(sh(target, "stat -f -c '%t %l' /remote").await, "1234 255\n");
    });
}

pub(crate) fn name_service() {
    let (_folder, target) = folder();
    block_on(async {
        let options = FileOptions { dns_remote: true, helper: None, scratch: None };
        let world = World::new(target, options).await;
        let script = "cat /etc/nsswitch.conf; stat -c %s /etc/nsswitch.conf; wc -c </etc/nsswitch.conf";
        let output = world.run(&["sh", "-c", script]).await.0.output;
        let lines: Vec<_> = output.lines().collect();
        assert!(lines.contains(&"hosts: files dns"), "{output}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("hosts:")).count(), 1);
        assert_eq!(lines[lines.len() - 1], lines[lines.len() - 2]);
    });
}
