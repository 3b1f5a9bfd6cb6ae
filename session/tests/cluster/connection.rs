//! Clusters that cannot be reached, and credentials that do not work: one sentence, within a deadline.

use std::{
    error::Error,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use mirrord_session::cluster::{ClusterConfig, ClusterError, connect, list, targets::Scope};
use serde_json::json;

use crate::world::{World, in_cluster};

/// What comes of asking for the pods.
async fn ask(config: &ClusterConfig) -> Result<(), ClusterError> {
    let cluster = connect(config).await?;
    list(&cluster, &Scope::Namespace(cluster.namespace.clone())).await.map(|_| ())
}

/// The error with its causes.
fn whole(error: &ClusterError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[tokio::test]
async fn servers_and_credentials_that_fail() {
    in_cluster("connection", async |world| {
        let error = async |config: &ClusterConfig| ask(config).await.unwrap_err();
        let refused = world.kubeconfig("refused", &json!({ "server": "https://127.0.0.1:1" }), &json!({}));
        let refused = error(&refused).await;
        assert!(
            matches!(refused, ClusterError::Unreachable { .. }) && whole(&refused).contains("refused"),
            "{}",
            whole(&refused)
        );

        // The kernel accepts the connection, and nobody ever answers.
        let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = json!({ "server": format!("https://{}", deaf.local_addr().unwrap()) });
        let silent = world.kubeconfig("silent", &server, &json!({}));
        let start = Instant::now();
        let silent = error(&silent).await;
        assert!(matches!(silent, ClusterError::Deadline { .. }), "{silent:?}");
        assert!(start.elapsed() < Duration::from_secs(30));

        let expired = error(&world.with_user("expired", &json!({ "token": "not-a-token" }))).await;
        assert!(
            matches!(expired, ClusterError::Unauthorized { .. }) && expired.hint().contains("log in"),
            "{expired:?}"
        );

        let stranger =
            world.kubeconfig("stranger", &json!({ "server": world.admin.server }), &json!({ "token": "x" }));
        let untrusted = error(&stranger).await;
        assert!(untrusted.hint().contains("--accept-invalid-certificates"), "{}", whole(&untrusted));
        let trusting = ClusterConfig { accept_invalid_certificates: true, ..stranger.clone() };
        assert!(matches!(error(&trusting).await, ClusterError::Unauthorized { .. }));

        let elsewhere = error(&ClusterConfig { context: Some("other".to_owned()), ..stranger }).await;
        assert!(
            matches!(elsewhere, ClusterError::UnknownContext { .. }) && elsewhere.hint().contains("stranger"),
            "{elsewhere:?}"
        );
        let absent =
            ClusterConfig { kubeconfig: Some(world.dir.path().join("absent")), ..ClusterConfig::default() };
        assert!(matches!(error(&absent).await, ClusterError::Kubeconfig { .. }));
        let broken = world.dir.path().join("broken");
        std::fs::write(&broken, "apiVersion: [").unwrap();
        assert!(matches!(
            error(&ClusterConfig { kubeconfig: Some(broken), ..absent }).await,
            ClusterError::Kubeconfig { .. }
        ));
    })
    .await;
}

#[tokio::test]
async fn programs_give_credentials() {
    in_cluster("credentials", async |world| {
        let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]);
        let user = world.user("helped", rules).await;
        let kubeconfig: serde_json::Value = serde_json::from_slice(&std::fs::read(user.kubeconfig.unwrap()).unwrap()).unwrap();
        let token = kubeconfig["users"][0]["user"]["token"].clone();
        let answer = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": { "token": token } });
        let works = by_program(world, "works", &format!("echo '{answer}'"));
        ask(&works).await.unwrap();

        let failed = ask(&by_program(world, "fails", "echo who are you >&2; exit 3")).await.unwrap_err();
        assert!(matches!(failed, ClusterError::Credentials { .. }), "{failed:?}");
        assert!(failed.hint().contains("fails.sh"), "{}", failed.hint());
        assert!(whole(&failed).ends_with("exit status: 3: who are you"), "{}", whole(&failed));
        let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin", "interactiveMode": "Never" });
        let missing = ask(&world.with_user("missing", &json!({ "exec": exec }))).await.unwrap_err();
        assert!(missing.to_string().contains("no-such-plugin"), "{missing}");
    })
    .await;
}

/// A kubeconfig whose user is given by a shell script.
fn by_program(world: &World, name: &str, script: &str) -> ClusterConfig {
    let program = world.dir.path().join(format!("{name}.sh"));
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": program, "interactiveMode": "Never" });
    world.with_user(name, &json!({ "exec": exec }))
}
