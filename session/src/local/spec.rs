//! What a local pod shall be, and the checks that need nothing but the specification itself.
//!
//! Everything that can be wrong with the input is found here, before anything is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{POD_FILE_BYTES, POD_PORTS, POD_SPEC_BYTES};

/// A port of the machine's loopback that leads to a port of the pod; `HOST:POD` or one number for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Publish {
    /// Port on 127.0.0.1 of the machine; 0: any free one, to be found in [`super::LocalPod::ports_published`].
    pub host: u16,
    /// Port of the pod.
    pub pod: u16,
}

/// A file that only the pod sees, read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFile {
    /// Absolute path in the pod. Missing folders are made.
    pub path: PathBuf,
    /// What it holds.
    pub content: Vec<u8>,
}

/// What a local pod shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartSpec {
    /// A DNS label: also the pod's name for the other pods.
    pub name: String,
    /// The command and its arguments; looked up in the pod.
    pub command: Vec<OsString>,
    /// Added to the pod's minimal environment.
    #[serde(with = "crate::spec::pairs")]
    pub env: BTreeMap<OsString, OsString>,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The pod's files are those below this folder; `None`: the machine's.
    pub root: Option<PathBuf>,
    /// `None`: the pod's name.
    pub hostname: Option<String>,
    /// Files that only the pod sees.
    pub files: Vec<PodFile>,
    /// Working directory in the pod; `None`: `/`.
    pub cwd: Option<PathBuf>,
}

/// What is wrong with a specification.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A name that is no DNS label.
    #[error("`{0}` cannot be a {1}: up to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
    Name(String, &'static str),
    /// No command.
    #[error("there is no command for the pod to run")]
    NoCommand,
    /// A NUL byte in an argument or a variable.
    #[error("`{0}` contains a NUL byte")]
    Nul(String),
    /// A variable without a proper name.
    #[error("`{0}` is not a variable: write NAME=VALUE")]
    Variable(String),
    /// A port that is none.
    #[error("`{0}` is not a published port: write HOST:POD, for example 8080:80")]
    Port(String),
    /// One port of the machine twice.
    #[error("port {0} of this machine is published twice")]
    PortTwice(u16),
    /// More ports than a pod may publish.
    #[error("a pod may publish {POD_PORTS} ports, not {0}")]
    Ports(usize),
    /// A root that is no folder.
    #[error("{} is not a folder that can be the pod's root", .0.display())]
    Root(PathBuf),
    /// A path that is not absolute or not plain.
    #[error("`{0}` is not a file of the pod: write an absolute path without `..`")]
    Path(String),
    /// The same file twice.
    #[error("the file {} is given twice", .0.display())]
    FileTwice(PathBuf),
    /// A file that is too large.
    #[error("the file {} is larger than {POD_FILE_BYTES} bytes", .0.display())]
    FileSize(PathBuf),
    /// All files together are too large.
    #[error("the pod's files, command and variables are larger than {POD_SPEC_BYTES} bytes together")]
    Size,
}

impl StartSpec {
    /// A pod that runs a command with the machine's files and nothing else.
    #[must_use]
    pub fn new(name: impl Into<String>, command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            publish: Vec::new(),
            root: None,
            hostname: None,
            files: Vec::new(),
            cwd: None,
        }
    }

    /// Checks everything that can be checked without starting anything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        check_name(&self.name, "name of a pod")?;
        if let Some(hostname) = &self.hostname {
            check_name(hostname, "host name")?;
        }
        if self.command.first().is_none_or(|program| program.is_empty()) {
            return Err(SpecError::NoCommand);
        }
        self.command.iter().try_for_each(|argument| check_nul(argument))?;
        for (name, value) in &self.env {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(SpecError::Variable(name.to_string_lossy().into_owned()));
            }
            check_nul(name)?;
            check_nul(value)?;
        }
        self.check_ports()?;
        if let Some(root) = &self.root
            && !root.is_dir()
        {
            return Err(SpecError::Root(root.clone()));
        }
        self.check_files()
    }

    fn check_ports(&self) -> Result<(), SpecError> {
        if self.publish.len() > POD_PORTS {
            return Err(SpecError::Ports(self.publish.len()));
        }
        let mut seen = BTreeSet::new();
        for publish in &self.publish {
            if publish.pod == 0 {
                return Err(SpecError::Port(publish.to_string()));
            }
            if publish.host != 0 && !seen.insert(publish.host) {
                return Err(SpecError::PortTwice(publish.host));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), SpecError> {
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let mut parts = file.path.components();
            let absolute = parts.next() == Some(Component::RootDir);
            let plain = parts.clone().count() > 0 && parts.all(|part| matches!(part, Component::Normal(_)));
            if !absolute || !plain || file.path.as_os_str().as_bytes().ends_with(b"/") {
                return Err(SpecError::Path(file.path.to_string_lossy().into_owned()));
            }
            check_nul(file.path.as_os_str())?;
            if file.content.len() > POD_FILE_BYTES {
                return Err(SpecError::FileSize(file.path.clone()));
            }
            if !seen.insert(&file.path) {
                return Err(SpecError::FileTwice(file.path.clone()));
            }
        }
        let strings = self.command.iter().chain(self.env.keys()).chain(self.env.values());
        let bytes: usize =
            strings.map(|text| text.len()).chain(self.files.iter().map(|file| file.content.len())).sum();
        if bytes > POD_SPEC_BYTES { Err(SpecError::Size) } else { Ok(()) }
    }
}

