//! Turns a file and flags into the effective configuration: defaults, then file, then flags.

mod target;

use std::path::{Path, PathBuf};

use regex::Regex;
use thiserror::Error;

use self::target::Named;
use super::{
    AddressRule, Config, FileMode, Mode, OutgoingFilter, PortSpec,
    file::{
        DnsSection, EnvSection, FileConfig, FilterSection, FsSection, IncomingSection, NetworkSection,
        OutgoingSection,
    },
    shapes::{List, Shorthand},
};
use crate::{
    attachment::Choice,
    cluster::ClusterConfig,
    cluster::agent_job::{AgentOptions, AgentOptionsError},
    target::{Target, TargetError},
};

/// What flags say; `None` and empty leave the file's value.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `-t`.
    pub target: Option<Target>,
    /// `--all-pods`.
    pub all_pods: bool,
    /// `--steal`, `--mirror`.
    pub mode: Option<Mode>,
    /// `-p REMOTE[:LOCAL]`.
    pub ports: Vec<(u16, u16)>,
    /// `--fs-mode`.
    pub file_mode: Option<FileMode>,
    /// `--no-outgoing`.
    pub no_outgoing: bool,
    /// `--no-remote-dns`.
    pub no_remote_dns: bool,
    /// `--no-env`.
    pub no_env: bool,
    /// `--no-publish`.
    pub no_publish: bool,
    /// `--layer`.
    pub layer: Option<Choice>,
    /// `--env K=V`.
    pub env: Vec<(String, String)>,
    /// `--kubeconfig`, `--context`, `--namespace`, `--accept-invalid-certificates`.
    pub cluster: ClusterConfig,
}

/// What a session is started with.
#[derive(Debug)]
pub struct Resolved {
    /// The target, if any was named.
    pub target: Option<Target>,
    /// All pods of it are meant.
    pub all_pods: bool,
    /// Cluster and namespace of a cluster target.
    pub cluster: ClusterConfig,
    /// How the agent is started in a cluster.
    pub agent: AgentOptions,
    /// The rest.
    pub config: Config,
    /// One sentence per key of the file that has no effect.
    pub warnings: Vec<String>,
}

