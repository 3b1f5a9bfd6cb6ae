//! What `doctor` says agrees with what works.

use std::time::Instant;

use mirrord_netns::probe;

use crate::session::Session;

pub(crate) fn agree_with_what_works() {
    let start = Instant::now();
    let probes = probe::all();
    let elapsed = start.elapsed();
    for probe in &probes {
        println!("{}: {:?}", probe.name, probe.result);
    }
    println!("all of it took {elapsed:?}");
    let works = |name: &str| probes.iter().find(|probe| probe.name == name).unwrap().result.is_ok();
    if !works("netns") {
        crate::runner::skip("no network namespace, as the probe says");
    }
    // Skips, and so fails here, when it does not work.
    let session = Session::start();
    if works("nfqueue") {
        let (_queue, table) = session.table();
        let native = format!("{:?}", table.form()) == "Native";
        let said = probes.iter().find(|probe| probe.name == "nfqueue").unwrap().result.clone().unwrap();
        assert_eq!(native, said.starts_with("nf_tables"));
    }
    // A namespace that a probe left behind would be one that our own children hold.
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert!(children.split_whitespace().count() <= 1, "only the holder is left: {children}");
}
