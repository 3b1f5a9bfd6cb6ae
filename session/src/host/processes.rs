//! The command's process tree as the layer reports it: a table for viewers, and an event per change.

use std::collections::BTreeMap;

use mirrord_protocol::{layer::v1 as layer, session::v1 as wire};

use super::status::now_ms;
use crate::{events::Events, limits::PROCESSES_LISTED, redact};

/// All processes of a session that still run, and the last ones that do not.
#[derive(Debug)]
pub(crate) struct Processes {
    events: Events,
    table: BTreeMap<u32, wire::Process>,
}

impl Processes {
    pub(crate) fn new(events: Events) -> Self {
        Self { events, table: BTreeMap::new() }
    }

    /// For viewers, ordered by number.
    pub(crate) fn list(&self) -> Vec<wire::Process> {
        self.table.values().cloned().collect()
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.table.values().filter(|process| process.running).count()
    }

    /// The command itself has been started.
    pub(crate) fn started(&mut self, pid: u32, arguments: &[bytes::Bytes]) {
        let arguments = redact::arguments(arguments);
        let process = self.add(pid, 0);
        process.arguments.clone_from(&arguments);
        if process.command.is_empty() {
            process.command = arguments.first().map(|name| base_name(name)).unwrap_or_default();
        }
        let comm = process.command.clone();
        self.emit(pid, comm, wire::process_event::Stage::Start, 0, arguments, None);
    }

    /// A process was forked. The command's own fork is not told: it has been started already.
    pub(crate) fn spawned(&mut self, pid: u32, parent: u32) {
        if self.table.get(&pid).is_some_and(|process| process.running) {
            return;
        }
        let inherited =
            self.table.get(&parent).map(|parent| (parent.command.clone(), parent.arguments.clone()));
        let (command, arguments) = inherited.unwrap_or_default();
        let process = self.add(pid, parent);
        process.command.clone_from(&command);
        process.arguments.clone_from(&arguments);
        self.emit(pid, command, wire::process_event::Stage::Start, parent, arguments, None);
    }

    /// A process executed a program. That of the command itself is not told again.
    pub(crate) fn executed(&mut self, exec: layer::ProcessExec) {
        let arguments = redact::arguments(&exec.arguments);
        let process = self.add(exec.pid, exec.parent);
        let known = process.arguments == arguments && process.parent == 0;
        process.command.clone_from(&exec.comm);
        process.arguments.clone_from(&arguments);
        if exec.parent != 0 {
            process.parent = exec.parent;
        }
        if !known {
            let stage = if exec.outside {
                wire::process_event::Stage::Outside
            } else {
                wire::process_event::Stage::Exec
            };
            self.emit(exec.pid, exec.comm, stage, exec.parent, arguments, None);
        }
    }

    pub(crate) fn ended(&mut self, pid: u32, exit: Option<wire::Exit>) {
        let (comm, parent) = match self.table.get_mut(&pid) {
            Some(process) => {
                process.running = false;
                process.exit.clone_from(&exit);
                (process.command.clone(), process.parent)
            }
            None => Default::default(),
        };
        self.emit(pid, comm, wire::process_event::Stage::Exit, parent, Vec::new(), exit);
        self.forget_oldest();
    }

    /// Nothing runs any more, whatever was reported.
    pub(crate) fn all_ended(&mut self) {
        self.table.values_mut().for_each(|process| process.running = false);
    }

    fn add(&mut self, pid: u32, parent: u32) -> &mut wire::Process {
        let process = self.table.entry(pid).or_default();
        if !process.running {
            // Also when the number is used again.
            *process = wire::Process {
                pid,
                parent,
                started_ms: now_ms(),
                running: true,
                ..wire::Process::default()
            };
        }
        process
    }

    fn forget_oldest(&mut self) {
        while self.table.len() > PROCESSES_LISTED {
            let oldest = self
                .table
                .values()
                .filter(|process| !process.running)
                .min_by_key(|process| process.started_ms);
            let Some(pid) = oldest.map(|process| process.pid) else { return };
            self.table.remove(&pid);
        }
    }

    fn emit(
        &self,
        pid: u32,
        comm: bytes::Bytes,
        stage: wire::process_event::Stage,
        parent: u32,
        arguments: Vec<bytes::Bytes>,
        exit: Option<wire::Exit>,
    ) {
        let name = String::from_utf8_lossy(&comm);
        let line =
            arguments.iter().map(|argument| String::from_utf8_lossy(argument)).collect::<Vec<_>>().join(" ");
        let subject = match (stage, &exit) {
            (wire::process_event::Stage::Exec | wire::process_event::Stage::Outside, _) => line,
            (wire::process_event::Stage::Exit, Some(wire::Exit { signal: 0, code, .. })) => {
                format!("{name} exited with {code}")
            }
            (wire::process_event::Stage::Exit, Some(exit)) => {
                format!("{name} ended by signal {}", exit.signal)
            }
            (wire::process_event::Stage::Exit, None) => format!("{name} exited"),
            // It had no name yet, or was gone before it could be asked.
            _ if line.is_empty() && name.is_empty() => "a process started".to_owned(),
            _ if line.is_empty() => format!("{name} started"),
            _ => line,
        };
        self.events.emit(wire::Event {
            pid,
            tid: pid,
            comm,
            kind: wire::Kind::Process.into(),
            subject,
            detail: Some(wire::event::Detail::Process(wire::ProcessEvent {
                stage: stage.into(),
                parent,
                arguments,
                exit,
            })),
            ..wire::Event::default()
        });
    }
}

fn base_name(path: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(path.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_tree_and_is_bounded() {
        let events = Events::new();
        let mut processes = Processes::new(events.clone());
        processes.started(10, &["/bin/sh".into(), "--token=abc".into()]);
        processes.spawned(11, 10);
        processes.executed(layer::ProcessExec {
            pid: 11,
            parent: 10,
            comm: "ls".into(),
            arguments: vec!["ls".into()],
            ..Default::default()
        });
        assert_eq!(processes.running(), 2);
        let list = processes.list();
        assert_eq!((&list[0].command[..], &list[1].command[..]), (&b"sh"[..], &b"ls"[..]));
        assert!(!String::from_utf8_lossy(&list[0].arguments[1]).contains("abc"));
        processes.ended(11, Some(wire::Exit { code: 3, ..wire::Exit::default() }));
        assert_eq!(processes.running(), 1);
        for pid in 100..100 + 2 * u32::try_from(PROCESSES_LISTED).unwrap() {
            processes.spawned(pid, 10);
            processes.ended(pid, None);
        }
        assert_eq!(processes.list().len(), PROCESSES_LISTED);
        assert!(processes.list().iter().any(|process| process.pid == 10), "what runs is never forgotten");
        let subjects: Vec<_> = (1..5).map(|seq| events.event(seq).unwrap().subject.clone()).collect();
        assert_eq!(subjects[1..], ["/bin/sh --token=‹redacted›", "ls", "ls exited with 3"]);
    }
}
