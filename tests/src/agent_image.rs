//! The image with the agent in it, as `assets/Dockerfile` makes it: one static program.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{Cluster, LIMIT, World, wait_for};

impl Cluster {
    /// Gives the node the image; its name. The program is the one that a session on this machine runs.
    ///
    /// # Panics
    /// When no session can be started.
    #[must_use]
    #[track_caller]
    pub fn agent_image(&self, world: &World) -> &'static str {
        let pod = world.pod("here", &[], &["sleep", "600"]);
        let session = world.exec(&["-t", &pod.target()], &["sleep", "600"]);
        let executable = |(pid, _)| {
            let path = PathBuf::from(format!("/proc/{pid}/exe"));
            let is_agent =
                fs::read_link(&path).is_ok_and(|exe| exe.to_string_lossy().contains("mirrord-agent"));
            is_agent.then_some(path)
        };
        let agent = wait_for("the agent", LIMIT, || world.processes().into_iter().find_map(executable));
        let program = world.home().join("mirrord-agent");
        fs::copy(agent, &program).expect("copy the agent");
        session.stop();
        self.image(world, "mirrord-agent", &program);
        "registry.test/mirrord-agent:1"
    }

    /// `agent` of a configuration file for an agent as an ephemeral container, of that image.
    ///
    /// # Panics
    /// When no session can be started.
    #[must_use]
    #[track_caller]
    pub fn ephemeral_agent(&self, world: &World) -> Value {
        json!({"image": self.agent_image(world), "ephemeral": true})
    }
}
