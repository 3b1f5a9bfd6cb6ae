//! An API server out of prepared answers, for tests without a cluster.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use hyper::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::client::Cluster;

/// Answers that are still to be given, and what was asked.
#[derive(Debug)]
pub(crate) struct Fake {
    answers: Mutex<Vec<(&'static str, u16, String)>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

/// A cluster that gives each answer once, to the first request whose path and query contain the text; other requests wait for good.
pub(crate) fn cluster(answers: impl IntoIterator<Item = (&'static str, u16, Value)>) -> (Cluster, Arc<Fake>) {
    let lines = |body: Value| match body {
        // What a watch says: one object a line.
        Value::Array(events) => events.iter().map(|event| format!("{event}\n")).collect(),
        body => body.to_string(),
    };
    let answers = answers.into_iter().map(|(path, code, body)| (path, code, lines(body))).collect();
    let fake = Arc::new(Fake { answers: Mutex::new(answers), asked: Mutex::default() });
    let service = tower::service_fn({
        let fake = Arc::clone(&fake);
        move |request: Request<Body>| answer(Arc::clone(&fake), request)
    });
    let cluster = Cluster {
        client: Client::new(service, "shop"),
        namespace: "shop".to_owned(),
        context: "fake".to_owned(),
        server: "https://fake".to_owned(),
    };
    (cluster, fake)
}

async fn answer(fake: Arc<Fake>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let asked = request.uri().to_string();
    let found = {
        let mut answers = fake.answers.lock().unwrap();
        let found = answers.iter().position(|(path, ..)| asked.contains(path));
        found.map(|index| answers.remove(index))
    };
    fake.asked.lock().unwrap().push(asked);
    match found {
        Some((_, code, body)) => {
            Ok(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
        }
        None => std::future::pending().await,
    }
}

/// A refusal as the API server writes it.
pub(crate) fn status(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason })
}

/// A list of objects.
pub(crate) fn list(items: &[Value], version: &str, go_on: &str) -> Value {
    json!({ "metadata": { "resourceVersion": version, "continue": go_on }, "items": items })
}

/// A pod that runs, with one container `app`; `owner` is KIND/NAME.
pub(crate) fn pod(name: &str, owner: &str, labels: &Value) -> Value {
    let owners: Vec<Value> = owner
        .split_once('/')
        .map(|(kind, name)| json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": true }))
        .into_iter()
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "labels": labels, "ownerReferences": owners, "resourceVersion": "7",
            "creationTimestamp": "2026-11-23T01:00:00Z",
        },
        "spec": { "nodeName": "node1", "containers": [{ "name": "app", "image": "app:1" }] },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "containerStatuses": [{
                "name": "app", "image": "app:1", "imageID": "", "ready": true, "restartCount": 2, "containerID": "cri-o://abc",
                "state": { "running": {} },
            }],
        },
    })
}
