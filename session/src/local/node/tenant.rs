//! One pod as the node sees it: bring-up, and the task that owns it until it has ended and nothing of it is left.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    net::{SocketAddrV4, TcpListener},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use mirrord_netns::rtnl::Rtnl;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Signal, pidfd_send_signal},
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::spawn_blocking,
    time::{Instant, interval, sleep_until, timeout},
};

use super::Node;
use crate::{
    limits::{COMMAND_GRACE, POD_LOG_BYTES, POD_LOG_CHECK, STEP_TIMEOUT},
    local::{
        END_FILE, LOG_FILE, LocalPod, OWN_PROGRAM, PodState, ROOT_DIR, SPEC_FILE,
        publish::{Port, Publisher},
        registry::Claim,
        spec::{PodPlan, Publish, StartSpec, pod_dir},
        wire::{AsyncWire, Failure, Note, Order, Wire},
    },
};

/// A pod that is up, and everything that ends with it.
#[derive(Debug)]
pub(super) struct Tenant {
    processes: Processes,
    pod: LocalPod,
    dir: PathBuf,
    interface: String,
    publisher: Option<Publisher>,
    /// Who waits for the end of the pod waits for this to be dropped; so it is the last but one.
    stop: watch::Receiver<bool>,
    claim: Claim,
}

/// The processes of a pod that the node knows.
#[derive(Debug)]
struct Processes {
    /// The process above the pod; killed when dropped, and all others with it.
    above: Child,
    link: AsyncWire,
    /// Process 1.
    init: Option<OwnedFd>,
}

/// Brings up a pod. On failure nothing of it is left.
pub(super) async fn bring_up(
    node: &Node,
    spec: StartSpec,
    listeners: Vec<TcpListener>,
) -> Result<(LocalPod, Tenant), Failure> {
    let claim = node.registry.claim(&spec.name)?;
    let dir = pod_dir(&node.base, &spec.name);
    let plan =
        PodPlan { ip: claim.ip(), ipv6: node.ipv6.then(|| claim.ipv6()), interface: claim.interface(), spec };
    let result = async {
        make_dir(&dir, &plan).map_err(|error| Failure::setup("making its folder", &error))?;
        let mut processes =
            Processes::spawn(&dir).map_err(|error| Failure::setup("starting its processes", &error))?;
        let up = match timeout(STEP_TIMEOUT, processes.wait_until_up()).await {
            Ok(up) => up,
            Err(_) => Err(Failure::setup(
                "waiting for its first process",
                &io::Error::from(io::ErrorKind::TimedOut),
            )),
        };
        match up {
            Ok(pids) => Ok((processes, pids)),
            Err(failure) => {
                processes.kill().await;
                Err(failure)
            }
        }
    };
    let (processes, [init_pid, pid]) = match result.await {
        Ok(up) => up,
        Err(failure) => {
            fs::remove_dir_all(&dir).ok();
            return Err(failure);
        }
    };
    let (ports, publisher) = publish(&plan, listeners);
    let pod = LocalPod {
        name: plan.spec.name.clone(),
        pid,
        init_pid,
        ip: plan.ip,
        ipv6: plan.ipv6,
        ports_published: ports,
        started: SystemTime::now(),
        command: plan.spec.command,
        state: PodState::Running,
    };
    let stop = claim.publish(pod.clone());
    let tenant =
        Tenant { processes, pod: pod.clone(), dir, interface: plan.interface, publisher, stop, claim };
    Ok((pod, tenant))
}

/// A fresh folder for a pod; what an ended pod of this name has left goes.
fn make_dir(dir: &Path, plan: &PodPlan) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    DirBuilder::new().mode(0o700).create(dir.join(ROOT_DIR))?;
    let json = serde_json::to_vec(plan)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(SPEC_FILE))?;
    file.write_all(&json)
}

/// Starts carrying connections to the pod's published ports; says which they are.
fn publish(plan: &PodPlan, listeners: Vec<TcpListener>) -> (Vec<Publish>, Option<Publisher>) {
    let mut published = Vec::new();
    let mut ports = Vec::new();
    for (listener, wanted) in listeners.into_iter().zip(&plan.spec.publish) {
        let host = listener.local_addr().map_or(wanted.host, |address| address.port());
        published.push(Publish { host, pod: wanted.pod });
        ports.push(Port { listener: listener.into(), target: SocketAddrV4::new(plan.ip, wanted.pod) });
    }
    // A pod whose ports cannot be carried runs all the same; its clients see the listeners closed.
    let publisher = if ports.is_empty() { None } else { Publisher::start(ports).ok() };
    (published, publisher)
}

