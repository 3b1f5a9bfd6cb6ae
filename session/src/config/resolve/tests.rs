use super::*;

fn resolved(json: &str) -> Result<Resolved, ResolveError> {
    resolve(serde_json::from_str(json).unwrap(), &Flags::default(), Path::new("/"))
}

#[test]
fn an_empty_file_is_the_default() {
    let resolved = resolved("{}").unwrap();
    let config = Config {
        skip_processes: BUILD_TOOLS.iter().map(|name| (*name).to_owned()).collect(),
        ..Config::default()
    };
    assert_eq!(resolved.config, config);
    assert!(resolved.warnings.is_empty() && resolved.target.is_none());
}

#[test]
fn a_file_of_mirrord_works_and_what_has_no_effect_is_named() {
    let text = r#"{
        "target": { "path": "deployment/api/container/web", "namespace": "shop" },
        "operator": false, "telemetry": false,
        "agent": { "ephemeral": false, "flush_connections": false },
        "feature": {
            "env": { "include": "A;B_*", "override": { "X": "1" } },
            "fs": { "mode": "localwithoverrides", "read_only": ".+\\.yaml", "local": ["^/a;b"] },
            "network": {
                "incoming": { "mode": "steal", "port_mapping": [[8080, 80]], "ports": [80], "http_filter": { "header_filter": "x" } },
                "outgoing": { "udp": false, "filter": { "local": ["tcp://1.1.1.0/24:1337", "google.com"] }, "unix_streams": "^/run/x" },
                "dns": false
            }
        }
    }"#;
    let resolved = resolved(text).unwrap();
    assert_eq!(resolved.target.unwrap().to_string(), "deployment/api/container/web");
    assert_eq!(resolved.cluster.namespace.as_deref(), Some("shop"));
    let config = resolved.config;
    assert_eq!(config.incoming.ports, [PortSpec { remote: 80, local: 8080, mode: Mode::Steal }]);
    assert_eq!(config.env.include, ["A", "B_*"]);
    assert_eq!(config.files.local, ["^/a;b"]);
    assert_eq!(config.files.mode, FileMode::LocalWithOverrides);
    assert!(config.outgoing.tcp && !config.outgoing.udp && !config.dns.remote);
    assert!(matches!(&config.outgoing.filter, OutgoingFilter::Local(rules) if rules.len() == 2));
    let named = resolved.warnings.join(" ");
    for key in
        ["`operator`", "`telemetry`", "`agent.flush_connections`", "`feature.network.incoming.http_filter`"]
    {
        assert!(named.contains(key), "{named}");
    }
}

