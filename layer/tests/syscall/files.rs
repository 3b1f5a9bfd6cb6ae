//! Path calls.

use mirrord_protocol::layer::v1::{Launch, file_call::Want, from_layer};

use crate::{
    host::{Host, Remote, command, rules},
    runner::skip,
    victims::{self, KINDS},
};

fn host() -> Host {
    let mut host = Host::new();
    host.add("/remote", Remote::Directory(vec!["file", "sub/"]));
    host.add("/remote/file", Remote::File(b"hello\n".to_vec()));
    host.add("/remote/link", Remote::Link("/remote/file"));
    host
}

/// Runs a subcommand of the shared victim, statically and dynamically linked.
fn behaviour(arguments: &[&str]) -> String {
    let outputs = KINDS.map(|kind| {
        let program = victims::path("behaviour", kind);
        let all: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        host().run(command(&all)).output
    });
    assert_eq!(outputs[0], outputs[1], "static and dynamic differ");
    let [output, _] = outputs;
    output
}

fn victim(host: &mut Host, arguments: &[&str]) -> String {
    let program = victims::path("victim", "static");
    let all: Vec<&str> = [program.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    host.run(command(&all)).output
}

pub(crate) fn read() {
    for subcommand in ["readv", "mmap", "fopen"] {
        assert_eq!(behaviour(&[subcommand, "/remote/file"]), "ok 6 hello\n", "{subcommand}");
    }
    assert_eq!(behaviour(&["realpath", "/remote/link"]), "ok /remote/file\n");
    assert_eq!(behaviour(&["readlink", "/remote/link"]), "ok /remote/file\n");
    assert_eq!(behaviour(&["access", "/remote/file"]), "ok r--\n");
    assert_eq!(Host::new().run(command(&["cat", "/remote/gone"])).exit.code, 1);
    let mut host = host();
    assert_eq!(host.run(command(&["cat", "//remote/./sub/..//file"])).output, "hello\n");
    let opened = host.calls.iter().find(|call| call.want() == Want::Descriptor).unwrap();
    assert_eq!(opened.path.as_ref(), b"/remote/file");
    assert_eq!(opened.rule, "test ^/remote(/|$)");
    assert_eq!(opened.caller.as_ref().unwrap().comm.as_ref(), b"cat");
}

fn rules_are_told(report_local_files: bool) -> Vec<(String, bool)> {
    let mut host = host();
    let program = victims::path("victim", "static");
    let mut launch = command(&[
        &program,
        "errnos",
        "/remote/file",
        "/missing/x",
        "/etc/passwd",
        "/proc/self/exe",
        "/remote/none",
    ]);
    launch.rules.as_mut().unwrap().report_local_files = report_local_files;
    assert_eq!(host.run(launch).output, "ok ENOENT ok ok ENOENT\n");
    let reports = host.messages.iter().filter_map(|kind| match kind {
        from_layer::Kind::FileReport(report) => {
            Some((String::from_utf8_lossy(&report.path).into_owned(), report.refused))
        }
        _ => None,
    });
    reports.collect()
}

pub(crate) fn decided() {
    assert_eq!(rules_are_told(false), [("/missing/x".to_owned(), true)]);
    let all = rules_are_told(true);
    for expected in [("/missing/x", true), ("/etc/passwd", false), ("/proc/self/exe", false)] {
        assert!(all.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {all:?}");
    }
}

pub(crate) fn writing() {
    assert_eq!(behaviour(&["o-rdwr-remote", "/remote/file"]), "ok EROFS\n");
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_str().unwrap();
    let mut rules = rules();
    // The folder is the target's, and it is also here.
    rules.paths[0].pattern = format!("^{base}(/|$)");
    let run = |script: &str| {
        let mut host = Host::new();
        host.add(&format!("{base}/theirs"), Remote::File(b"theirs\n".to_vec()));
        host.run(Launch { rules: Some(rules.clone()), ..command(&["sh", "-c", script, "sh", base]) }).output
    };
    // Created here, and read here from then on.
    assert_eq!(run("echo mine > $1/theirs; cat $1/theirs; rm $1/theirs"), "mine\n");
    assert_eq!(run("echo log >> $1/log; cat $1/log; rm $1/log; cat $1/theirs"), "log\ntheirs\n");
    assert!(run("exec 5<>$1/theirs && echo opened").contains("Read-only file system"));
    assert_eq!(run("(exec 5<>$1/fresh && echo opened); rm $1/fresh"), "opened\n");
    assert_eq!(behaviour(&["open-modes", &format!("{base}/modes")]), "ok 0640 0604 0431 0755\n");
}

pub(crate) fn directories() {
    for kind in KINDS {
        let mut host = host();
        host.add("/remote/sub", Remote::Directory(vec!["inner"]));
        host.add("/remote/sub/inner", Remote::File(b"123".to_vec()));
        let walked =
            host.run(command(&[&victims::path("behaviour", kind), "opendir-walk", "/remote"])).output;
        if walked.contains("EPERM") {
            skip("no user namespaces");
        }
        assert_eq!(walked, "ok 2 2 9\n", "{kind}");
    }
    let mut relative = host();
    let output = victim(&mut relative, &["relative", "/remote", "file"]);
    assert_eq!(output, "6 6 EROFS EROFS\n");
    let mut rooted = host();
    assert_eq!(victim(&mut rooted, &["in-root", "/remote", "/file"]), "hello\n");
}

pub(crate) fn attributes() {
    assert_eq!(victim(&mut host(), &["attributes", "/remote/file"]), "ENODATA 0\n");
}

pub(crate) fn other_root() {
    if !rustix::process::geteuid().is_root() {
        skip("chroot needs root");
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("remote")).unwrap();
    std::fs::write(root.path().join("remote/file"), "inside").unwrap();
    let mut host = host();
    assert_eq!(victim(&mut host, &["chroot", root.path().to_str().unwrap(), "/remote/file"]), "ok\n");
    assert!(host.calls.is_empty(), "{:?}", host.calls);
}

pub(crate) fn undumpable() {
    let mut host = host();
    let output = victim(&mut host, &["undumpable", "/remote/file"]);
    let noticed = host.messages.iter().any(|kind| matches!(kind, from_layer::Kind::Notice(_)));
    if rustix::process::geteuid().is_root() {
        assert_eq!((output.as_str(), noticed), ("ok\n", false));
    } else {
        assert_eq!((output.as_str(), noticed), ("ENOENT\n", true));
    }
}

pub(crate) fn errors() {
    let mut host = host();
    host.add("/remote/denied", Remote::Errno(libc::EACCES));
    host.add("/remote/stale", Remote::Errno(libc::ESTALE));
    host.add("/remote/here", Remote::Local);
    let output =
        victim(&mut host, &["errnos", "/remote/denied", "/remote/stale", "/remote/here", "/remote/file"]);
    assert_eq!(output, "EACCES ESTALE ENOENT ok\n");
}
