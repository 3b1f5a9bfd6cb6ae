//! What a remote path call costs from the program to the target and back.

use std::{
    fs,
    process::{Command, Stdio},
    sync::Arc,
};

use mirrord_session::{
    agent_link::AgentLink,
    agent_process::start_local,
    files::{FileOptions, RemoteFiles},
};
use tempfile::TempDir;

use crate::{
    content::folder,
    runner::skip,
    world::{World, block_on, sh},
};

/// A program that measures itself: best of some rounds, nanoseconds for each call.
const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
int main(int argc, char **argv) {
    double best[2] = {1e18, 1e18};
    char buffer[4096];
    struct stat st;
    for (int round = 0; round < 10; round++)
        for (int kind = 0; kind < 2; kind++) {
            double start = now();
            for (int i = 0; i < 300; i++) {
                if (kind == 0) { if (stat(argv[1], &st)) return perror("stat"), 1; continue; }
                int fd = open(argv[1], O_RDONLY);
                if (fd < 0 || read(fd, buffer, 4096) != 4096) return perror("open"), 1;
                close(fd);
            }
            double each = (now() - start) / 300;
            if (each < best[kind]) best[kind] = each;
        }
    printf("stat %.1f us, open+read+close of 4 KiB %.1f us\n", best[0] / 1e3, best[1] / 1e3);
    return argc - 2;
}
"#;

fn compile() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("measure.c"), PROGRAM).unwrap();
    let status = Command::new("cc")
        .args(["-O1", "-o"])
        .args([folder.path().join("measure"), folder.path().join("measure.c")])
        .status();
    if !status.is_ok_and(|status| status.success()) {
        skip("no C compiler");
    }
    folder
}

pub(crate) fn all() {
    let program = compile();
    let program = program.path().join("measure");
    let (folder, target) = folder();
    fs::write(folder.path().join("file"), vec![b'x'; 4096]).unwrap();
    block_on(async {
        let world = World::new(target, FileOptions::default()).await;
        let (ended, _) = world.run(&[program.to_str().unwrap(), "/remote/file"]).await;
        println!("  target in this process: {}", ended.output.trim());
        assert_eq!(ended.exit.code, 0);
    });
}

/// The whole way: the agent's root is this machine's, where `/remote` is made visible below a private name.
pub(crate) fn agent() {
    let program = compile();
    let program = program.path().join("measure");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), vec![b'x'; 4096]).unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let mut target = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let private = tempfile::tempdir().unwrap();
    let agent = match start_local(target.id(), private.path()) {
        Ok(agent) => agent,
        Err(error) => {
            target.kill().unwrap();
            target.wait().unwrap();
            skip(&error.to_string())
        }
    };
    block_on(async {
        let link = AgentLink::connect(agent.endpoint.clone(), &agent.token).await.unwrap();
        let remote: Arc<dyn RemoteFiles> =
            Arc::new(Moved { link, folder: folder.path().to_str().unwrap().to_owned() });
        assert_eq!(sh(Arc::clone(&remote), "ls /remote; wc -c </remote/file").await, "file\nsub\n4096\n");
        let world = World::new(remote, FileOptions::default()).await;
        let (ended, _) = world.run(&[program.to_str().unwrap(), "/remote/file"]).await;
        println!("  through a real agent: {}", ended.output.trim());
        assert_eq!(ended.exit.code, 0, "{}", ended.output);
    });
    agent.stop().unwrap();
    target.kill().unwrap();
    target.wait().unwrap();
}

/// The agent, with `/remote` standing for a folder.
struct Moved {
    link: AgentLink,
    folder: String,
}

impl RemoteFiles for Moved {
    fn file(
        &self,
        op: mirrord_protocol::agent::v1::file_request::Op,
    ) -> mirrord_session::files::ReplyFuture<'_> {
        use mirrord_protocol::agent::v1::file_request::Op;
        let moved = |path: &[u8]| {
            let text = String::from_utf8_lossy(path);
            format!("{}{}", self.folder, text.strip_prefix("/remote").unwrap()).into()
        };
        let op = match op {
            Op::Stat(mut request) => {
                request.path = moved(&request.path);
                Op::Stat(request)
            }
            Op::Open(mut request) => {
                request.path = moved(&request.path);
                Op::Open(request)
            }
            Op::Readlink(mut request) => {
                request.path = moved(&request.path);
                Op::Readlink(request)
            }
            other => other,
        };
        RemoteFiles::file(&self.link, op)
    }
}
