//! The launch form: what shall run, in the context of which target, and how. The equal command line is made from the same values.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use mirrord_session::cluster::ClusterConfig;

use super::edit::LineEdit;
use crate::ui::text;

/// Launches that are remembered.
const RECENT: usize = 20;

/// What is asked of the starter of sessions. Also what the list of recent launches keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LaunchRequest {
    pub(crate) target: String,
    /// Where the target is; `None` on this machine, or where the kubeconfig says.
    pub(crate) cluster: Option<ClusterConfig>,
    pub(crate) command: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) steal: bool,
    /// All pods of the target, and not the best one alone.
    pub(crate) all_pods: bool,
    /// Remote and local port; none: every port that the command listens on.
    pub(crate) ports: Vec<(u16, u16)>,
    pub(crate) files: Files,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) target_env: bool,
    pub(crate) outgoing: bool,
    pub(crate) remote_dns: bool,
    pub(crate) record: String,
    /// Columns and rows of the command's terminal.
    #[serde(skip)]
    pub(crate) terminal: (u16, u16),
}

/// Where files come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Files {
    #[default]
    ByRules,
    Read,
    Local,
    LocalWithOverrides,
}

impl Files {
    const ALL: [Self; 4] = [Self::ByRules, Self::Read, Self::Local, Self::LocalWithOverrides];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ByRules => "by the usual rules",
            Self::Read => "read from the target",
            Self::Local => "local",
            Self::LocalWithOverrides => "local but for what belongs to the target",
        }
    }

    const fn flag(self) -> Option<&'static str> {
        match self {
            Self::ByRules => None,
            Self::Read => Some("read"),
            Self::Local => Some("local"),
            Self::LocalWithOverrides => Some("localwithoverrides"),
        }
    }
}

/// A line of the form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Field {
    #[default]
    Command,
    Mode,
    Pods,
    Ports,
    Files,
    Env,
    TargetEnv,
    Outgoing,
    RemoteDns,
    Cwd,
    Record,
}

impl Field {
    const ALL: [Self; 11] = [
        Self::Command,
        Self::Mode,
        Self::Pods,
        Self::Ports,
        Self::Files,
        Self::Env,
        Self::TargetEnv,
        Self::Outgoing,
        Self::RemoteDns,
        Self::Cwd,
        Self::Record,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Mode => "traffic",
            Self::Pods => "pods",
            Self::Ports => "ports",
            Self::Files => "files",
            Self::Env => "variables",
            Self::TargetEnv => "target's env",
            Self::Outgoing => "connections",
            Self::RemoteDns => "lookups",
            Self::Cwd => "directory",
            Self::Record => "recording",
        }
    }

    /// What stands in an empty field.
    pub(crate) const fn empty(self) -> &'static str {
        match self {
            Self::Command => "node server.js",
            Self::Ports => "every port that the command listens on; or 80:8080 9090",
            Self::Env => "NAME=value NAME=value",
            Self::Record => "no file",
            _ => "",
        }
    }
}

/// The form.
#[derive(Debug, Default)]
pub(crate) struct LaunchForm {
    pub(crate) target: String,
    pub(crate) cluster: Option<ClusterConfig>,
    pub(crate) field: Field,
    pub(crate) command: LineEdit,
    pub(crate) ports: LineEdit,
    pub(crate) env: LineEdit,
    pub(crate) cwd: LineEdit,
    pub(crate) record: LineEdit,
    steal: bool,
    all_pods: bool,
    files: Files,
    no_target_env: bool,
    no_outgoing: bool,
    no_remote_dns: bool,
    /// What is wrong, and where.
    pub(crate) error: Option<(Field, String)>,
    /// The session is being started.
    pub(crate) starting: bool,
    recent: VecDeque<LaunchRequest>,
    recent_at: Option<usize>,
}

