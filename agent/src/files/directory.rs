//! A folder that is listed in pieces. Its position is kept between the pieces, so a folder of a million entries is read once and
//! not once for each piece.

use std::{fs::File, io, os::fd::OwnedFd};

use mirrord_protocol::agent::v1::{self as wire, file_reply::Result as Outcome};
use rustix::{
    fs::{Dir, DirEntry, FileType},
    io::Errno,
};

use super::Answer;
use crate::limits::DIR_ENTRIES;

/// An open folder and how far it has been read.
#[derive(Debug)]
pub(crate) struct Directory {
    entries: Dir,
    /// Entries that were read so far, `.` and `..` left out.
    position: u64,
}

impl Directory {
    /// ENOTDIR when it is none.
    pub(crate) fn open(folder: File) -> io::Result<Self> {
        Ok(Self { entries: Dir::new(OwnedFd::from(folder))?, position: 0 })
    }

    /// Entries after the first `offset` ones.
    pub(crate) fn list(&mut self, offset: u64, limit: u32) -> io::Result<Answer> {
        if offset < self.position {
            self.entries.rewind();
            self.position = 0;
        }
        let limit = usize::try_from(limit).unwrap_or(DIR_ENTRIES).min(DIR_ENTRIES);
        let mut listed = Vec::with_capacity(limit.min(256));
        let mut end = false;
        while listed.len() < limit {
            let Some(entry) = self.next()? else {
                end = true;
                break;
            };
            if self.position > offset {
                listed.push(wire_entry(&entry));
            }
        }
        let outcome = Some(Outcome::Entries(wire::DirEntries { entries: listed, end }));
        Ok(Answer { outcome, ..Answer::default() })
    }

    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        loop {
            match self.entries.read() {
                None => return Ok(None),
                Some(Err(Errno::INTR)) => {}
                Some(Err(errno)) => return Err(errno.into()),
                Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Some(Ok(entry)) => {
                    self.position += 1;
                    return Ok(Some(entry));
                }
            }
        }
    }
}

fn wire_entry(entry: &DirEntry) -> wire::DirEntry {
    // d_type as in <dirent.h>: the type bits of st_mode, shifted down (IFTODT).
    let kind = match entry.file_type() {
        FileType::Unknown => 0,
        known => known.as_raw_mode() >> 12,
    };
    wire::DirEntry { name: entry.file_name().to_bytes().to_vec().into(), ino: entry.ino(), kind }
}
