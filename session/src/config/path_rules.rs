//! The path rules of a session: the user's patterns and the defaults in one ordered list, first match decides.

use mirrord_protocol::layer::v1::{PathDecision, PathRule, Rules};

use super::{Config, FileMode};

/// The rules that the layer decides by. `defaults` are the layer's default lists for the mode and this user
/// (`mirrord_layer::decide::default_rules`).
///
/// Order, as in mirrord: not_found, read_write, read_only, local, then the defaults, then the mode. A mapping comes first: it says
/// where a path really is.
#[must_use]
pub fn layer_rules(config: &Config, defaults: Vec<PathRule>, report_local_files: bool) -> Rules {
    let files = &config.files;
    let mapping = files.mapping.iter().enumerate().map(|(index, (pattern, replacement))| PathRule {
        pattern: pattern.clone(),
        decision: PathDecision::Remote.into(),
        name: format!("feature.fs.mapping[{index}]"),
        read_only: true,
        replacement: replacement.clone(),
    });
    let lists = [
        ("not_found", &files.not_found, PathDecision::NotFound),
        ("read_write", &files.read_write, PathDecision::Remote),
        ("read_only", &files.read_only, PathDecision::Remote),
        ("local", &files.local, PathDecision::Local),
    ];
    let user = lists.into_iter().flat_map(|(key, patterns, decision)| {
        patterns.iter().enumerate().map(move |(index, pattern)| PathRule {
            pattern: pattern.clone(),
            decision: decision.into(),
            name: format!("feature.fs.{key}[{index}]"),
            read_only: decision == PathDecision::Remote,
            replacement: String::new(),
        })
    });
    let otherwise = if files.mode == FileMode::Read { PathDecision::Remote } else { PathDecision::Local };
    let names = if config.dns.remote { name_files() } else { Vec::new() };
    Rules {
        network: true,
        files: files.mode != FileMode::Local || config.dns.remote || files_have_patterns(config),
        paths: names.into_iter().chain(mapping).chain(user).chain(defaults).collect(),
        otherwise: otherwise.into(),
        unix_streams: config.outgoing.unix_streams.clone(),
        report_local_files,
        skip: config.skip_processes.clone(),
        ..Rules::default()
    }
}

/// When names are resolved in the target, the files that resolvers read come from there whatever the file mode is.
fn name_files() -> Vec<PathRule> {
    let pattern = "^/etc/(resolv\\.conf|hosts|hostname|nsswitch\\.conf)$".to_owned();
    vec![PathRule {
        pattern,
        decision: PathDecision::Remote.into(),
        name: "feature.network.dns".to_owned(),
        read_only: true,
        replacement: String::new(),
    }]
}

fn files_have_patterns(config: &Config) -> bool {
    let files = &config.files;
    [&files.read_only, &files.read_write, &files.local, &files.not_found].iter().any(|list| !list.is_empty())
        || !files.mapping.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_lists_come_in_mirrords_order_and_before_the_defaults() {
        let mut config = Config::default();
        config.files.local = vec!["^/a".into()];
        config.files.read_only = vec!["^/b".into()];
        config.files.not_found = vec!["^/c".into()];
        let defaults = vec![PathRule { name: "default".into(), ..PathRule::default() }];
        let rules = layer_rules(&config, defaults, false);
        let names: Vec<_> = rules.paths.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "feature.network.dns",
                "feature.fs.not_found[0]",
                "feature.fs.read_only[0]",
                "feature.fs.local[0]",
                "default"
            ]
        );
        assert_eq!(rules.otherwise, i32::from(PathDecision::Remote));
    }

    #[test]
    fn without_remote_names_and_files_no_path_is_trapped() {
        let mut config = Config::default();
        config.files.mode = FileMode::Local;
        config.dns.remote = false;
        assert!(!layer_rules(&config, Vec::new(), false).files);
    }
}