#[test]
fn an_ephemeral_container_needs_an_image() {
    assert!(resolved(r#"{"agent": {"ephemeral": true}}"#).is_err());
    let resolved = resolved(r#"{"agent": {"ephemeral": true, "image": "x:1", "resources": {}}}"#).unwrap();
    assert!(resolved.agent.ephemeral && resolved.warnings[0].contains("`agent.resources"), "{resolved:?}");
}

#[test]
fn what_would_write_in_the_target_is_said_to_stay_here() {
    for text in [
        r#"{"feature": {"fs": "write"}}"#,
        r#"{"feature": {"fs": {"mode": "write"}}}"#,
        r#"{"feature": {"fs": {"read_write": "^/data"}}}"#,
    ] {
        let resolved = resolved(text).unwrap();
        assert_eq!(resolved.config.files.mode, FileMode::Read, "{text}");
        assert_eq!(resolved.warnings.len(), 1, "{:?}", resolved.warnings);
        assert!(resolved.warnings[0].contains("feature.fs"), "{:?}", resolved.warnings);
    }
}

#[test]
fn the_host_name_is_the_targets_unless_said_otherwise() {
    for (text, expected) in [
        (r#"{}"#, true),
        (r#"{"feature": {"hostname": true}}"#, true),
        (r#"{"feature": {"hostname": false}}"#, false),
    ] {
        let resolved = resolved(text).unwrap();
        assert_eq!((resolved.config.hostname, resolved.warnings.len()), (expected, 0), "{text}");
    }
}

#[test]
fn values_that_mean_nothing_name_their_key() {
    for (text, key) in [
        (r#"{"target": "shop"}"#, "target"),
        (r#"{"target": {"path": {"pod": "a", "job": "b"}}}"#, "target.path"),
        (r#"{"feature": {"fs": "rw"}}"#, "feature.fs"),
        (r#"{"feature": {"fs": {"local": ["("]}}}"#, "feature.fs.local"),
        (r#"{"feature": {"network": {"incoming": "take"}}}"#, "feature.network.incoming"),
        (
            r#"{"feature": {"network": {"outgoing": {"filter": {"local": ["a:b"]}}}}}"#,
            "feature.network.outgoing.filter",
        ),
        (
            r#"{"feature": {"network": {"dns": {"filter": {"local": "a", "remote": "b"}}}}}"#,
            "feature.network.dns.filter",
        ),
        (r#"{"feature": {"network": {"incoming": {"ports": [80, 80]}}}}"#, "port 80"),
    ] {
        let error = resolved(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = serde_json::from_str(
        r#"{"target": "pod/a", "feature": {"network": {"incoming": {"mode": "steal", "ports": [80]}}}}"#,
    )
    .unwrap();
    let flags = Flags {
        target: Some(Target::Local("shop".into())),
        mode: Some(Mode::Mirror),
        ports: vec![(90, 9090)],
        no_outgoing: true,
        ..Flags::default()
    };
    let resolved = resolve(file, &flags, Path::new("/")).unwrap();
    assert_eq!(resolved.target, Some(Target::Local("shop".into())));
    assert_eq!(resolved.config.incoming.ports, [PortSpec { remote: 90, local: 9090, mode: Mode::Mirror }]);
    assert!(!resolved.config.outgoing.tcp);
}

#[test]
fn env_files_are_read_as_shells_write_them() {
    let lines: Vec<_> = env_lines("# c\nexport A=1\nB = \"two words\"\n\nnonsense\nC='x'").collect();
    let expected =
        [("A", "1"), ("B", "two words"), ("C", "x")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(lines, expected);
}

#[test]
fn all_pods_are_those_of_a_cluster() {
    let all = r#"{ "target": { "path": "deployment/api", "all_pods": true } }"#;
    assert!(resolved(all).unwrap().all_pods);
    assert!(!resolved(r#"{ "target": "deployment/api" }"#).unwrap().all_pods);
    let flags = Flags { all_pods: true, target: Some("local/shop".parse().unwrap()), ..Flags::default() };
    let local = resolve(serde_json::from_str("{}").unwrap(), &flags, Path::new("/"));
    assert!(matches!(local, Err(ResolveError::AllPods)));
}

/// What `assets/mirrord.toml` says of the defaults is true, and its examples work.
#[test]
fn the_sample_file_is_right() {
    let text = include_str!("../../../../assets/mirrord.toml");
    let read =
        |text: &str| resolve(toml::from_str(text).unwrap(), &Flags::default(), Path::new("/")).unwrap();
    let (sample, empty) = (read(text), read(""));
    assert_eq!((sample.config, sample.agent, sample.cluster), (empty.config, empty.agent, empty.cluster));
    let example = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let examples = read(&text.lines().map(example).collect::<String>());
    assert_eq!(examples.warnings, Vec::<String>::new());
    assert_eq!(examples.target.unwrap().to_string(), "deployment/api");
    assert_eq!(examples.config.files.local, ["[.]pem$"]);
}

#[test]
fn the_schema_in_assets_is_that_of_the_file() {
    let schema = crate::config::shapes::schema_of::<FileConfig>();
    let stored: serde_json::Value =
        serde_json::from_str(include_str!("../../../../assets/schema.json")).unwrap();
    assert_eq!(stored, schema, "renew it: mirrord-tui schema > assets/schema.json");
}
