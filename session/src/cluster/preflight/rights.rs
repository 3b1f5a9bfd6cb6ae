//! The rights that a session needs, each asked for with a SelfSubjectAccessReview, and the RBAC rules for those that are missing.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};

use super::{Finding, Verdict};
use crate::cluster::{agent_job::Form, client::Cluster, error::ClusterError};

/// One right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) subresource: &'static str,
    pub(super) verb: &'static str,
}

const fn right(
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
) -> Right {
    Right { group, resource, subresource, verb }
}

/// In the namespace of the target: to find its pod.
pub(super) const IN_TARGET: [Right; 2] = [right("", "pods", "", "get"), right("", "pods", "", "list")];

/// In the namespace of the agent: to follow its pod, and to reach it. The API server asks for `get` or `create` on a port-forward
/// according to its version and to the form of the request.
pub(super) const IN_AGENT: [Right; 5] = [
    right("", "pods", "", "get"),
    right("", "pods", "", "list"),
    right("", "pods", "", "watch"),
    right("", "pods", "portforward", "create"),
    right("", "pods", "portforward", "get"),
];

/// To start the agent, to see those of others, and to remove it.
pub(super) const FOR_JOBS: [Right; 3] = [
    right("batch", "jobs", "", "create"),
    right("batch", "jobs", "", "delete"),
    right("batch", "jobs", "", "list"),
];

/// When it comes without an image.
pub(super) const FOR_CONFIG_MAPS: [Right; 1] = [right("", "configmaps", "", "create")];

/// When it is a container of the target's pod.
pub(super) const FOR_EPHEMERAL: [Right; 1] = [right("", "pods", "ephemeralcontainers", "patch")];

/// What starting and removing the agent needs.
fn to_start(form: Form) -> Vec<Right> {
    match form {
        Form::Job => [&FOR_JOBS[..], &FOR_CONFIG_MAPS].concat(),
        Form::ImageJob => FOR_JOBS.to_vec(),
        Form::Ephemeral => FOR_EPHEMERAL.to_vec(),
    }
}

/// Asks for every right at once.
pub(super) async fn check(
    cluster: &Cluster,
    target: &str,
    agent: &str,
    form: Form,
) -> Result<Finding, ClusterError> {
    let mut needed: Vec<(&str, Right)> = IN_TARGET.iter().map(|right| (target, *right)).collect();
    needed.extend(IN_AGENT.iter().chain(&to_start(form)).map(|right| (agent, *right)));
    needed.sort_unstable();
    needed.dedup();
    let answers = join_all(needed.iter().map(|(namespace, right)| allowed(cluster, namespace, *right))).await;
    let mut missing = Vec::new();
    for ((namespace, right), answer) in needed.iter().zip(answers) {
        match answer {
            Ok(true) => {}
            Ok(false) => missing.push((*namespace, *right)),
            // Nearly every cluster lets everybody ask about themselves.
            Err(error) if error.is_forbidden() => {
                return Ok(Finding::new(
                    "rights",
                    Verdict::Unknown,
                    "not known: you may not ask about your rights",
                    "",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() {
        return Ok(Finding::fine("rights", format!("all {} that a session needs", needed.len())));
    }
    let named: Vec<String> = missing.iter().map(|(namespace, right)| right.named(namespace)).collect();
    let detail = format!("the user of context `{}` may not {}", cluster.context, named.join(", "));
    Ok(Finding::new("rights", Verdict::Refused, detail, rules(&missing)))
}

async fn allowed(cluster: &Cluster, namespace: &str, right: Right) -> Result<bool, ClusterError> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let attributes = ResourceAttributes {
        namespace: text(namespace),
        group: text(right.group),
        resource: text(right.resource),
        subresource: text(right.subresource),
        verb: text(right.verb),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let params = PostParams::default();
    let answer = cluster.call("say what you may do", api.create(&params, &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

impl Right {
    /// `create batch/jobs in namespace shop`.
    fn named(self, namespace: &str) -> String {
        format!("{} {} in namespace `{namespace}`", self.verb, self.resource())
    }

    /// `pods/portforward`.
    pub(super) fn resource(self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// The RBAC rules for rights, by namespace.
fn rules(missing: &[(&str, Right)]) -> String {
    let mut grouped: BTreeMap<&str, BTreeMap<(&str, String), Vec<&str>>> = BTreeMap::new();
    for (namespace, right) in missing {
        let verbs = grouped.entry(namespace).or_default().entry((right.group, right.resource())).or_default();
        verbs.push(right.verb);
    }
    let quoted =
        |words: &[&str]| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let roles = grouped.into_iter().map(|(namespace, rules)| {
        let rules = rules.into_iter().map(|((group, resource), verbs)| {
            format!(
                "\n- apiGroups: [\"{group}\"]\n  resources: [\"{resource}\"]\n  verbs: [{}]",
                quoted(&verbs)
            )
        });
        format!("ask for a Role in namespace `{namespace}` with these rules:{}", rules.collect::<String>())
    });
    roles.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the namespace of the agent, and not needed: to tell others which ports are stolen after a switch.
    const WELCOME: [Right; 1] = [right("batch", "jobs", "", "patch")];

    #[test]
    fn missing_rights_become_rules() {
        let missing = [
            ("shop", right("", "pods", "portforward", "create")),
            ("shop", right("", "pods", "portforward", "get")),
            ("shop", right("batch", "jobs", "", "create")),
        ];
        let expected = "ask for a Role in namespace `shop` with these rules:\n\
            - apiGroups: [\"\"]\n  resources: [\"pods/portforward\"]\n  verbs: [\"create\", \"get\"]\n\
            - apiGroups: [\"batch\"]\n  resources: [\"jobs\"]\n  verbs: [\"create\"]";
        assert_eq!(rules(&missing), expected);
    }

    /// The roles that are shipped and the rights that are asked for are the same.
    #[test]
    fn the_shipped_roles_give_every_right_and_no_other() {
        let job = [&to_start(Form::Job)[..], &WELCOME].concat();
        gives_exactly(include_str!("../../../../assets/rbac/role.yaml"), &job);
        let ephemeral = to_start(Form::Ephemeral);
        gives_exactly(include_str!("../../../../assets/rbac/ephemeral.yaml"), &ephemeral);
    }

    #[track_caller]
    fn gives_exactly(text: &str, to_start: &[Right]) {
        #[derive(serde::Deserialize)]
        struct Role {
            rules: Vec<Rule>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Rule {
            api_groups: Vec<String>,
            resources: Vec<String>,
            verbs: Vec<String>,
        }
        let role = text.split("\n---\n").find(|document| document.contains("kind: Role\n")).unwrap();
        let role: Role = serde_saphyr::from_str(role).unwrap();
        let mut given = Vec::new();
        for rule in role.rules {
            for (group, resource) in rule
                .api_groups
                .iter()
                .flat_map(|group| rule.resources.iter().map(move |resource| (group, resource)))
            {
                given.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
        let needed = IN_TARGET.iter().chain(&IN_AGENT).chain(to_start);
        let mut needed: Vec<_> =
            needed.map(|right| (right.group.to_owned(), right.resource(), right.verb.to_owned())).collect();
        needed.sort();
        needed.dedup();
        given.sort();
        assert_eq!(given, needed);
    }
}