impl LaunchForm {
    /// Opens the form for a target; what was typed last stays.
    pub(crate) fn open(&mut self, target: &str, cluster: Option<ClusterConfig>, cwd: &str) {
        target.clone_into(&mut self.target);
        self.cluster = cluster;
        (self.field, self.error, self.starting) = (Field::Command, None, false);
        self.recent_at = None;
        if self.cwd.is_empty() {
            self.cwd.set(cwd);
        }
        let last = self
            .recent
            .iter()
            .find(|launch| launch.target == target && launch.cluster == self.cluster)
            .cloned();
        if let Some(last) = last {
            self.fill(&last);
        }
    }

    pub(crate) fn set_recent(&mut self, recent: Vec<LaunchRequest>) {
        self.recent = recent.into();
        self.recent.truncate(RECENT);
    }

    /// Puts a launch in front of the recent ones.
    pub(crate) fn remember(&mut self, launch: LaunchRequest) {
        self.recent.retain(|known| *known != launch);
        self.recent.push_front(launch);
        self.recent.truncate(RECENT);
    }

    pub(crate) fn recent(&self) -> impl Iterator<Item = &LaunchRequest> {
        self.recent.iter()
    }

    pub(crate) fn recent_at(&self) -> Option<usize> {
        self.recent_at
    }

    /// Fills the form with the next recent launch.
    pub(crate) fn next_recent(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        let at = self.recent_at.map_or(0, |at| (at + 1) % self.recent.len());
        self.recent_at = Some(at);
        if let Some(launch) = self.recent.get(at).cloned() {
            self.fill(&launch);
        }
    }

    fn fill(&mut self, launch: &LaunchRequest) {
        self.command.set(&text::shell(&launch.command));
        let ports: Vec<_> = launch.ports.iter().map(|(remote, local)| format!("{remote}:{local}")).collect();
        self.ports.set(&ports.join(" "));
        let env: Vec<_> =
            launch.env.iter().map(|(name, value)| text::shell_word(&format!("{name}={value}"))).collect();
        self.env.set(&env.join(" "));
        self.cwd.set(&launch.cwd);
        self.record.set(&launch.record);
        self.steal = launch.steal;
        self.all_pods = launch.all_pods;
        self.files = launch.files;
        self.no_target_env = !launch.target_env;
        self.no_outgoing = !launch.outgoing;
        self.no_remote_dns = !launch.remote_dns;
    }

    /// The text of the field that the keys go to; `None` for a choice.
    pub(crate) fn edit(&mut self) -> Option<&mut LineEdit> {
        match self.field {
            Field::Command => Some(&mut self.command),
            Field::Ports => Some(&mut self.ports),
            Field::Env => Some(&mut self.env),
            Field::Cwd => Some(&mut self.cwd),
            Field::Record => Some(&mut self.record),
            _ => None,
        }
    }

    pub(crate) fn text(&self, field: Field) -> Option<&LineEdit> {
        match field {
            Field::Command => Some(&self.command),
            Field::Ports => Some(&self.ports),
            Field::Env => Some(&self.env),
            Field::Cwd => Some(&self.cwd),
            Field::Record => Some(&self.record),
            _ => None,
        }
    }

    /// The choices of a field and which one is taken.
    pub(crate) fn choices(&self, field: Field) -> (Vec<&'static str>, usize) {
        let two = |first, second, at: bool| (vec![first, second], usize::from(at));
        match field {
            Field::Mode => {
                two("mirror: a copy, the target goes on", "steal: instead of the target", self.steal)
            }
            Field::Pods => two("the best one", "all that the target has", self.all_pods),
            Field::Files => {
                let at = Files::ALL.iter().position(|files| *files == self.files).unwrap_or(0);
                (Files::ALL.iter().map(|files| files.name()).collect(), at)
            }
            Field::TargetEnv => two("merged into this machine's", "left out", self.no_target_env),
            Field::Outgoing => two("leave from the target", "leave from this machine", self.no_outgoing),
            Field::RemoteDns => two("answered by the target", "answered by this machine", self.no_remote_dns),
            _ => (Vec::new(), 0),
        }
    }

