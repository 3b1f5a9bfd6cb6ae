//! The seccomp filter: which system calls are trapped, as a table per architecture, and the BPF program made from it.
//!
//! Everything that is not in the table goes on untouched. The kernel keeps a bitmap of the numbers that a filter allows whatever
//! their arguments are and skips the program for those, so the length of the table costs the other calls nothing.

mod program;
mod table;

pub(crate) use self::{
    program::build,
    table::{Architecture, Call, PathCall, Trap},
};

/// Groups of calls that a session traps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// socket and listen.
    pub(crate) network: bool,
    /// Calls that take a path.
    pub(crate) files: bool,
    /// connect, for unix sockets that are dialled from the target.
    pub(crate) unix: bool,
    /// uname, when the target has a name to show.
    pub(crate) hostname: bool,
}

impl Wanted {
    /// Whether this call is trapped at all.
    pub(crate) const fn wants(self, call: Call) -> bool {
        match call {
            Call::Execute => true,
            Call::Socket | Call::Listen => self.network,
            Call::Connect => self.unix,
            Call::Uname => self.hostname,
            Call::Path(_) => self.files,
        }
    }
}

#[cfg(test)]
mod tests;
