//! Compiles the programs that the tests run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::runner::folder;

/// Ways in which each victim is linked.
pub(crate) const KINDS: [&str; 2] = ["static", "dynamic"];

/// Compiles all victims into the folder.
pub(crate) fn compile(folder: &Path) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/syscall/victim.c");
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/victims/behaviour");
    let mut behaviour: Vec<PathBuf> = std::fs::read_dir(shared)
        .expect("the shared victims")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    behaviour.sort();
    for (name, sources) in [("victim", vec![tests]), ("behaviour", behaviour)] {
        for kind in KINDS {
            let mut cc = Command::new("cc");
            cc.args(["-O1", "-pthread", "-o"]).arg(folder.join(format!("{name}-{kind}"))).args(&sources);
            if kind == "static" {
                cc.args(["-static", "-Wl,--no-warnings"]);
            }
            assert!(cc.status().expect("a C compiler").success(), "{name}-{kind} does not compile");
        }
    }
}

/// Path of a compiled victim.
pub(crate) fn path(name: &str, kind: &str) -> String {
    folder().join(format!("{name}-{kind}")).to_str().expect("a path in text").to_owned()
}