    /// Takes the next choice of the field.
    pub(crate) fn choose(&mut self, forward: bool) {
        match self.field {
            Field::Mode => self.steal = !self.steal,
            Field::Pods => self.all_pods = !self.all_pods,
            Field::Files => {
                let (choices, at) = self.choices(Field::Files);
                let step = if forward { 1 } else { choices.len() - 1 };
                self.files = Files::ALL.get((at + step) % choices.len()).copied().unwrap_or_default();
            }
            Field::TargetEnv => self.no_target_env = !self.no_target_env,
            Field::Outgoing => self.no_outgoing = !self.no_outgoing,
            Field::RemoteDns => self.no_remote_dns = !self.no_remote_dns,
            _ => {}
        }
    }

    /// The fields that the target has, in order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> {
        let several = self.may_have_several_pods();
        Field::ALL.into_iter().filter(move |field| several || *field != Field::Pods)
    }

    fn may_have_several_pods(&self) -> bool {
        self.cluster.is_some() && !self.target.starts_with("pod/")
    }

    /// To the next or previous field.
    pub(crate) fn step(&mut self, forward: bool) {
        let fields: Vec<_> = self.fields().collect();
        let at = fields.iter().position(|field| *field == self.field).unwrap_or(0);
        let step = if forward { 1 } else { fields.len() - 1 };
        self.field = fields.get((at + step) % fields.len()).copied().unwrap_or_default();
    }

    /// What the form asks for, or the first field that is wrong and why.
    pub(crate) fn request(&self) -> Result<LaunchRequest, (Field, String)> {
        let words = |field, edit: &LineEdit| {
            text::split_words(&edit.text()).ok_or_else(|| (field, "a quote is not closed".to_owned()))
        };
        let command = words(Field::Command, &self.command)?;
        if command.is_empty() {
            return Err((Field::Command, "what shall run?".to_owned()));
        }
        let separated = self.ports.text().replace(',', " ");
        let ports: Result<Vec<_>, _> = separated.split_whitespace().map(port_pair).collect();
        let env: Result<Vec<_>, _> = words(Field::Env, &self.env)?
            .into_iter()
            .map(|word| match word.split_once('=') {
                Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
                _ => Err((Field::Env, format!("`{word}` is not NAME=value"))),
            })
            .collect();
        Ok(LaunchRequest {
            target: self.target.clone(),
            cluster: self.cluster.clone(),
            command,
            cwd: self.cwd.text().trim().to_owned(),
            steal: self.steal,
            all_pods: self.all_pods && self.may_have_several_pods(),
            ports: ports?,
            files: self.files,
            env: env?,
            target_env: !self.no_target_env,
            outgoing: !self.no_outgoing,
            remote_dns: !self.no_remote_dns,
            record: self.record.text().trim().to_owned(),
            terminal: (0, 0),
        })
    }
}

impl LaunchRequest {
    /// The command line that does the same.
    pub(crate) fn equal_command(&self) -> String {
        let mut words =
            vec!["mirrord-tui".to_owned(), "exec".to_owned(), "-t".to_owned(), self.target.clone()];
        words.extend(self.cluster.iter().flat_map(cluster_flags));
        let on = [(self.steal, "--steal"), (self.all_pods, "--all-pods")];
        words.extend(on.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
        for (remote, local) in &self.ports {
            words.push("-p".to_owned());
            words.push(if remote == local { remote.to_string() } else { format!("{remote}:{local}") });
        }
        if let Some(flag) = self.files.flag() {
            words.extend(["--fs-mode".to_owned(), flag.to_owned()]);
        }
        for (name, value) in &self.env {
            words.extend(["-e".to_owned(), format!("{name}={value}")]);
        }
        let off = [
            (self.target_env, "--no-env"),
            (self.outgoing, "--no-outgoing"),
            (self.remote_dns, "--no-remote-dns"),
        ];
        words.extend(off.iter().filter(|(on, _)| !on).map(|(_, flag)| (*flag).to_owned()));
        if !self.record.is_empty() {
            words.extend(["--record".to_owned(), self.record.clone()]);
        }
        words.push("--".to_owned());
        words.extend(self.command.iter().cloned());
        text::shell(&words)
    }
}

fn cluster_flags(cluster: &ClusterConfig) -> Vec<String> {
    let kubeconfig = cluster.kubeconfig.as_ref().map(|path| path.to_string_lossy().into_owned());
    let valued = [("--kubeconfig", &kubeconfig), ("--context", &cluster.context), ("-n", &cluster.namespace)];
    let valued = valued.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value.clone()?]));
    let unchecked = cluster.accept_invalid_certificates.then(|| "--accept-invalid-certificates".to_owned());
    valued.flatten().chain(unchecked).collect()
}

