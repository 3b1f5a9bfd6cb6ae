//! Starting the command: the rules of the session, the child on its way, signals to it.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::Arc,
};

use mirrord_preload::wire::SOCKET_VARIABLE;
use mirrord_protocol::{
    agent::v1::EnvEntry,
    layer::v1::{self as wire, Launch, Rules, Started, from_layer},
};
use regex::bytes::RegexSet;
use rustix::{event::epoll, fs::CWD, process::Signal};

use super::{DOOR, START, Supervisor, SupervisorError, library::Library};
use crate::{
    decide::{DecideError, Decider},
    filter::{self, Architecture, Wanted},
    guardian,
    launch::{self, LaunchError, Report, Starting},
    loadable::{self, Loadable},
    sys::seccomp,
};

/// The compiled rules of the session.
pub(super) struct Policy {
    pub(super) decider: Decider,
    pub(super) unix_streams: RegexSet,
    pub(super) report_local_files: bool,
    pub(super) skip: Vec<Vec<u8>>,
    /// Name of the target; empty: this machine's own is shown.
    pub(super) hostname: Vec<u8>,
}

impl Policy {
    pub(super) fn none() -> io::Result<Self> {
        Self::new(&Rules::default()).map_err(|error| error.source)
    }

    fn new(rules: &Rules) -> Result<Self, LaunchError> {
        let invalid = |error: &dyn std::error::Error| {
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            LaunchError::new(&format!("{error}: {source}"), io::Error::from_raw_os_error(libc::EINVAL))
        };
        let decider =
            Decider::new(&rules.paths, rules.otherwise()).map_err(|error: DecideError| invalid(&error))?;
        let unix_streams = RegexSet::new(&rules.unix_streams).map_err(|error| invalid(&error))?;
        Ok(Self {
            decider,
            unix_streams,
            report_local_files: rules.report_local_files,
            skip: rules.skip.iter().map(|name| name.clone().into_bytes()).collect(),
            hostname: rules.hostname.to_vec(),
        })
    }
}

impl Supervisor {
    /// Starts the command; the answer goes out when it has been executed or has failed.
    pub(super) fn launch(
        &mut self,
        id: u64,
        launch: &Launch,
        standard: Vec<OwnedFd>,
    ) -> Result<(), SupervisorError> {
        match self.try_launch(launch, standard) {
            Ok(starting) => {
                let data = epoll::EventData::new_u64(START);
                epoll::add(&self.epoll, &starting, data, epoll::EventFlags::IN)
                    .map_err(|error| SupervisorError::SetUp(error.into()))?;
                self.starting = Some((id, starting));
                Ok(())
            }
            Err(error) => Ok(self.outbox.reply(id, started(0, Some(&error)))?),
        }
    }

    fn try_launch(&mut self, launch: &Launch, standard: Vec<OwnedFd>) -> Result<Starting, LaunchError> {
        let busy = || LaunchError::new("launch", io::Error::from_raw_os_error(libc::EBUSY));
        if self.starting.is_some() || self.command.is_some() {
            return Err(busy());
        }
        let standard = <[OwnedFd; 3]>::try_from(standard).map_err(|_| {
            LaunchError::new("standard descriptors", io::Error::from_raw_os_error(libc::EBADF))
        })?;
        let rules = launch.rules.clone().unwrap_or_default();
        let wanted = Wanted {
            network: rules.network && self.sockets.is_some(),
            files: rules.files,
            unix: !rules.unix_streams.is_empty(),
            hostname: !rules.hostname.is_empty(),
        };
        self.policy = Policy::new(&rules)?;
        match &launch.library {
            None => launch::start(launch, &standard, Some(&filter::build(&Architecture::NATIVE, wanted))),
            Some(library) => self.launch_with(library, launch, wanted, &standard),
        }
    }

