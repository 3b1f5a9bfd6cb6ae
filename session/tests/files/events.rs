//! What the session tells about path calls, and what it leaves behind.

use std::{fs, sync::atomic::Ordering};

use mirrord_protocol::session::v1 as wire;
use mirrord_session::files::FileOptions;

use crate::{
    content::folder,
    world::{World, block_on, events_of, sh},
};

pub(crate) fn emitted() {
    let (folder, target) = folder();
    fs::write(folder.path().join("file"), "hello").unwrap();
    let script = "cat /remote/file /remote/none; exec 5<>/remote/file";
    let events = block_on(async {
        let world = World::new(target, FileOptions::default()).await;
        world.run(&["sh", "-c", script]).await.1
    });
    let all = events_of(&events, wire::Kind::File);
    let find = |operation: &str, subject: &str, error: &str| {
        let found = all.iter().find(|event| {
            let Some(wire::event::Detail::File(file)) = &event.detail else { return false };
            file.operation == operation && event.subject == subject && event.error == error
        });
        found.unwrap_or_else(|| panic!("no {operation} of {subject} in {all:#?}"))
    };
    let opened = find("openat", "/remote/file", "");
    let decision = opened.decision.clone().unwrap();
    assert_eq!((decision.r#where(), decision.rule.as_str()), (wire::Where::Remote, "test"));
    assert_eq!((opened.bytes, opened.comm.as_ref()), (5, &b"cat"[..]));
    assert!(opened.latency_ns > 0 && opened.pid != 0);
    let Some(wire::event::Detail::File(file)) = &opened.detail else { panic!("no detail") };
    assert_eq!(file.flags, "O_RDONLY");
    find("openat", "/remote/none", "ENOENT");
    let refused = find("openat", "/remote/file", "EROFS").decision.clone().unwrap();
    assert_eq!(refused.r#where(), wire::Where::Refused);
}

pub(crate) fn broken() {
    let (folder, target) = folder();
    fs::write(folder.path().join("file"), "hello").unwrap();
    target.broken.store(true, Ordering::Relaxed);
    let output = block_on(sh(target, "cat /remote/file; ls /remote"));
    assert_eq!(output.matches("Input/output error").count(), 2, "{output}");
}

pub(crate) fn nothing_left() {
    let (folder, target) = folder();
    fs::write(folder.path().join("large"), vec![0; 3 << 20]).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    block_on(async {
        assert_eq!(sh(target.clone(), "ls /remote; wc -c </remote/large").await, "large\n3145728\n");
    });
    // Processes: the helper is a child of ours, and has been waited for.
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    assert_eq!(children.trim(), "");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    let left: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| {
            let target = target.to_string_lossy();
            target.contains("memfd") || target.contains("/dev/fuse") || target.contains("deleted")
        })
        .collect();
    // Standard output and error of this process are unlinked files of the runner.
    assert!(
        left.iter()
            .all(|target| !target.to_string_lossy().contains("memfd") && !target.ends_with("/dev/fuse")),
        "{left:?}"
    );
    assert_eq!(target.open_handles(), 0);
}
