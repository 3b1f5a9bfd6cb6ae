//! A running local pod of a world.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    finish::{Finished, finish},
    wait::{LIMIT, wait_until},
    world::World,
};

/// A running local pod. It ends with its world, or with [`Pod::stop`].
#[derive(Debug)]
pub struct Pod<'world> {
    world: &'world World,
    /// Its name.
    pub name: String,
    /// Pid of its command as this machine sees it.
    pub pid: u32,
    /// Its IPv4 address.
    pub ip: String,
}

impl<'world> Pod<'world> {
    pub(crate) fn start(world: &'world World, name: &str, options: &[&str], command: &[&str]) -> Self {
        let mark = world.mark();
        let mut args = vec!["local", "start", name, "--env", &mark];
        args.extend(options);
        args.push("--");
        args.extend(command);
        world.ok(args);
        let list: Value =
            serde_json::from_str(&world.ok(["local", "ls", "-o", "json"])).expect("local ls prints JSON");
        let pods = list.as_array().expect("local ls prints a list");
        let pod = pods.iter().find(|pod| pod["name"] == name).expect("the pod is listed");
        Self {
            world,
            name: name.to_owned(),
            pid: pod["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pod has a pid"),
            ip: pod["ip"].as_str().expect("a pod has an address").to_owned(),
        }
    }

    /// `-t` of this pod.
    #[must_use]
    pub fn target(&self) -> String {
        format!("local/{}", self.name)
    }

    /// A command inside of the pod's namespaces, with the pod's environment.
    #[must_use]
    pub fn command(&self, command: &[&str]) -> Command {
        let args = ["local", "exec", &self.name, "--"];
        self.world.command(args.iter().chain(command))
    }

    /// Runs a command inside of the pod to its end.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Finished {
        finish(&mut self.command(command))
    }

    /// Runs a command inside of the pod and expects success; its stdout.
    #[track_caller]
    pub fn ok(&self, command: &[&str]) -> String {
        self.run(command).ok()
    }

    /// Writes a file that only this pod has. The folder must be a new one at the top of the pod's root.
    #[track_caller]
    pub fn put(&self, path: &str, content: &str) {
        let script = "mkdir -p \"${1%/*}\" && printf %s \"$2\" >\"$1\" && chmod 644 \"$1\"";
        self.ok(&["sh", "-c", script, "sh", path, content]);
    }

    /// Waits until a process of the pod listens on a TCP port.
    ///
    /// # Panics
    /// When none does within [`LIMIT`].
    #[track_caller]
    pub fn wait_listening(&self, port: u16) {
        let what = format!("pod {} listens on {port}", self.name);
        wait_until(&what, LIMIT, || self.listens(port));
    }

    /// Whether a process of the pod listens on a TCP port now.
    #[must_use]
    pub fn listens(&self, port: u16) -> bool {
        let suffix = format!(":{port:04X}");
        ["tcp", "tcp6"].iter().any(|table| {
            let text = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)).unwrap_or_default();
            text.lines().any(|line| {
                let mut fields = line.split_ascii_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A")
            })
        })
    }

    /// Stops it.
    #[track_caller]
    pub fn stop(self) {
        self.world.ok(["local", "stop", &self.name]);
    }
}