fn port_pair(text: &str) -> Result<(u16, u16), (Field, String)> {
    let (remote, local) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (port(remote), port(local)) {
        (Some(remote), Some(local)) => Ok((remote, local)),
        _ => Err((Field::Ports, format!("`{text}` is not REMOTE or REMOTE:LOCAL"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_becomes_a_command_line() {
        let mut form = LaunchForm::default();
        form.open("local/shop", None, "/src");
        assert_eq!(form.request().unwrap_err().0, Field::Command);
        form.command.set("node 'my server.js'");
        form.ports.set("80:8080, 9090");
        form.env.set("A=1 'B=x y'");
        form.field = Field::Mode;
        form.choose(true);
        form.field = Field::Files;
        form.choose(false);
        form.field = Field::RemoteDns;
        form.choose(true);
        let request = form.request().unwrap();
        let line = request.equal_command();
        let expected = "mirrord-tui exec -t local/shop --steal -p 80:8080 -p 9090 --fs-mode localwithoverrides -e A=1 -e 'B=x y' \
                        --no-remote-dns -- node 'my server.js'";
        assert_eq!(line, expected);
        let there = ClusterConfig {
            context: Some("dev".to_owned()),
            namespace: Some("shop".to_owned()),
            ..ClusterConfig::default()
        };
        let there = LaunchRequest { cluster: Some(there), ..request.clone() }.equal_command();
        assert!(there.starts_with("mirrord-tui exec -t local/shop --context dev -n shop --steal"), "{there}");
        form.remember(request.clone());
        form.command.set("");
        form.next_recent();
        assert_eq!(form.request().unwrap(), request);
    }

    #[test]
    fn only_what_may_have_several_pods_asks_for_all() {
        let mut form = LaunchForm::default();
        form.command.set("a");
        for (target, cluster, asks) in [
            ("local/shop", None, false),
            ("pod/api-0", Some(ClusterConfig::default()), false),
            ("deployment/api", Some(ClusterConfig::default()), true),
        ] {
            form.open(target, cluster, "/src");
            assert_eq!(form.fields().any(|field| field == Field::Pods), asks, "{target}");
            form.all_pods = true;
            let request = form.request().unwrap();
            assert_eq!(request.all_pods, asks, "{target}");
            assert_eq!(request.equal_command().contains("--all-pods"), asks, "{target}");
        }
        form.field = Field::Mode;
        form.step(true);
        assert_eq!(form.field, Field::Pods);
        form.step(true);
        assert_eq!(form.field, Field::Ports);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let mut form = LaunchForm::default();
        form.command.set("a");
        for (field, text) in
            [(Field::Ports, "80:x"), (Field::Ports, "0"), (Field::Env, "A"), (Field::Command, "'a")]
        {
            form.field = field;
            let before = form.text(field).unwrap().text();
            form.edit().unwrap().set(text);
            assert_eq!(form.request().unwrap_err().0, field, "{text}");
            form.edit().unwrap().set(&before);
        }
    }
}
