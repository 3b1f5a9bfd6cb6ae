//! The shape of a configuration file: mirrord's keys, as they are written in json, toml or yaml.
//!
//! Only the shape lives here; what the values mean is in `resolve.rs`. Keys of mirrord that this program does not have are
//! known by name, so that an existing file works and the user is told what has no effect.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::{List, Shorthand, Unsupported};

/// Declares a section: its keys, and the keys of mirrord that are understood but have no effect here.
macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $kind:ty,)*
        }
        $(without effect { $($other:ident),* $(,)? })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
            $($(#[schemars(skip)] $other: Unsupported,)*)?
        }

        $(impl $name {
            /// Keys in the file that have no effect, with `path` in front.
            pub(super) fn without_effect(&self, path: &str, found: &mut Vec<String>) {
                $(if self.$other.present {
                    found.push(format!("{path}{}", stringify!($other)));
                })*
            }
        })?
    };
}

section! {
    /// A configuration file.
    FileConfig {
        /// Where an editor finds the schema of this file.
        #[serde(rename = "$schema")] schema: Option<String>,
        /// What is impersonated: `KIND/NAME[/container/NAME]`, or an object with `path` and `namespace`.
        target: Option<Shorthand<TargetSection>>,
        /// What is taken from the target.
        feature: FeatureSection,
        /// How the agent is started in a cluster.
        agent: AgentSection,
        /// Programs that are started outside the session, by file name: a list, or one text with `;` between the names.
        skip_processes: Option<List<true>>,
        /// Compilers and linkers are started outside the session.
        skip_build_tools: Option<bool>,
        /// How the layer is attached to the command: `auto`, `syscall` or `libc`.
        layer: Option<String>,
        /// Kubeconfig file.
        kubeconfig: Option<String>,
        /// Context in the kubeconfig.
        kube_context: Option<String>,
        /// The API server's certificate is not checked.
        accept_invalid_certificates: Option<bool>,
    }
    without effect {
        connect_tcp, operator, sip_binaries, sip_log_destination, telemetry, internal_proxy, external_proxy, use_proxy, experimental, baggage,
        ci, api, key, profile, container, startup_retry, traceparent, logs, magic, up
    }
}

section! {
    /// The target as an object.
    TargetSection {
        /// `KIND/NAME[/container/NAME]`.
        path: Option<Shorthand<TargetParts>>,
        /// Namespace of the target.
        namespace: Option<String>,
        /// All pods of the target, and not one: each gets an agent, and the traffic of all comes here.
        all_pods: Option<bool>,
    }
    without effect { labels, clusters }
}

section! {
    /// The parts of a target path, one by one.
    TargetParts {
        /// Name of a pod.
        pod: Option<String>,
        /// Name of a deployment.
        deployment: Option<String>,
        /// Name of an Argo rollout.
        rollout: Option<String>,
        /// Name of a stateful set.
        stateful_set: Option<String>,
        /// Name of a job.
        job: Option<String>,
        /// Name of a cron job.
        cron_job: Option<String>,
        /// Name of a service.
        service: Option<String>,
        /// Name of a replica set.
        replica_set: Option<String>,
        /// Container in it.
        container: Option<String>,
    }
}

section! {
    /// What is taken from the target.
    FeatureSection {
        /// Environment: on or off, or the rules.
        env: Option<Shorthand<EnvSection>>,
        /// Files: `read`, `local`, `localwithoverrides`, on or off, or the rules.
        fs: Option<Shorthand<FsSection>>,
        /// Network: on or off, or the rules.
        network: Option<Shorthand<NetworkSection>>,
        /// The command sees the target's host name; on when left out.
        hostname: Option<bool>,
    }
    without effect { copy_target, split_queues, db_branches, preview, magic }
}

section! {
    /// Environment of the command.
    EnvSection {
        /// Only these variables, `*` and `?` match: a list, or one text with `;` between the names.
        include: Option<List<true>>,
        /// Never these variables.
        exclude: Option<List<true>>,
        /// Variables that are set last.
        #[serde(rename = "override")] overrides: Option<BTreeMap<String, String>>,
        /// Variables that are removed at the very end.
        unset: Option<List<true>>,
        /// File with `NAME=VALUE` lines; its variables count as overrides that `override` may replace.
        env_file: Option<String>,
    }
    without effect { load_from_process, mapping }
}