    /// The libc attachment: the command is told by its environment to load the library, which asks at a socket.
    fn launch_with(
        &mut self,
        library: &wire::Library,
        launch: &Launch,
        wanted: Wanted,
        standard: &[OwnedFd; 3],
    ) -> Result<Starting, LaunchError> {
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let program = rustix::fs::readlinkat(CWD, "/proc/self/exe", Vec::new());
        let addresses = library.addresses && launch.rules.as_ref().is_some_and(|rules| rules.network);
        let helper = library.filters.then(|| program.map(CString::into_bytes).ok()).flatten();
        self.library = Library::open(&path(&library.socket), wanted, (library.names, addresses), helper)
            .map_err(|error| LaunchError::new("listen for the library", error))?;
        if let Some(door) = self.library.door() {
            let data = epoll::EventData::new_u64(DOOR);
            epoll::add(&self.epoll, door, data, epoll::EventFlags::IN)
                .map_err(|error| LaunchError::new("epoll", error))?;
        }
        let executable = launch::executable(launch);
        match loadable::of(&executable) {
            Loadable::No { why } if library.filters => {
                self.tell_trapped(&executable, why);
                launch::start(launch, standard, Some(&filter::build(&Architecture::NATIVE, wanted)))
            }
            Loadable::No { why } => {
                self.tell_outside(&executable, why);
                launch::start(launch, standard, None)
            }
            Loadable::Yes => launch::start(&loading(launch, library), standard, None),
        }
    }

    /// Reads what the starting child says.
    pub(super) fn handle_start(&mut self) -> Result<(), SupervisorError> {
        let Some((id, starting)) = &self.starting else { return Ok(()) };
        let (id, pid) = (*id, starting.pid);
        let report = match starting.report() {
            Report::None => return Ok(()),
            Report::Listener(listener) => {
                // Since 6.6; without it each answer takes about a tenth longer.
                seccomp::wake_synchronously(listener.as_fd());
                self.listener = Some(Arc::new(listener));
                self.command = Some(pid);
                return Ok(());
            }
            Report::Executed => {
                // Without a filter there was no listener before.
                self.command = Some(pid);
                started(pid.as_raw_nonzero().get().unsigned_abs(), None)
            }
            Report::Failed(error) => {
                self.command = None;
                started(0, Some(&error))
            }
        };
        self.starting = None;
        Ok(self.outbox.reply(id, report)?)
    }

    /// Sends a signal to the command or to all of its tree.
    pub(super) fn signal(&self, signal: u32, whole_tree: bool) {
        let Some(signal) = i32::try_from(signal).ok().and_then(Signal::from_named_raw) else { return };
        if whole_tree {
            guardian::signal_all(signal);
        } else if let Some(command) = self.command {
            // It has ended: its exit is reported or on its way.
            rustix::process::kill_process(command, signal).ok();
        }
    }
}

/// The launch with the library in the command's environment, before what the user preloads.
fn loading(launch: &Launch, library: &wire::Library) -> Launch {
    const PRELOAD: &[u8] = b"LD_PRELOAD";
    let mut launch = launch.clone();
    let own = launch.environment.iter().find(|entry| entry.name.as_ref() == PRELOAD);
    let mut value = library.path.to_vec();
    if let Some(own) = own.filter(|own| !own.value.is_empty()) {
        value.push(b':');
        value.extend_from_slice(&own.value);
    }
    launch
        .environment
        .retain(|entry| entry.name.as_ref() != PRELOAD && entry.name.as_ref() != SOCKET_VARIABLE.as_bytes());
    let variable = |name: &'static [u8], value: Vec<u8>| EnvEntry { name: name.into(), value: value.into() };
    launch.environment.push(variable(PRELOAD, value));
    launch.environment.push(variable(SOCKET_VARIABLE.as_bytes(), library.socket.to_vec()));
    launch
}

fn started(pid: u32, error: Option<&LaunchError>) -> from_layer::Kind {
    from_layer::Kind::Started(Started {
        pid,
        errno: error.map_or(0, |error| error.errno().unsigned_abs()),
        operation: error.map(|error| error.operation.clone()).unwrap_or_default(),
    })
}
