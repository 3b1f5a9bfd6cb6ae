//! What viewers may ask of a session, and when: the admission policy, without lock, clock or task.
//!
//! ```text
//!             stop  signal  record  set mode  replay
//! Connecting   yes    -      yes       -        -        -
//! Launching    yes   yes     yes       -        -        -
//! Running      yes   yes     yes      yes      yes      one change per port at a time
//! Draining     yes    -       -        -        -       a second stop kills at once
//! Ended        yes    -       -        -        -       means nothing
//! ```

use std::{collections::BTreeSet, path::PathBuf};

use mirrord_protocol::session::v1 as wire;
use tokio::sync::oneshot;

use crate::config::Mode;

/// A request of a viewer on its way to the driver; each is answered exactly once.
#[derive(Debug)]
pub(crate) enum Command {
    SetMode { port: u16, mode: Mode, reply: Reply<wire::Port> },
    Signal { signal: i32, reply: Reply<()> },
    Record { path: PathBuf, reply: Reply<wire::RecordReply> },
    StopRecording { reply: Reply<wire::RecordReply> },
    Replay { request: Box<wire::ReplayRequest>, reply: Reply<wire::ReplayReply> },
}

/// driver --answer--> the viewer's call
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Denied>>;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: Reason,
    /// One sentence.
    pub(crate) text: String,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Not in this state of the session.
    NotNow,
    /// What it names does not exist.
    NotFound,
    /// It makes no sense.
    Invalid,
    /// It was tried and failed.
    Failed,
}

impl Denied {
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

impl Command {
    /// What the policy needs to know.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::SetMode { port, .. } => Kind::SetMode(*port),
            Self::Signal { .. } => Kind::Signal,
            Self::Record { .. } | Self::StopRecording { .. } => Kind::Record,
            Self::Replay { .. } => Kind::Replay,
        }
    }

    /// Answers with a refusal. A viewer that has gone meanwhile does not mind.
    pub(crate) fn deny(self, denied: Denied) {
        match self {
            Self::SetMode { reply, .. } => drop(reply.send(Err(denied))),
            Self::Signal { reply, .. } => drop(reply.send(Err(denied))),
            Self::Record { reply, .. } | Self::StopRecording { reply } => drop(reply.send(Err(denied))),
            Self::Replay { reply, .. } => drop(reply.send(Err(denied))),
        }
    }
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SetMode(u16),
    Signal,
    Record,
    Replay,
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connecting,
    Launching,
    Running,
    Draining,
    Ended,
}

/// The policy with what it has admitted and not seen finished.
#[derive(Debug)]
pub(crate) struct Admission {
    phase: Phase,
    switching: BTreeSet<u16>,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Connecting, switching: BTreeSet::new() }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Goes on to a later phase; a session never goes back.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    /// Whether a request may be carried out now; if so it counts as begun.
    pub(crate) fn admit(&mut self, kind: Kind) -> Result<(), Denied> {
        let not_now = |text: &str| Err(Denied::new(Reason::NotNow, text));
        match (self.phase, kind) {
            (Phase::Ended, _) => not_now("the session has ended"),
            (Phase::Draining, _) => not_now("the session is ending"),
            (Phase::Running, Kind::SetMode(port)) if !self.switching.insert(port) => {
                Err(Denied::new(Reason::NotNow, format!("port {port} is being switched already")))
            }
            (Phase::Running, _) | (_, Kind::Record) | (Phase::Launching, Kind::Signal) => Ok(()),
            (Phase::Connecting, Kind::Signal) => not_now("the command has not been started yet"),
            (Phase::Connecting | Phase::Launching, _) => not_now("the session is not running yet"),
        }
    }

    /// A change of mode that was admitted has been answered.
    pub(crate) fn switched(&mut self, port: u16) {
        self.switching.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(Phase),
        Ask(Kind),
        Switched(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let phase = prop_oneof![
            Just(Phase::Launching),
            Just(Phase::Running),
            Just(Phase::Draining),
            Just(Phase::Ended)
        ];
        let kind = prop_oneof![
            (1..4u16).prop_map(Kind::SetMode),
            Just(Kind::Signal),
            Just(Kind::Record),
            Just(Kind::Replay)
        ];
        prop_oneof![
            1 => phase.prop_map(Step::Enter),
            8 => kind.prop_map(Step::Ask),
            2 => (1..4u16).prop_map(Step::Switched),
        ]
    }

    proptest! {
        /// Over histories of requests: phases only advance; nothing but what the table allows is admitted; a port is never
        /// switched twice at once, and can be switched again as soon as the first has been answered.
        #[test]
        fn the_policy_holds(steps in prop::collection::vec(step(), 0..100)) {
            let mut admission = Admission::new();
            let mut open = BTreeSet::new();
            let mut latest = Phase::Connecting;
            for step in steps {
                match step {
                    Step::Enter(phase) => {
                        admission.enter(phase);
                        latest = latest.max(phase);
                        prop_assert_eq!(admission.phase(), latest);
                    }
                    Step::Ask(kind) => {
                        let allowed = match kind {
                            Kind::SetMode(port) => latest == Phase::Running && open.insert(port),
                            Kind::Replay => latest == Phase::Running,
                            Kind::Signal => matches!(latest, Phase::Launching | Phase::Running),
                            Kind::Record => latest < Phase::Draining,
                        };
                        prop_assert_eq!(admission.admit(kind).is_ok(), allowed, "{:?} in {:?}", kind, latest);
                    }
                    Step::Switched(port) => {
                        admission.switched(port);
                        open.remove(&port);
                    }
                }
            }
        }
    }
}
