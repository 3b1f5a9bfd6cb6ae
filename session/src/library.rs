//! The library of the libc attachment: embedded here, laid into the session's folder for the programs to load.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// `libmirrord_layer.so`, built by build.rs.
pub(crate) const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libmirrord_layer.so"));

/// Writes the library into a session's folder; its path, and where its programs ask.
///
/// # Errors
/// When the folder cannot be written to.
pub(crate) fn lay_out(dir: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let path = dir.join("libmirrord_layer.so");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o500).open(&path)?;
    file.write_all(LIBRARY)?;
    Ok((path, dir.join("layer.sock")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "frida-gum"))]
    /// Names of the dynamic symbols lie as text in the file.
    fn names(name: &str) -> bool {
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        LIBRARY.windows(needle.len()).any(|part| part == needle)
    }

    #[cfg(not(feature = "frida-gum"))]
    #[test]
    fn it_exports_the_hooks_and_needs_nothing_but_libc() {
        for name in [
            "open",
            "openat64",
            "fopen",
            "glob",
            "nftw",
            "__xstat",
            "socket",
            "execl",
            "fexecve",
            "getnameinfo",
        ] {
            assert!(names(name), "{name} is hooked");
        }
        assert!(names("libc.so.6"));
        assert!(!names("libgcc_s.so.1") && !names("ld-linux-x86-64.so.2"));
        assert!(LIBRARY.len() < 128 << 10, "{} bytes", LIBRARY.len());
    }

    /// Every panic of Rust carries its message and place as text: where there is none, nothing can panic.
    #[cfg(not(feature = "frida-gum"))]
    #[test]
    fn it_cannot_panic() {
        for text in ["panicked", "src/calls.rs", "src/ask.rs", "index out of bounds", "unwrap()", "overflow"]
        {
            let found = LIBRARY.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!found, "`{text}` is in the library");
        }
    }

    #[test]
    fn it_is_laid_out_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, socket) = lay_out(dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), LIBRARY);
        assert!(!socket.exists());
        assert!(lay_out(dir.path()).is_err(), "never over another one");
    }
}
