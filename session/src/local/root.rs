//! The files of a pod: a root of its own, made of bind mounts, in the mount namespace of the calling process.
//!
//! The root is a tmpfs into which every entry of the machine's root (or of the given folder) is bound, so that new folders at
//! the top belong to the pod alone. A file of the pod's own is bound over the existing one; where there is none, its folder is
//! rebuilt in the same way, so that nothing is ever written to the machine's folders. Called by `init`.

use std::{
    ffi::{CString, OsStr},
    fs::{self, DirBuilder, DirEntry, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, mount_remount, unmount,
    },
    process::{chdir, pivot_root},
};
use thiserror::Error;

use super::{NODE_IP, dns::SEARCH, spec::PodPlan};

/// Which step failed on which path.
#[derive(Debug, Error)]
#[error("cannot {step} {}", path.display())]
pub(super) struct RootError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

trait At<T> {
    fn at(self, step: &'static str, path: &Path) -> Result<T, RootError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &'static str, path: &Path) -> Result<T, RootError> {
        self.map_err(|error| RootError { step, path: path.to_owned(), source: error.into() })
    }
}

/// Sockets through which libc would ask the machine's resolvers instead of ours.
const RESOLVER_SOCKETS: [&str; 3] =
    ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"];

/// Where a file waits until it is bound to its place.
const STAGE: &str = "/.pod-file";

/// Makes the pod's root and moves the process into it. `empty` is an existing folder to build it on.
pub(super) fn enter(plan: &PodPlan, empty: &Path) -> Result<(), RootError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).at("make mounts private below", Path::new("/"))?;
    let source = plan.spec.root.as_deref().unwrap_or_else(|| Path::new("/"));
    tmpfs(empty, 0o755)?;
    // Left out when the folders above it are bound, or the half-made root would show up in itself.
    mount_change(empty, MountPropagationFlags::UNBINDABLE).at("keep apart", empty)?;
    fill(source, empty, |name| ["proc", "dev", "sys"].iter().any(|own| name == *own))?;
    for name in ["proc", "dev", "sys"] {
        let path = empty.join(name);
        DirBuilder::new().create(&path).at("create", &path)?;
    }
    mount("proc", empty.join("proc"), "proc", MountFlags::NOEXEC | plain(), None)
        .at("mount", &empty.join("proc"))?;
    for name in ["dev", "sys"] {
        mount_bind_recursive(Path::new("/").join(name), empty.join(name)).at("bind", &empty.join(name))?;
    }
    let tmp = empty.join("tmp");
    if !tmp.exists() {
        DirBuilder::new().create(&tmp).at("create", &tmp)?;
        tmpfs(&tmp, 0o1777)?;
    }
    mount_change(empty, MountPropagationFlags::PRIVATE).at("make private", empty)?;
    chdir(empty).at("enter", empty)?;
    // Both arguments the same: the old root comes to lie on top of the new one and is taken off (pivot_root(2), NOTES).
    pivot_root(".", ".").at("make the pod's root of", empty)?;
    unmount(".", UnmountFlags::DETACH).at("leave the machine's", Path::new("/"))?;
    chdir("/").at("enter", Path::new("/"))?;
    if Path::new("/dev/shm").is_dir() {
        tmpfs(Path::new("/dev/shm"), 0o1777)?;
    }
    own_files(plan)
}

/// Lets the names of pods be resolved in a mount namespace of its own that shows the machine's files.
pub(super) fn enter_node() -> Result<(), RootError> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).at("make mounts private below", Path::new("/"))?;
    // The file to bind must lie somewhere for a moment, and this folder is at hand on every machine.
    let stage = Path::new("/tmp");
    tmpfs(stage, 0o700)?;
    let staged = stage.join("resolv.conf");
    fs::write(&staged, resolv_conf()).at("write", &staged)?;
    let target = Path::new("/etc/resolv.conf");
    mount_bind(&staged, target).at("bind a file to", target)?;
    unmount(stage, UnmountFlags::DETACH).at("leave", stage)
}

fn resolv_conf() -> String {
    format!("search {SEARCH}\nnameserver {NODE_IP}\noptions ndots:5\n")
}

/// Files that every pod has of its own, and those that the user gave.
fn own_files(plan: &PodPlan) -> Result<(), RootError> {
    let hostname = plan.hostname();
    let mut hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{}\t{hostname}\n", plan.ip);
    if let Some(ipv6) = plan.ipv6 {
        hosts.push_str(&format!("{ipv6}\t{hostname}\n"));
    }
    let own = [
        ("/etc/resolv.conf", resolv_conf(), false),
        ("/etc/hosts", hosts, false),
        ("/etc/hostname", format!("{hostname}\n"), false),
    ];
    let own = own.map(|(path, content, read_only)| (PathBuf::from(path), content.into_bytes(), read_only));
    let masks = RESOLVER_SOCKETS.iter().map(PathBuf::from).filter(|socket| socket.exists());
    let given = plan.spec.files.iter().map(|file| (file.path.clone(), file.content.clone(), true));
    let all: Vec<_> =
        own.into_iter().chain(masks.map(|socket| (socket, Vec::new(), true))).chain(given).collect();
    // All places first: a folder that holds a file of ours already cannot be rebuilt any more.
    let mut files = Files::new()?;
    for (path, ..) in &all {
        if !path.exists() {
            files.make_place(path)?;
        }
    }
    all.iter().try_for_each(|(path, content, read_only)| put(path, content, *read_only))
}