/// Why values of a configuration do not fit together or mean nothing.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// A word stands where it means nothing.
    #[error("`{key}` is `{value}`: it must be {expected}")]
    Word {
        /// Key in the file.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The target is not one.
    #[error("`target` is wrong")]
    Target(#[from] TargetError),
    /// The settings of the agent mean nothing.
    #[error("`agent` is wrong")]
    Agent(#[from] AgentOptionsError),
    /// Two targets at once.
    #[error("`target.path` must name exactly one object")]
    TargetParts,
    /// The target cannot have several pods.
    #[error("all pods are wanted of a target on this machine: only a target in a cluster has several")]
    AllPods,
    /// An address rule is not one.
    #[error("`{key}` is wrong")]
    Address {
        /// Key in the file.
        key: &'static str,
        /// Why.
        source: super::AddressError,
    },
    /// A regular expression is not one.
    #[error("`{key}` has a bad regular expression `{pattern}`")]
    Pattern {
        /// Key in the file.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// Why.
        source: regex::Error,
    },
    /// Both lists of a filter are set.
    #[error("`{key}` has both `remote` and `local`: one of them decides, remove the other")]
    BothFilters {
        /// Key in the file.
        key: &'static str,
    },
    /// A port is 0 or stands twice.
    #[error("port {port} {reason}")]
    Port {
        /// The port.
        port: u16,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The env file is not readable.
    #[error("cannot read `feature.env.env_file` {path}")]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Merges defaults, `file` and `flags`. Relative paths in the file are relative to `base`.
///
/// # Errors
/// When a value means nothing; the message names the key.
pub fn resolve(file: FileConfig, flags: &Flags, base: &Path) -> Result<Resolved, ResolveError> {
    let mut warnings = Vec::new();
    file.without_effect("", &mut warnings);
    file.feature.without_effect("feature.", &mut warnings);
    file.agent.without_effect("agent.", &mut warnings);
    warnings.extend(file.agent.without_effect_on_ephemeral());
    let mut config = Config::default();
    if let Some(names) = file.skip_processes {
        config.skip_processes = names.0;
    }
    if let Some(layer) = &file.layer {
        config.layer = Choice::parse(layer).ok_or_else(|| word("layer", layer, Choice::WORDS))?;
    }
    config.layer = flags.layer.unwrap_or(config.layer);
    if file.skip_build_tools.unwrap_or(true) {
        config.skip_processes.extend(BUILD_TOOLS.iter().map(|name| (*name).to_owned()));
    }
    let Named { target, namespace, all_pods } = target::named(file.target, &mut warnings)?;
    let target = flags.target.clone().or(target);
    let all_pods = flags.all_pods || all_pods;
    if all_pods && target.as_ref().is_some_and(|target| !matches!(target, Target::Cluster { .. })) {
        return Err(ResolveError::AllPods);
    }
    let cluster = flags.cluster.clone().or(ClusterConfig {
        kubeconfig: file.kubeconfig.map(|path| from_home(&path).unwrap_or_else(|| base.join(path))),
        context: file.kube_context,
        namespace,
        accept_invalid_certificates: file.accept_invalid_certificates.unwrap_or(false),
    });
    env(&mut config, file.feature.env, base, &mut warnings)?;
    files(&mut config, file.feature.fs, &mut warnings)?;
    network(&mut config, file.feature.network, &mut warnings)?;
    config.hostname = file.feature.hostname.unwrap_or(true);
    apply_flags(&mut config, flags);
    check_ports(&config)?;
    Ok(Resolved {
        target,
        all_pods,
        cluster,
        agent: file.agent.try_into()?,
        config,
        warnings: warnings.into_iter().map(|key| format!("`{key}` has no effect in this version")).collect(),
    })
}

/// mirrord's list of programs that a build starts and that gain nothing from a session.
const BUILD_TOOLS: [&str; 19] = [
    "as",
    "cc",
    "ld",
    "go",
    "air",
    "asm",
    "cc1",
    "cgo",
    "dlv",
    "gcc",
    "git",
    "link",
    "math",
    "cargo",
    "hpack",
    "rustc",
    "compile",
    "collect2",
    "cargo-watch",
];

/// A path that begins with `~/`, from there.
fn from_home(path: &str) -> Option<PathBuf> {
    Some(std::env::home_dir()?.join(path.strip_prefix("~/")?))
}

fn env(
    config: &mut Config,
    written: Option<Shorthand<EnvSection>>,
    base: &Path,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let section = match written {
        None => return Ok(()),
        Some(Shorthand::Switch(on)) => {
            config.env.enabled = on;
            return Ok(());
        }
        Some(Shorthand::Word(value)) => return Err(word("feature.env", &value, "true, false or an object")),
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("feature.env.", warnings);
    config.env.include = list(section.include);
    config.env.exclude = list(section.exclude);
    config.env.unset = list(section.unset);
    if let Some(path) = section.env_file {
        let path = base.join(path);
        let text = std::fs::read_to_string(&path).map_err(|source| ResolveError::EnvFile { path, source })?;
        config.env.overrides.extend(env_lines(&text));
    }
    config.env.overrides.extend(section.overrides.unwrap_or_default());
    Ok(())
}

/// `NAME=VALUE` lines; `#` comments, `export` and one pair of quotes are left out.
fn env_lines(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let bare = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        Some((name.trim().to_owned(), bare.to_owned()))
    })
}

fn files(
    config: &mut Config,
    written: Option<Shorthand<FsSection>>,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let section = match written {
        None | Some(Shorthand::Switch(true)) => return Ok(()),
        Some(Shorthand::Switch(false)) => {
            config.files.mode = FileMode::Local;
            return Ok(());
        }
        Some(Shorthand::Word(mode)) => {
            config.files.mode = file_mode(&mode, warnings)?;
            return Ok(());
        }
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("feature.fs.", warnings);
    if let Some(mode) = &section.mode {
        config.files.mode = file_mode(mode, warnings)?;
    }
    config.files.read_only = patterns("feature.fs.read_only", section.read_only)?;
    config.files.read_write = patterns("feature.fs.read_write", section.read_write)?;
    if !config.files.read_write.is_empty() {
        warnings.push(
            "feature.fs.read_write: writing in the target (what it names is read there and written here)"
                .to_owned(),
        );
    }
    config.files.local = patterns("feature.fs.local", section.local)?;
    config.files.not_found = patterns("feature.fs.not_found", section.not_found)?;
    config.files.mapping = section.mapping.unwrap_or_default().into_iter().collect();
    patterns(
        "feature.fs.mapping",
        Some(List(config.files.mapping.iter().map(|(pattern, _)| pattern.clone()).collect())),
    )?;
    Ok(())
}

/// The word of `feature.fs` or `--fs-mode`.
///
/// # Errors
/// When it is none of the modes.
pub fn file_mode(mode: &str, warnings: &mut Vec<String>) -> Result<FileMode, ResolveError> {
    match mode {
        "local" => Ok(FileMode::Local),
        "localwithoverrides" => Ok(FileMode::LocalWithOverrides),
        "read" => Ok(FileMode::Read),
        "write" => {
            warnings.push("feature.fs: write (it acts as read)".to_owned());
            Ok(FileMode::Read)
        }
        other => Err(word("feature.fs", other, "read, local, localwithoverrides or write")),
    }
}

fn network(
    config: &mut Config,
    written: Option<Shorthand<NetworkSection>>,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let section = match written {
        None | Some(Shorthand::Switch(true)) => return Ok(()),
        Some(Shorthand::Switch(false)) => {
            config.incoming.mode = Mode::Off;
            config.outgoing.tcp = false;
            config.outgoing.udp = false;
            config.dns.remote = false;
            return Ok(());
        }
        Some(Shorthand::Word(value)) => {
            return Err(word("feature.network", &value, "true, false or an object"));
        }
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("feature.network.", warnings);
    incoming(config, section.incoming, warnings)?;
    outgoing(config, section.outgoing, warnings)?;
    dns(config, section.dns, warnings)
}

fn incoming(
    config: &mut Config,
    written: Option<Shorthand<IncomingSection>>,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let section = match written {
        None | Some(Shorthand::Switch(true)) => return Ok(()),
        Some(Shorthand::Switch(false)) => {
            config.incoming.mode = Mode::Off;
            return Ok(());
        }
        Some(Shorthand::Word(mode)) => {
            config.incoming.mode = incoming_mode(&mode)?;
            return Ok(());
        }
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("feature.network.incoming.", warnings);
    let target = &mut config.incoming;
    if let Some(mode) = &section.mode {
        target.mode = incoming_mode(mode)?;
    }
    target.port_mapping = section.port_mapping.unwrap_or_default().into_iter().collect();
    target.ignore_localhost = section.ignore_localhost.unwrap_or(false);
    target.ignore_ports = section.ignore_ports.unwrap_or_default();
    let local_of = |remote: u16| {
        target.port_mapping.iter().find(|(_, to)| **to == remote).map_or(remote, |(local, _)| *local)
    };
    target.ports = section
        .ports
        .unwrap_or_default()
        .into_iter()
        .map(|remote| PortSpec { remote, local: local_of(remote), mode: target.mode })
        .collect();
    Ok(())
}

fn incoming_mode(mode: &str) -> Result<Mode, ResolveError> {
    match mode {
        "mirror" => Ok(Mode::Mirror),
        "steal" => Ok(Mode::Steal),
        "off" => Ok(Mode::Off),
        other => Err(word("feature.network.incoming", other, "mirror, steal or off")),
    }
}

fn outgoing(
    config: &mut Config,
    written: Option<Shorthand<OutgoingSection>>,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    let section = match written {
        None | Some(Shorthand::Switch(true)) => return Ok(()),
        Some(Shorthand::Switch(false)) => {
            config.outgoing.tcp = false;
            config.outgoing.udp = false;
            return Ok(());
        }
        Some(Shorthand::Word(value)) => {
            return Err(word("feature.network.outgoing", &value, "true, false or an object"));
        }
        Some(Shorthand::Section(section)) => section,
    };
    section.without_effect("feature.network.outgoing.", warnings);
    config.outgoing.tcp = section.tcp.unwrap_or(true);
    config.outgoing.udp = section.udp.unwrap_or(true);
    config.outgoing.ignore_localhost = section.ignore_localhost.unwrap_or(false);
    config.outgoing.filter = filter("feature.network.outgoing.filter", section.filter)?;
    config.outgoing.unix_streams = patterns("feature.network.outgoing.unix_streams", section.unix_streams)?;
    Ok(())
}

fn dns(
    config: &mut Config,
    written: Option<Shorthand<DnsSection>>,
    warnings: &mut Vec<String>,
) -> Result<(), ResolveError> {
    match written {
        None => {}
        Some(Shorthand::Switch(on)) => config.dns.remote = on,
        Some(Shorthand::Word(value)) => {
            return Err(word("feature.network.dns", &value, "true, false or an object"));
        }
        Some(Shorthand::Section(section)) => {
            section.without_effect("feature.network.dns.", warnings);
            config.dns.remote = section.enabled.unwrap_or(true);
            config.dns.filter = filter("feature.network.dns.filter", section.filter)?;
        }
    }
    Ok(())
}

fn filter(key: &'static str, written: Option<FilterSection>) -> Result<OutgoingFilter, ResolveError> {
    let rules = |list: List<false>| {
        list.0
            .iter()
            .map(|text| text.parse::<AddressRule>().map_err(|source| ResolveError::Address { key, source }))
            .collect::<Result<Vec<_>, _>>()
    };
    match written.map(|section| (section.remote, section.local)) {
        None | Some((None, None)) => Ok(OutgoingFilter::All),
        Some((Some(remote), None)) => Ok(OutgoingFilter::Remote(rules(remote)?)),
        Some((None, Some(local))) => Ok(OutgoingFilter::Local(rules(local)?)),
        Some((Some(_), Some(_))) => Err(ResolveError::BothFilters { key }),
    }
}

fn apply_flags(config: &mut Config, flags: &Flags) {
    if let Some(mode) = flags.mode {
        config.incoming.mode = mode;
        config.incoming.ports.iter_mut().for_each(|port| port.mode = mode);
    }
    if !flags.ports.is_empty() {
        let mode = config.incoming.mode;
        config.incoming.ports =
            flags.ports.iter().map(|&(remote, local)| PortSpec { remote, local, mode }).collect();
    }
    if let Some(mode) = flags.file_mode {
        config.files.mode = mode;
    }
    if flags.no_outgoing {
        config.outgoing.tcp = false;
        config.outgoing.udp = false;
    }
    config.dns.remote &= !flags.no_remote_dns;
    config.env.enabled &= !flags.no_env;
    config.incoming.publish &= !flags.no_publish;
    config.env.overrides.extend(flags.env.iter().cloned());
}

fn check_ports(config: &Config) -> Result<(), ResolveError> {
    let mut seen = std::collections::HashSet::new();
    for port in &config.incoming.ports {
        if port.remote == 0 || port.local == 0 {
            return Err(ResolveError::Port {
                port: 0,
                reason: "cannot be subscribed: ports go from 1 to 65535",
            });
        }
        if !seen.insert(port.remote) {
            return Err(ResolveError::Port { port: port.remote, reason: "is named twice" });
        }
    }
    Ok(())
}

fn patterns(key: &'static str, list: Option<List<false>>) -> Result<Vec<String>, ResolveError> {
    let patterns = list.unwrap_or_default().0;
    for pattern in &patterns {
        Regex::new(pattern).map_err(|source| ResolveError::Pattern {
            key,
            pattern: pattern.clone(),
            source,
        })?;
    }
    Ok(patterns)
}

fn list(list: Option<List<true>>) -> Vec<String> {
    list.unwrap_or_default().0
}

fn word(key: &'static str, value: &str, expected: &'static str) -> ResolveError {
    ResolveError::Word { key, value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests;
