//! Folders that stand in for directories of the target where no file system can be made: in the session's own folder. Unlike a file
//! system they do not end with their last descriptor, so the newest are kept, and all go with the session.

use std::{
    collections::VecDeque,
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use rustix::fs::{CWD, Mode, OFlags};

use crate::limits::KEPT_FOLDERS;

/// The folders. Dropping it removes them.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    folder: Option<PathBuf>,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    next: u64,
    /// Oldest first.
    paths: VecDeque<PathBuf>,
}

impl Scratch {
    /// `folder` must be for us only; `None`: nothing is made.
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, made: Mutex::default() }
    }

    /// An empty folder, to be filled; blocks for a moment.
    pub(super) fn make(&self) -> io::Result<OwnedFd> {
        let parent = self.folder.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.next += 1;
        let path = parent.join(format!("directory-{}", made.next));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let opened = rustix::fs::openat(
            CWD,
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        made.paths.push_back(path);
        if made.paths.len() > KEPT_FOLDERS
            && let Some(oldest) = made.paths.pop_front()
        {
            fs::remove_dir_all(oldest)?;
        }
        Ok(opened?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let made = self.made.get_mut().unwrap_or_else(PoisonError::into_inner);
        for path in made.paths.drain(..) {
            // The session's folder is about to be removed with all that is in it.
            fs::remove_dir_all(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_folders_go_first_and_all_in_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(parent.path().to_owned()));
        for _ in 0..=KEPT_FOLDERS {
            let folder = scratch.make().unwrap();
            rustix::fs::mkdirat(&folder, "entry", Mode::RWXU).unwrap();
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), KEPT_FOLDERS);
        assert!(!parent.path().join("directory-1").exists());
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        assert!(Scratch::new(None).make().is_err());
    }
}
