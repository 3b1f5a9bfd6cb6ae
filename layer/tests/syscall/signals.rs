//! Calls that signals interrupt: the host's answers take longer than the signals' period.

use std::time::Duration;

use crate::{
    host::{Host, Remote, command, holder},
    victims::{self, KINDS},
};

fn slow_host(content: &str) -> Host {
    let mut host = Host::new();
    host.delay = Duration::from_millis(1);
    host.add("/remote/file", Remote::File(content.as_bytes().to_vec()));
    host
}

pub(crate) fn path_calls() {
    for kind in KINDS {
        for restart in ["1", "0"] {
            let mut host = slow_host("12345");
            let ended =
                host.run(command(&[&victims::path("victim", kind), "storm", "/remote/file", restart]));
            assert_eq!(ended.output, "done\n", "{kind} {restart}");
            // A question is not asked again for each signal: 200 calls, and a few whose answer was not waited for.
            assert!((200..400).contains(&host.calls.len()), "{} questions", host.calls.len());
        }
    }
}

pub(crate) fn threads() {
    for kind in KINDS {
        let mut host = slow_host("some content\n");
        host.delay = Duration::from_micros(200);
        let ended =
            host.run(command(&[&victims::path("behaviour", kind), "threads-open", "4", "/remote/file"]));
        assert!(ended.output.starts_with("ok "), "{kind}: {}", ended.output);
    }
}

pub(crate) fn sockets() {
    for delay in [Duration::ZERO, Duration::from_millis(1)] {
        let mut host = Host::with_holder(Some(holder(delay)));
        let mut launch = command(&[&victims::path("victim", "dynamic"), "storm-sockets"]);
        launch.rules.as_mut().unwrap().network = true;
        assert_eq!(host.run(launch).output, "done\n");
    }
}
