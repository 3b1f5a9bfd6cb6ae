//! The other way to install the hooks builds, where Frida's devkit is at hand: `FRIDA_GUM_DEVKIT` names the folder with `frida-gum.h` and
//! `libfrida-gum.a` (CONTRIBUTING.md).

use std::{env, path::Path, process::Command};

#[test]
fn the_library_builds_with_frida_gum() {
    let Some(devkit) = env::var_os("FRIDA_GUM_DEVKIT") else {
        println!("skipped: the_library_builds_with_frida_gum: FRIDA_GUM_DEVKIT names no devkit of Frida");
        return;
    };
    let devkit = Path::new(&devkit);
    let target = tempfile::tempdir().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["rustc", "--package", "mirrord-preload", "--profile", "preload", "--crate-type", "cdylib"])
        .args(["--features", "standalone,frida-gum", "--target-dir"])
        .arg(target.path())
        .env("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{}", devkit.display()))
        .env("LIBRARY_PATH", devkit)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let library = std::fs::metadata(target.path().join("preload/libmirrord_preload.so")).unwrap();
    assert!(library.len() > 1 << 20, "Frida's code is in it: {} bytes", library.len());
}