section! {
    /// Files: regular expressions on absolute paths, case does not matter.
    FsSection {
        /// What holds when no pattern matches: `read`, `local`, `localwithoverrides`; `write` acts as `read`.
        mode: Option<String>,
        /// Read from the target, written here.
        read_only: Option<List<false>>,
        /// Read and written in the target; written here as long as remote writes are not built.
        read_write: Option<List<false>>,
        /// Local.
        local: Option<List<false>>,
        /// Do not exist for the command.
        not_found: Option<List<false>>,
        /// Pattern -> replacement, applied before anything else.
        mapping: Option<BTreeMap<String, String>>,
    }
    without effect { readonly_file_buffer }
}

section! {
    /// Network.
    NetworkSection {
        /// Incoming traffic: `mirror`, `steal`, `off`, or the rules.
        incoming: Option<Shorthand<IncomingSection>>,
        /// Outgoing traffic: on or off, or the rules.
        outgoing: Option<Shorthand<OutgoingSection>>,
        /// DNS: on or off, or the rules.
        dns: Option<Shorthand<DnsSection>>,
    }
    without effect { ipv6 }
}

section! {
    /// Incoming traffic.
    IncomingSection {
        /// `mirror`, `steal` or `off`.
        mode: Option<String>,
        /// Pairs of local port and port of the target.
        port_mapping: Option<Vec<(u16, u16)>>,
        /// Listeners on loopback addresses are not subscribed.
        ignore_localhost: Option<bool>,
        /// Ports that are never subscribed by listening on them.
        ignore_ports: Option<Vec<u16>>,
        /// Only these ports of the target are subscribed.
        ports: Option<Vec<u16>>,
    }
    without effect { http_filter, listen_ports, on_concurrent_steal, https_delivery, tls_delivery, http_header_filter }
}

section! {
    /// Outgoing traffic.
    OutgoingSection {
        /// TCP leaves from the target.
        tcp: Option<bool>,
        /// UDP leaves from the target.
        udp: Option<bool>,
        /// 127.0.0.0/8 and ::1 mean this machine's loopback and not the target's.
        ignore_localhost: Option<bool>,
        /// Exceptions by address: `{"remote": [...]}` or `{"local": [...]}`.
        filter: Option<FilterSection>,
        /// Regular expressions of unix sockets that are dialled from the target.
        unix_streams: Option<List<false>>,
    }
    without effect { chaos }
}

section! {
    /// DNS.
    DnsSection {
        /// Names are resolved by the target's name servers.
        enabled: Option<bool>,
        /// Exceptions by name.
        filter: Option<FilterSection>,
    }
    without effect { fetch_method }
}

section! {
    /// Exceptions: one of the two lists, each entry `[tcp://|udp://]HOST[:PORT]`.
    FilterSection {
        /// Only these are remote.
        remote: Option<List<false>>,
        /// These are local, all others remote.
        local: Option<List<false>>,
    }
}

section! {
    /// How the agent is started in a cluster.
    AgentSection {
        /// Image of the agent; without it the agent needs none.
        image: Option<serde_json::Value>,
        /// Namespace of the agent.
        namespace: Option<String>,
        /// When the agent's image is pulled.
        image_pull_policy: Option<String>,
        /// Secrets for pulling the agent's image.
        image_pull_secrets: Option<serde_json::Value>,
        /// Seconds that a finished agent stays.
        ttl: Option<u32>,
        /// The agent is an ephemeral container of the target.
        ephemeral: Option<bool>,
        /// Seconds without a client after which the agent ends.
        communication_timeout: Option<u32>,
        /// Seconds that the agent may take to start.
        startup_timeout: Option<u32>,
        /// Tolerations of the agent's pod.
        tolerations: Option<serde_json::Value>,
        /// Resources of the agent's container.
        resources: Option<serde_json::Value>,
        /// Labels of the agent's pod.
        labels: Option<BTreeMap<String, String>>,
        /// Annotations of the agent's pod.
        annotations: Option<BTreeMap<String, String>>,
        /// Service account of the agent's pod.
        service_account: Option<String>,
        /// Priority class of the agent's pod.
        priority_class: Option<String>,
        /// Capabilities that the agent does without.
        disabled_capabilities: Option<Vec<String>>,
    }
    without effect {
        log_level, json_log, network_interface, flush_connections, check_out_of_pods, dns, metrics, nftables, privileged, security_context,
        node_selector, clean_iptables_on_start, disable_mesh_sidecar_injection, exclude_from_mesh, inject_headers, max_body_buffer_size,
        max_body_buffer_timeout, http_detection_timeout, passthrough_mirroring, idle_ttl, service_mesh, pod_ips, external_ip_fix
    }
}
