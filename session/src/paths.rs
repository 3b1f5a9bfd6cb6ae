//! Where the program keeps what lives as long as a session or a local pod: one private folder per user.
//!
//! `$XDG_RUNTIME_DIR/mirrord-tui`, else `/tmp/mirrord-tui-UID`. Everything below inherits its protection: mode 0700, ours.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use thiserror::Error;

/// Why there is no private folder.
#[derive(Debug, Error)]
pub enum PathsError {
    /// The folder cannot be made.
    #[error("cannot create the folder {}", path.display())]
    Create {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What stands there is not a folder of ours that is closed to others.
    #[error("{} {reason}", path.display())]
    NotPrivate {
        /// Which folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl PathsError {
    /// What the user can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Create { .. } => "set XDG_RUNTIME_DIR to a folder that you may write to",
            Self::NotPrivate { .. } => "remove it, or set XDG_RUNTIME_DIR to a folder of your own",
        }
    }
}

/// The program's folder of this user; it is made when it is missing.
///
/// # Errors
/// When it cannot be made, or when what stands in its place belongs to somebody else or is open to others: in `/tmp` anybody
/// can be first.
pub fn runtime_dir() -> Result<PathBuf, PathsError> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let path = match xdg.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("mirrord-tui"),
        None => PathBuf::from(format!("/tmp/mirrord-tui-{}", geteuid().as_raw())),
    };
    private_dir(&path)?;
    Ok(path)
}

/// Makes a folder with mode 0700, or checks that the one that exists is ours and closed to others.
///
/// # Errors
/// As [`runtime_dir`].
pub fn private_dir(path: &Path) -> Result<(), PathsError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(PathsError::Create { path: path.to_owned(), source }),
    }
    let refuse = |reason| Err(PathsError::NotPrivate { path: path.to_owned(), reason });
    // Not following a link: somebody else's link to a folder of ours would pass the other checks.
    let found =
        fs::symlink_metadata(path).map_err(|source| PathsError::Create { path: path.to_owned(), source })?;
    if !found.is_dir() {
        refuse("is not a folder")
    } else if found.uid() != geteuid().as_raw() {
        refuse("belongs to another user")
    } else if found.mode() & 0o077 != 0 {
        refuse("is open to other users")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_made_private_and_found_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("mine");
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        private_dir(&path).unwrap();
    }

    #[test]
    fn what_others_could_have_put_there_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private_dir(&open), Err(PathsError::NotPrivate { .. })));
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        assert!(matches!(private_dir(&link), Err(PathsError::NotPrivate { .. })));
        assert!(matches!(private_dir(&base.path().join("no/such")), Err(PathsError::Create { .. })));
    }
}
