//! A namespace for one test, what is in it, and users with certain rights.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Pod, ServiceAccount},
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, PostParams, WatchEvent, WatchParams},
    core::{ApiResource, GroupVersionKind},
};
use mirrord_session::cluster::{Cluster, ClusterConfig, connect};
use serde_json::{Value, json};

/// A state that does not come within this time is a failure; a pod is up after about a second on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A namespace of a test.
pub(crate) struct World {
    pub(crate) admin: Cluster,
    pub(crate) namespace: String,
    /// Files of this test.
    pub(crate) dir: tempfile::TempDir,
}

/// Runs a test in a namespace of its own, and removes that whatever comes of it.
pub(crate) async fn in_cluster(name: &str, test: impl AsyncFnOnce(&World)) {
    let Some(kubeconfig) = kubeconfig(name) else { return };
    let namespace = format!("{}-{}", name.replace('_', "-"), std::process::id());
    let config = ClusterConfig {
        kubeconfig: Some(kubeconfig),
        namespace: Some(namespace.clone()),
        ..ClusterConfig::default()
    };
    let admin = connect(&config).await.expect("the test cluster's kubeconfig works");
    let namespaces: Api<Namespace> = Api::all(admin.client.clone());
    let object = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
    namespaces.create(&PostParams::default(), &object).await.expect("create a namespace");
    let world = World { admin, namespace, dir: tempfile::tempdir().unwrap() };
    let result = std::panic::AssertUnwindSafe(Box::pin(test(&world))).catch_unwind().await;
    namespaces.delete(&world.namespace, &DeleteParams::background()).await.expect("delete the namespace");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// The kubeconfig of the running cluster; `None`, said aloud, where there can be none.
fn kubeconfig(name: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/cluster.sh");
    let run = |word: &str| Command::new(&script).arg(word).output().expect("run cluster.sh");
    let up = run("up");
    if up.status.code() == Some(77) {
        println!("skipped: cluster::{name}: {}", String::from_utf8_lossy(&up.stderr).trim());
        return None;
    }
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    Some(PathBuf::from(String::from_utf8(run("kubeconfig").stdout).unwrap().trim()))
}

impl World {
    /// Creates an object of any kind.
    pub(crate) async fn create(&self, object: Value) -> DynamicObject {
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", "v1"),
        };
        let kind = object["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.admin.client.clone(), &self.namespace, &resource);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.expect("create an object")
    }

    /// Creates a pod with these fields beside one container `app` of the `hello` image.
    pub(crate) async fn pod(&self, name: &str, spec: Value) {
        let mut whole = pod_spec();
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.create(
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": whole }),
        )
        .await;
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.client.clone(), &self.namespace)
    }

    /// Waits until `count` pods that `labels` select are in a state.
    pub(crate) async fn wait(&self, labels: &str, count: usize, fits: impl Fn(&Pod) -> bool) {
        let list = kube::api::ListParams::default().labels(labels);
        let reached = async {
            loop {
                let pods = self.pods().list(&list).await.unwrap();
                if pods.items.iter().filter(|pod| fits(pod)).count() == count {
                    return;
                }
                let version = pods.metadata.resource_version.unwrap();
                let watch = WatchParams::default().labels(labels).timeout(60);
                let mut changes = self.pods().watch(&watch, &version).await.unwrap().boxed();
                while let Some(Ok(WatchEvent::Bookmark(_))) = changes.next().await {}
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("the pods get into the state");
    }

    /// Waits until a pod of this name is ready.
    pub(crate) async fn ready(&self, name: &str) {
        self.wait("", 1, |pod| pod.metadata.name.as_deref() == Some(name) && is_ready(pod)).await;
    }

    /// A user of this namespace who may do what the rules say, and nothing else.
    pub(crate) async fn user(&self, name: &str, rules: Value) -> ClusterConfig {
        let namespace = &self.namespace;
        self.create(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } }))
            .await;
        let rbac = "rbac.authorization.k8s.io";
        self.create(json!({ "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": { "name": name }, "rules": rules }))
            .await;
        self.create(json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": rbac, "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": namespace }],
        }))
        .await;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.client.clone(), namespace);
        let request = TokenRequest::default();
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
        self.with_user(name, &json!({ "token": answer.status.unwrap().token }))
    }

    /// A kubeconfig of this cluster with another user.
    pub(crate) fn with_user(&self, name: &str, user: &Value) -> ClusterConfig {
        let authority = std::fs::read(self.pki("ca.crt")).unwrap();
        let cluster =
            json!({ "server": self.admin.server, "certificate-authority-data": base64(&authority) });
        self.kubeconfig(name, &cluster, user)
    }

    /// A kubeconfig with one context.
    pub(crate) fn kubeconfig(&self, name: &str, cluster: &Value, user: &Value) -> ClusterConfig {
        let whole = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{ "name": "c", "cluster": cluster }],
            "users": [{ "name": "u", "user": user }],
            "contexts": [{ "name": name, "context": { "cluster": "c", "user": "u", "namespace": self.namespace } }],
        });
        let path = self.dir.path().join(name);
        std::fs::write(&path, whole.to_string()).unwrap();
        ClusterConfig { kubeconfig: Some(path), ..ClusterConfig::default() }
    }

    /// A file beside the kubeconfig of the cluster.
    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        kubeconfig("").unwrap().with_file_name(file)
    }
}

/// One container `app` with the `hello` image, which declares its port.
pub(crate) fn pod_spec() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "app", "image": "registry.test/hello:1", "ports": [{ "containerPort": 8080 }] }],
    })
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Reason for which a container of the pod waits.
pub(crate) fn waits_for(pod: &Pod) -> Option<String> {
    let states = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    states.into_iter().find_map(|state| state.state.clone()?.waiting?.reason)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