/// Makes places for files in the root.
#[derive(Debug)]
struct Files {
    /// Devices of the file systems that are the pod's own: the root's and those that [`Files::rebuild`] mounted.
    ours: Vec<u64>,
}

impl Files {
    fn new() -> Result<Self, RootError> {
        Ok(Self { ours: vec![device(Path::new("/"))?] })
    }

    /// Makes an empty file at a path that does not exist, with the folders above it. A dangling link there is replaced.
    fn make_place(&mut self, path: &Path) -> Result<(), RootError> {
        let name = path.file_name().unwrap_or_default();
        let (existing, missing) = split_existing(path.parent().unwrap_or_else(|| Path::new("/")))?;
        if !existing.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory)).at("make a file in", &existing);
        }
        let first = missing.components().next().map_or(name, Component::as_os_str);
        if !self.ours.contains(&device(&existing)?) {
            self.rebuild(&existing, first)?;
        }
        let entry = existing.join(first);
        if entry.is_symlink() {
            fs::remove_file(&entry).at("replace", &entry)?;
        }
        let parent = existing.join(missing);
        DirBuilder::new().recursive(true).mode(0o755).create(&parent).at("create", &parent)?;
        let target = parent.join(name);
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&target).at("create", &target)?;
        Ok(())
    }

    /// Covers a folder with a tmpfs that shows the same entries but for `without`, so that entries can be added.
    fn rebuild(&mut self, folder: &Path, without: &OsStr) -> Result<(), RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = rustix::fs::open(folder, flags, Mode::empty()).at("open", folder)?;
        let mode = fs::metadata(folder).at("look at", folder)?.mode() & 0o7777;
        tmpfs(folder, mode)?;
        self.ours.push(device(folder)?);
        // The folder as it was, below the new mount.
        let source = PathBuf::from(format!("/proc/self/fd/{}", below.as_raw_fd()));
        fill(&source, folder, |name| name == without)
    }
}

/// Puts a file over the one at a path.
fn put(path: &Path, content: &[u8], read_only: bool) -> Result<(), RootError> {
    let target = path.canonicalize().at("look up", path)?;
    if target.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory)).at("put a file over", path);
    }
    let stage = Path::new(STAGE);
    let mode = if read_only { 0o444 } else { 0o644 };
    let staged = OpenOptions::new().write(true).create_new(true).mode(mode).open(stage);
    staged.and_then(|mut file| file.write_all(content)).at("write", path)?;
    mount_bind(stage, &target).at("bind a file to", &target)?;
    if read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY | plain();
        mount_remount(&target, flags, c"").at("make read-only", &target)?;
    }
    fs::remove_file(stage).at("remove", stage)
}

fn device(path: &Path) -> Result<u64, RootError> {
    Ok(fs::metadata(path).at("look at", path)?.dev())
}

/// The longest part of a path that exists, links resolved, and the rest.
fn split_existing(path: &Path) -> Result<(PathBuf, PathBuf), RootError> {
    for existing in path.ancestors() {
        match existing.canonicalize() {
            Ok(found) => {
                let missing = path.strip_prefix(existing).unwrap_or_else(|_| Path::new(""));
                return Ok((found, missing.to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("look up", existing),
        }
    }
    Ok((PathBuf::from("/"), path.to_owned()))
}

/// Binds every entry of a folder into another, but for those to skip. Links are made again.
fn fill(source: &Path, target: &Path, skip: impl Fn(&OsStr) -> bool) -> Result<(), RootError> {
    for entry in fs::read_dir(source).at("list", source)? {
        let entry = entry.at("list", source)?;
        if skip(&entry.file_name()) {
            continue;
        }
        match show(&entry, &target.join(entry.file_name())) {
            // The folder is the machine's, and what was listed may be gone, such as a file that another was just renamed to.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound && !is_there(&entry.path()) => {}
            shown => shown?,
        }
    }
    Ok(())
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Binds an entry to a place that does not exist yet, or makes the same link there.
fn show(entry: &DirEntry, to: &Path) -> Result<(), RootError> {
    let from = entry.path();
    let kind = entry.file_type().at("look at", &from)?;
    if kind.is_symlink() {
        let link = fs::read_link(&from).at("read the link", &from)?;
        return symlink(link, to).at("link", to);
    }
    if kind.is_dir() {
        DirBuilder::new().create(to).at("create", to)?;
    } else {
        fs::write(to, b"").at("create", to)?;
    }
    mount_bind_recursive(&from, to).at("bind", &from)
}

fn tmpfs(path: &Path, mode: u32) -> Result<(), RootError> {
    let options =
        CString::new(format!("mode={mode:o}")).map_err(io::Error::from).at("mount a tmpfs on", path)?;
    mount("tmpfs", path, "tmpfs", plain(), options.as_c_str()).at("mount a tmpfs on", path)
}

/// What every mount of ours is: nothing on it raises privileges or is a device.
fn plain() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV
}
