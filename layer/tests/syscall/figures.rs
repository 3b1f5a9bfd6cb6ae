//! What the attachment costs. Printed, not judged: the machine may be busy.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    host::{Host, Remote, command, holder},
    victims,
};

pub(crate) fn all() {
    let program = victims::path("victim", "static");
    let bare =
        Command::new(&program).args(["figures", "/etc/passwd"]).stderr(Stdio::null()).output().unwrap();
    println!("  bare       {}", String::from_utf8_lossy(&bare.stdout).trim());
    let mut host = Host::with_holder(Some(holder(Duration::ZERO)));
    host.add("/remote/file", Remote::File(vec![b'x'; 4096]));
    let mut launch = command(&[&program, "figures", "/etc/passwd", "/remote/file"]);
    launch.rules.as_mut().unwrap().network = true;
    println!("  supervised {}", host.run(launch).output.trim());
    println!(
        "  /bin/true: bare {} us, supervised {} us, with its supervisor {} us",
        bare_start(),
        supervised_start(),
        whole_start()
    );
}

const STARTS: u32 = 20;

fn least(mut once: impl FnMut() -> Duration) -> u128 {
    (0..STARTS).map(|_| once()).min().unwrap_or_default().as_micros()
}

fn bare_start() -> u128 {
    least(|| {
        let start = Instant::now();
        assert!(Command::new("/bin/true").status().unwrap().success());
        start.elapsed()
    })
}

/// From the launch to the end of the tree, the supervisor being there.
fn supervised_start() -> u128 {
    least(|| {
        let mut host = Host::new();
        let start = Instant::now();
        host.run(command(&["/bin/true"]));
        start.elapsed()
    })
}

fn whole_start() -> u128 {
    least(|| {
        let start = Instant::now();
        Host::new().run(command(&["/bin/true"]));
        start.elapsed()
    })
}
