//! The section `target` of a file: a path, or an object that names one.

use super::{ResolveError, word};
use crate::{
    config::{
        file::{TargetParts, TargetSection},
        shapes::Shorthand,
    },
    target::Target,
};

/// What a file says of the target.
#[derive(Default)]
pub(super) struct Named {
    pub(super) target: Option<Target>,
    pub(super) namespace: Option<String>,
    pub(super) all_pods: bool,
}

/// Reads the section `target`.
pub(super) fn named(
    written: Option<Shorthand<TargetSection>>,
    warnings: &mut Vec<String>,
) -> Result<Named, ResolveError> {
    let section = match written {
        None | Some(Shorthand::Switch(false)) => return Ok(Named::default()),
        Some(Shorthand::Word(path)) => return Ok(Named { target: Some(path.parse()?), ..Named::default() }),
        Some(Shorthand::Switch(true)) => {
            return Err(word("target", "true", "KIND/NAME or an object with `path`"));
        }
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("target.", warnings);
    let target = match section.path {
        None | Some(Shorthand::Switch(false)) => None,
        Some(Shorthand::Word(path)) if path == "targetless" => None,
        Some(Shorthand::Word(path)) => Some(path.parse()?),
        Some(Shorthand::Switch(true)) => return Err(word("target.path", "true", "KIND/NAME")),
        Some(Shorthand::Section(parts)) => Some(target_of_parts(*parts)?),
    };
    Ok(Named { target, namespace: section.namespace, all_pods: section.all_pods.unwrap_or(false) })
}

fn target_of_parts(parts: TargetParts) -> Result<Target, ResolveError> {
    let named = [
        ("pod", parts.pod),
        ("deployment", parts.deployment),
        ("rollout", parts.rollout),
        ("statefulset", parts.stateful_set),
        ("job", parts.job),
        ("cronjob", parts.cron_job),
        ("service", parts.service),
        ("replicaset", parts.replica_set),
    ];
    let mut named = named.into_iter().filter_map(|(kind, name)| Some((kind, name?)));
    match (named.next(), named.next()) {
        (Some((kind, name)), None) => {
            Ok(Target::Cluster { kind: kind.to_owned(), name, container: parts.container })
        }
        _ => Err(ResolveError::TargetParts),
    }
}