impl Processes {
    fn spawn(dir: &Path) -> io::Result<Self> {
        let (link, theirs) = Wire::pair()?;
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(LOG_FILE))?;
        let above = Command::new(OWN_PROGRAM)
            .arg0("mirrord-tui")
            .arg("__pod")
            .arg(dir)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { above, link: AsyncWire::new(link)?, init: None })
    }

    /// Waits for the first note; returns what process 1 and the command are called on the machine.
    async fn wait_until_up(&mut self) -> Result<[u32; 2], Failure> {
        match self.link.recv::<Note>().await {
            Ok((Note::Started, fds)) => {
                let mut fds = fds.into_iter();
                let (init, command) = (fds.next(), fds.next());
                let pids = [&init, &command].map(|pidfd| pidfd.as_ref().and_then(pid_of).unwrap_or(0));
                self.init = init;
                Ok(pids)
            }
            Ok((Note::Failed(failure), _)) => Err(failure),
            Ok((Note::Ended(_), _)) => {
                Err(Failure::setup("starting its command", &io::Error::other("it ended")))
            }
            Err(error) => Err(Failure::setup("starting its first process", &error)),
        }
    }

    /// Ends all processes of the pod and waits until they are gone.
    async fn kill(&mut self) {
        if let Some(init) = self.init.take() {
            // Process 1 takes the others along, and counts as ended when they are gone.
            pidfd_send_signal(&init, Signal::KILL).ok();
            spawn_blocking(move || wait_for_end(&init)).await.ok();
        } else {
            self.above.start_kill().ok();
        }
        // The process above ends when process 1 does; but it may be stopped, and that must not hold us.
        if timeout(STEP_TIMEOUT, self.above.wait()).await.is_err() {
            self.above.start_kill().ok();
        }
    }
}

/// Blocks until a process has ended. SIGKILL cannot be refused, but a process in a hanging system call takes its time.
fn wait_for_end(pidfd: &OwnedFd) {
    if let Ok(limit) = Timespec::try_from(STEP_TIMEOUT) {
        retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit))).ok();
    }
}

/// What a process is called on this machine, as the kernel tells about its pidfd; `None` when it has been reaped.
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// Empties a log that has become too long. The pod's processes append to it, so they go on at its new end.
fn cut_log(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.len() > POD_LOG_BYTES {
        let mut log = OpenOptions::new().append(true).open(path)?;
        log.set_len(0)?;
        writeln!(log, "[mirrord-tui: more than {POD_LOG_BYTES} bytes were here]")?;
    }
    Ok(())
}

impl Tenant {
    /// Owns the pod until it has ended.
    pub(super) async fn run(mut self) {
        let state = self.wait_for_end().await;
        self.processes.kill().await;
        drop(self.publisher.take());
        // The kernel removes it with the pod's namespace, but at its leisure.
        if let Ok(rtnl) = Rtnl::open()
            && let Ok(index) = rtnl.index(&self.interface)
        {
            rtnl.delete_link(index).ok();
        }
        if *self.stop.borrow() {
            fs::remove_dir_all(&self.dir).ok();
        } else {
            self.keep_result(state).ok();
        }
        // The name is free before those who wait for the end go on.
        drop(self.claim);
    }

    /// Waits for the end of the command, which is asked for when somebody wants the pod stopped.
    async fn wait_for_end(&mut self) -> PodState {
        let mut kill_at: Option<Instant> = None;
        let mut log_check = interval(POD_LOG_CHECK);
        loop {
            let Processes { above, link, .. } = &mut self.processes;
            tokio::select! {
                biased;
                note = link.recv::<Note>() => match note {
                    Ok((Note::Ended(state), _)) => return state,
                    Ok(_) => {}
                    Err(_) => return PodState::Lost,
                },
                _ = above.wait() => return PodState::Lost,
                Ok(()) = self.stop.changed(), if kill_at.is_none() => {
                    kill_at = Some(Instant::now() + COMMAND_GRACE);
                    if link.send(&Order::Terminate, &[]).is_err() {
                        return PodState::Lost;
                    }
                }
                // A log that cannot be cut is no reason to end the pod.
                _ = log_check.tick() => drop(cut_log(&self.dir.join(LOG_FILE))),
                () = async { sleep_until(kill_at.unwrap_or_else(Instant::now)).await }, if kill_at.is_some() => {
                    return PodState::Lost;
                }
            }
        }
    }

    /// Leaves the result beside the log.
    fn keep_result(&self, state: PodState) -> io::Result<()> {
        fs::remove_dir(self.dir.join(ROOT_DIR))?;
        let ended = LocalPod { state, pid: 0, init_pid: 0, ..self.pod.clone() };
        fs::write(self.dir.join(END_FILE), serde_json::to_vec(&ended)?)
    }
}
