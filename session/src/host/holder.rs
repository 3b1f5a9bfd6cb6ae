//! The holder of the session netns as a child of the host: its start and its end. Where no namespace can be made there is none.

use std::{
    io,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use mirrord_netns::{holder::Holder, seqpacket::SeqPacket};
use tokio::{process::Child, task::spawn_blocking, time::timeout};

use super::{
    bring_up::{HOLDER_CONTROL, broken},
    world::Failure,
};
use crate::{limits::HELPERS_STOP, role};

/// The holder of a session netns as errors name it.
pub(super) const HOLDER: &str = "the holder of the session's network";

/// Makes the session netns: its holder, the process, and the supervisor's endpoint.
pub(super) async fn make_netns() -> Result<(Holder, Child, OwnedFd), Failure> {
    let (mut child, control) = spawn_holder()
        .map_err(|error| Failure::caused(&error, "check the limit of processes (ulimit -u)"))?;
    let made = spawn_blocking(move || serve_supervisor(control)).await;
    match made.unwrap_or_else(|error| Err(broken(&error))) {
        Ok((holder, endpoint)) => Ok((holder, child, endpoint)),
        Err(failure) => {
            end_child(&mut child, HOLDER).await;
            Err(failure)
        }
    }
}

fn spawn_holder() -> io::Result<(Child, SeqPacket)> {
    let (ours, theirs) = SeqPacket::pair()?;
    let mut command = Command::new(role::program()?);
    command.arg("__netns").current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mapping = FdMapping { parent_fd: theirs.into(), child_fd: HOLDER_CONTROL };
    command.fd_mappings(vec![mapping]).map_err(io::Error::other)?;
    Ok((tokio::process::Command::from(command).spawn()?, ours))
}

/// Waits for the namespace and makes an endpoint for the supervisor; blocks.
fn serve_supervisor(control: SeqPacket) -> Result<(Holder, OwnedFd), Failure> {
    let failed = |error| Failure::caused(&error, "`mirrord-tui doctor` tells what this machine allows");
    let holder = Holder::connect(control).map_err(failed)?;
    let (theirs, ours) = SeqPacket::pair().map_err(|error| Failure::caused(&error, ""))?;
    holder.serve(theirs).map_err(|error| Failure::caused(&error, ""))?;
    Ok((holder, ours.into()))
}

pub(super) async fn end_child(child: &mut Child, name: &str) {
    // Shorter than the step it is part of, so that the kill comes within it.
    const GRACE: Duration = Duration::from_millis(1_500);
    const { assert!(GRACE.as_millis() < HELPERS_STOP.as_millis()) };
    if timeout(GRACE, child.wait()).await.is_err() {
        tracing::warn!(name, "did not end when its link was closed and is killed");
        if let Err(error) = child.kill().await {
            tracing::error!(name, %error, "cannot be killed");
        }
    }
}
