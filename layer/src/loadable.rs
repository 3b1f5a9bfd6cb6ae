//! Whether the library can be loaded into a program, and would see its calls: told from the first bytes of the file.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use crate::limits::{INTERPRETERS, PROGRAM_HEADERS, PROGRAM_NOTE};

/// The answer for one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loadable {
    Yes,
    /// `why` are words that follow the program's name.
    No {
        why: &'static str,
    },
}

const STATIC: Loadable = Loadable::No { why: "is statically linked" };
const GO: Loadable = Loadable::No { why: "is a Go program, which makes its calls without libc" };
const PRIVILEGED: Loadable = Loadable::No { why: "runs with the privileges of its owner (setuid)" };
const FOREIGN: Loadable = Loadable::No { why: "is a program for another kind of machine" };

/// What a file is to the kernel.
enum Kind {
    /// A script, with its interpreter.
    Script(PathBuf),
    Program(Loadable),
}

/// What the program at an absolute path is. A script is what its interpreter is; what cannot be read or is no program is left to
/// the kernel to refuse.
pub(crate) fn of(path: &[u8]) -> Loadable {
    let mut path = PathBuf::from(OsStr::from_bytes(path));
    for _ in 0..INTERPRETERS {
        match examine(&path) {
            Ok(Kind::Script(interpreter)) => path = interpreter,
            Ok(Kind::Program(loadable)) => return loadable,
            Err(_) => break,
        }
    }
    Loadable::Yes
}

fn examine(path: &Path) -> io::Result<Kind> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // The kernel reads as much (BINPRM_BUF_SIZE).
    let mut head = [0; 256];
    let count = (&file).take(256).read(&mut head)?;
    let head = head.get(..count).unwrap_or_default();
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_start();
        let interpreter = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        return Ok(Kind::Script(PathBuf::from(OsStr::from_bytes(interpreter))));
    }
    if !head.starts_with(b"\x7fELF") {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let setuid = metadata.mode() & libc::S_ISUID != 0 && metadata.uid() != me.0;
    // Without the group's execute bit it would mean mandatory locking.
    let setgid = metadata.mode() & (libc::S_ISGID | 0o010) == libc::S_ISGID | 0o010 && metadata.gid() != me.1;
    if setuid || setgid {
        return Ok(Kind::Program(PRIVILEGED));
    }
    Ok(Kind::Program(linking(&file, head)?))
}

// elf.h
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const SEGMENTS_OFFSET: usize = 32;
const SEGMENT_COUNT: usize = 56;
const SEGMENT_BYTES: usize = 56;
const INTERPRETER: u32 = 3;
const NOTE: u32 = 4;

fn linking(file: &File, head: &[u8]) -> io::Result<Loadable> {
    if head.get(CLASS) != Some(&CLASS_64) {
        return Ok(FOREIGN);
    }
    let count = usize::from(u16::from_ne_bytes(field(head, SEGMENT_COUNT)?)).min(PROGRAM_HEADERS);
    let mut segments = vec![0; count * SEGMENT_BYTES];
    file.read_exact_at(&mut segments, u64::from_ne_bytes(field(head, SEGMENTS_OFFSET)?))?;
    let mut dynamic = false;
    for segment in segments.chunks_exact(SEGMENT_BYTES) {
        match u32::from_ne_bytes(field(segment, 0)?) {
            INTERPRETER => dynamic = true,
            NOTE if is_go(file, segment)? => return Ok(GO),
            _ => {}
        }
    }
    Ok(if dynamic { Loadable::Yes } else { STATIC })
}

/// Whether a note says `Go`: the linker's build id of Go, which cgo programs have as well.
fn is_go(file: &File, segment: &[u8]) -> io::Result<bool> {
    let offset = u64::from_ne_bytes(field(segment, 8)?);
    let size = u64::from_ne_bytes(field(segment, 32)?);
    let mut notes = vec![0; usize::try_from(size).unwrap_or(PROGRAM_NOTE).min(PROGRAM_NOTE)];
    file.read_exact_at(&mut notes, offset)?;
    // Its name's size, any size of content, type 4, then the name.
    Ok(notes.windows(16).step_by(4).any(|note| {
        note.starts_with(&4_u32.to_ne_bytes()) && note.get(8..) == Some(&[4, 0, 0, 0, b'G', b'o', 0, 0])
    }))
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> io::Result<[u8; N]> {
    let field = bytes.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok());
    field.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::fs::{PermissionsExt, chown},
    };

    use super::*;

    fn file(content: &[u8]) -> tempfile::TempPath {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file.into_temp_path()
    }

    fn of_path(path: &Path) -> Loadable {
        of(path.as_os_str().as_bytes())
    }

    /// The head of an ELF file with segments of these types.
    fn program(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[SEGMENTS_OFFSET..SEGMENTS_OFFSET + 8].copy_from_slice(&64_u64.to_ne_bytes());
        bytes[SEGMENT_COUNT..SEGMENT_COUNT + 2]
            .copy_from_slice(&u16::try_from(types.len()).unwrap().to_ne_bytes());
        for kind in types {
            let mut segment = [0; SEGMENT_BYTES];
            segment[..4].copy_from_slice(&kind.to_ne_bytes());
            // Where a note would be: behind everything.
            segment[8..16].copy_from_slice(&(64 + 56 * types.len() as u64).to_ne_bytes());
            segment[32..40].copy_from_slice(&16_u64.to_ne_bytes());
            bytes.extend_from_slice(&segment);
        }
        bytes.extend_from_slice(b"\x04\0\0\0\x10\0\0\0\x04\0\0\0Go\0\0");
        bytes
    }

    #[test]
    fn a_program_with_an_interpreter_can_be_loaded_into() {
        assert_eq!(of_path(&file(&program(&[1, INTERPRETER]))), Loadable::Yes);
        assert_eq!(of_path(Path::new("/proc/self/exe")), Loadable::Yes);
    }

    #[test]
    fn static_foreign_and_go_programs_are_told_apart() {
        assert_eq!(of_path(&file(&program(&[1, 1]))), STATIC);
        assert_eq!(of_path(&file(&program(&[1, NOTE, INTERPRETER]))), GO);
        let mut foreign = program(&[INTERPRETER]);
        foreign[CLASS] = 1;
        assert_eq!(of_path(&file(&foreign)), FOREIGN);
    }

    #[test]
    fn a_script_is_what_its_interpreter_is() {
        let interpreter = file(&program(&[1]));
        let script = file(format!("#! {} -x\necho", interpreter.display()).as_bytes());
        assert_eq!(of_path(&script), STATIC);
    }

    #[test]
    fn what_is_no_program_is_left_to_the_kernel() {
        for content in [&b""[..], b"hello", b"#!/nowhere/at/all\n", b"\x7fELF\x02"] {
            assert_eq!(of_path(&file(content)), Loadable::Yes);
        }
        assert_eq!(of_path(Path::new("/")), Loadable::Yes);
    }

    #[test]
    fn setuid_programs_are_not_loaded_into() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let path = file(&program(&[INTERPRETER]));
        chown(&path, Some(1), Some(1)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
        assert_eq!(of_path(&path), PRIVILEGED);
    }
}
