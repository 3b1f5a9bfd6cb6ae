//! Directories.

use std::{fs, os::unix::net::UnixListener, sync::atomic::Ordering, time::Instant};

use mirrord_session::files::FileOptions;

use crate::{
    content::folder,
    world::{World, block_on, sh},
};

pub(crate) fn types() {
    let (folder, target) = folder();
    let base = folder.path();
    fs::create_dir_all(base.join("dir/inner")).unwrap();
    fs::write(base.join("dir/inner/deep"), "deep").unwrap();
    for name in ["a", "b", "c c", "ü"] {
        fs::write(base.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("a", base.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", base.join("dangling")).unwrap();
    let _socket = UnixListener::bind(base.join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        base.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    block_on(async {
        let script = "find /remote -printf '%y %P\\n' | sort";
        let expected = format!("find {} -printf '%y %P\\n' | sort", base.display());
        let listed = sh(target.clone(), script).await;
        assert_eq!(listed, sh(target.clone(), &expected).await);
        // Types come from the listing itself, without a stat of each entry.
        let classified = sh(target.clone(), "ls -1F /remote").await;
        assert_eq!(classified, "a\nb\n'c c'\ndangling@\ndir/\nfifo|\nlink@\nsocket=\nü\n".replace('\'', ""));
        assert_eq!(
            sh(target.clone(), "ls /remote/gone 2>&1 | tail -c 26").await,
            "No such file or directory\n"
        );
        assert_eq!(
            sh(target, "ls /remote/a; ls /remote/a/ 2>&1 | tail -c 16").await,
            "/remote/a\nNot a directory\n"
        );
    });
}

pub(crate) fn large() {
    const ENTRIES: u64 = 100_000;
    let (_folder, target) = folder();
    target.many.store(ENTRIES, Ordering::Relaxed);
    block_on(async {
        let start = Instant::now();
        let world = World::new(target.clone(), FileOptions::default()).await;
        let before = resident();
        let (ended, _) =
            world.run(&["sh", "-c", "ls -U /remote/many | wc -l; ls /remote/many | tail -1"]).await;
        let grown = resident().saturating_sub(before) >> 10;
        println!(
            "  {ENTRIES} entries twice: {} ms, the host grew by {grown} MiB",
            start.elapsed().as_millis()
        );
        assert_eq!(ended.output, "100000\nentry-0099999\n");
        assert!(grown < 64, "{grown} MiB");
        target.many.store(1_000_000, Ordering::Relaxed);
        let refused = sh(target.clone(), "ls /remote/many 2>&1").await;
        assert!(refused.contains("Value too large"), "{refused}");
    });
    assert_eq!(target.open_handles(), 0);
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

pub(crate) fn coreutils() {
    let (folder, target) = folder();
    let base = folder.path();
    fs::create_dir_all(base.join("x/y")).unwrap();
    fs::write(base.join("x/one"), "needle\n").unwrap();
    fs::write(base.join("x/y/two"), "needle\n").unwrap();
    block_on(async {
        let mut outputs = Vec::new();
        for root in ["/remote", base.to_str().unwrap()] {
            let script = format!(
                "set -e; r={root}; d=$(mktemp -d); cp -r $r/x $d/; (cd $d && find . -type f | sort); diff -r $r/x $d/x && echo equal
                 grep -rl needle $r/x | sed s,$r,, | sort; du -ab --apparent-size $r/x/y/two | cut -f1; tar -C $r -cf - x/one | tar -tf -
                 ls -l $r/x/one | cut -c1-10; wc -c $r/x/*/* | tail -1 | sed s,$r,,; rm -r $d"
            );
            outputs.push(sh(target.clone(), &script).await);
        }
        // chdir(2) to a directory that is not here fails, which is what tar -C does.
        let here = outputs.pop().unwrap();
        let there = outputs.pop().unwrap();
        assert_eq!(there.replace("tar: /remote: Cannot open: No such file or directory", ""), here);
    });
}