/// Everything that the pod's own processes need to know; the node writes it into the pod's folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PodPlan {
    /// As the user wants it.
    pub(super) spec: StartSpec,
    /// Its address.
    pub(super) ip: Ipv4Addr,
    /// Its IPv6 address, if the machine has IPv6.
    pub(super) ipv6: Option<Ipv6Addr>,
    /// Name of the node's end of its veth.
    pub(super) interface: String,
}

impl PodPlan {
    /// What the pod calls itself.
    pub(super) fn hostname(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or(&self.spec.name)
    }

    /// The environment of the command: little, and what a pod of a cluster would have.
    pub(super) fn environment(&self) -> BTreeMap<OsString, OsString> {
        let ip = self.ip.to_string();
        let own = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/"),
            ("HOSTNAME", self.hostname()),
            ("POD_NAME", &self.spec.name),
            ("POD_NAMESPACE", "local"),
            ("POD_IP", &ip),
        ];
        let own = own.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        own.chain(self.spec.env.clone()).collect()
    }
}

/// RFC 1123 label, as Kubernetes wants it for names that become host names.
pub(super) fn check_name(name: &str, what: &'static str) -> Result<(), SpecError> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bytes = name.as_bytes();
    let good = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&byte| inner(byte))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-');
    if good { Ok(()) } else { Err(SpecError::Name(name.to_owned(), what)) }
}

fn check_nul(text: &OsStr) -> Result<(), SpecError> {
    if text.as_bytes().contains(&0) {
        Err(SpecError::Nul(text.to_string_lossy().into_owned()))
    } else {
        Ok(())
    }
}

impl FromStr for Publish {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let error = || SpecError::Port(text.to_owned());
        let (host, pod) = text.split_once(':').unwrap_or((text, text));
        let host = host.parse().map_err(|_| error())?;
        let pod = pod.parse().ok().filter(|&pod| pod != 0).ok_or_else(error)?;
        Ok(Self { host, pod })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.pod)
    }
}

/// Splits `NAME=VALUE` of the command line.
///
/// # Errors
/// [`SpecError::Variable`] without `=` or without a name.
pub fn parse_variable(text: &OsStr) -> Result<(OsString, OsString), SpecError> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at @ 1..) => {
            let (name, value) = bytes.split_at(at);
            let value = value.strip_prefix(b"=").unwrap_or_default();
            Ok((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()))
        }
        _ => Err(SpecError::Variable(text.to_string_lossy().into_owned())),
    }
}

/// The folder of a pod below the folder of all pods.
pub(super) fn pod_dir(base: &Path, name: &str) -> PathBuf {
    super::pods_dir(base).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> StartSpec {
        StartSpec::new("web", ["true"])
    }

    #[test]
    fn names_are_dns_labels() {
        for name in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(check_name(name, ""), Ok(()), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "..", "a/b", &"x".repeat(64)] {
            assert!(check_name(name, "").is_err(), "{name}");
        }
    }

    #[test]
    fn ports_are_read_in_both_forms_and_printed_back() {
        assert_eq!("8080:80".parse(), Ok(Publish { host: 8080, pod: 80 }));
        assert_eq!("80".parse(), Ok(Publish { host: 80, pod: 80 }));
        assert_eq!("0:80".parse(), Ok(Publish { host: 0, pod: 80 }));
        for text in ["", ":", "80:", "80:0", "0", "1:2:3", "70000:1", "-1:2"] {
            assert!(text.parse::<Publish>().is_err(), "{text}");
        }
    }

    #[test]
    fn variables_need_a_name() {
        assert_eq!(parse_variable("A=b=c".as_ref()), Ok(("A".into(), "b=c".into())));
        assert_eq!(parse_variable("A=".as_ref()), Ok(("A".into(), "".into())));
        assert!(parse_variable("=b".as_ref()).is_err());
        assert!(parse_variable("A".as_ref()).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(pod().check(), Ok(()));
        assert_eq!(StartSpec { command: Vec::new(), ..pod() }.check(), Err(SpecError::NoCommand));
        assert_eq!(
            StartSpec { command: vec!["a\0".into()], ..pod() }.check(),
            Err(SpecError::Nul("a\0".into()))
        );
        let twice = vec![Publish { host: 1, pod: 1 }, Publish { host: 1, pod: 2 }];
        assert_eq!(StartSpec { publish: twice, ..pod() }.check(), Err(SpecError::PortTwice(1)));
        let root = PathBuf::from("/no/such/folder");
        assert_eq!(StartSpec { root: Some(root.clone()), ..pod() }.check(), Err(SpecError::Root(root)));
        for path in ["relative", "/", "/a/../b", "/a/"] {
            let files = vec![PodFile { path: path.into(), content: Vec::new() }];
            assert!(matches!(StartSpec { files, ..pod() }.check(), Err(SpecError::Path(_))), "{path}");
        }
        let large = vec![PodFile { path: "/a".into(), content: vec![0; POD_FILE_BYTES + 1] }];
        assert_eq!(StartSpec { files: large, ..pod() }.check(), Err(SpecError::FileSize("/a".into())));
    }
}
