//! The agent's share of the doctor: pod directories with their volumes, logs below the root directory, the `kubepods` tree.
//!
//! In: the instance's settings; the pods that a running agent knows; the sandboxes' records. Out: findings, and their repair. A log
//! directory outside the root (`/var/log/pods`) is shared with whoever else runs pods here and is not looked at; groups of an
//! instance without a tag may be another kubelet's and are told of, not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pintle_core::ids::PodUid;
use pintle_cri_api::ext;
use pintle_runtime::Error;
use pintle_runtime::doctor::compare::IN_WORK;
use pintle_runtime::doctor::found::{FoundGroup, MountTable, changed, groups_below};
use pintle_runtime::doctor::{AgentPart, Expected, Finding, Kind, Remedy};
use pintle_runtime::engine::cgroups::Cgroups;
use pintle_runtime::engine::ids;
use pintle_runtime::engine::layout::join_cgroup;
use tonic::transport::Channel;

use crate::checkpoint;
use crate::config::Settings;
use crate::volumes::{self, PodDirs};

const CLASSES: [&str; 3] = ["kubepods", "kubepods/burstable", "kubepods/besteffort"];

/// What an agent has beside its engine.
#[derive(Debug)]
pub(super) struct PodPart {
    dirs: PodDirs,
    pods: PathBuf,
    /// Where logs are, if that is below the root directory.
    logs: Option<PathBuf>,
    cgroup_root: String,
    cgroups: Cgroups,
    agent: Option<Channel>,
}

/// The pods that something may be there for.
struct Known {
    uids: BTreeSet<String>,
    running: bool,
    now: SystemTime,
}

impl PodPart {
    pub(super) fn new(settings: &Settings, agent: Option<Channel>) -> anyhow::Result<Self> {
        Ok(Self {
            dirs: PodDirs::new(&settings.root),
            pods: settings.root.join("pods"),
            logs: Some(settings.pod_logs.clone()).filter(|logs| logs.starts_with(&settings.root)),
            cgroup_root: settings.cgroup_root.clone(),
            cgroups: Cgroups::discover()?,
            agent,
        })
    }

    /// What a running agent says it knows; `None` if none runs: the records it left count then.
    async fn known_to_agent(&self) -> Result<Option<BTreeSet<String>>, Error> {
        let Some(channel) = self.agent.clone() else { return Ok(None) };
        let request = ext::PodsRequest { namespace: String::new(), name: String::new() };
        let answer = match pintle_cri_api::ext_agent_client(channel).pods(request).await {
            // A runtime without an agent.
            Err(status) if status.code() == tonic::Code::Unimplemented => return Ok(None),
            Err(status) => {
                return Err(Error::FailedPrecondition(format!("the running agent: {}", status.message())));
            }
            Ok(answer) => answer.into_inner().json,
        };
        let list: serde_json::Value = serde_json::from_str(&answer)
            .map_err(|e| Error::Internal(format!("the running agent's answer: {e}")))?;
        let items = list["items"].as_array().into_iter().flatten();
        Ok(Some(items.filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect()))
    }

    fn directories(&self, known: &Known) -> Vec<Finding> {
        let left_over = self.dirs.left_over().into_iter().filter(|uid| !known.uids.contains(uid.as_str()));
        let old = left_over.map(|uid| self.dirs.pod(&uid)).filter(|dir| !known.in_work(dir));
        old.map(|dir| {
            Finding::surplus(
                Kind::Directory,
                dir.display().to_string(),
                "directory of a pod that nobody knows",
            )
            .ours("it is below the root directory")
            .step("the pod's worker removes it when the pod is over; so does the start of an agent")
            .since(changed(&dir))
            .remedy(Remedy::Agent(dir.clone()))
        })
        .collect()
    }

    fn mounts(&self, known: &Known, points: BTreeMap<PathBuf, usize>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for point in points.into_keys() {
            let Some(dir) = point.strip_prefix(&self.pods).ok().and_then(|below| below.iter().next()) else {
                continue;
            };
            let is_known = dir.to_str().is_some_and(|uid| known.uids.contains(uid));
            let dir = self.pods.join(dir);
            if is_known || known.in_work(&dir) {
                continue;
            }
            let what = "volume, or part of one, of a pod that nobody knows";
            findings.push(
                Finding::surplus(Kind::Mount, point.display().to_string(), what)
                    .ours("it is below the root directory")
                    .step("the pod's worker unmounts it when the pod is over")
                    .remedy(Remedy::Agent(dir)),
            );
        }
        findings
    }

    fn logs(&self, known: &Known) -> Vec<Finding> {
        let Some(logs) = &self.logs else { return Vec::new() };
        let entries = std::fs::read_dir(logs).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let unknown = names.filter(|name| {
            let uid = name.rsplit_once('_').map_or(name.as_str(), |(_, uid)| uid);
            !known.uids.contains(uid) && !known.in_work(&logs.join(name))
        });
        unknown
            .map(|name| {
                let dir = logs.join(name);
                Finding::surplus(
                    Kind::Directory,
                    dir.display().to_string(),
                    "logs of a pod that nobody knows",
                )
                .ours("it is below the root directory")
                .step("the pod's worker removes them with the pod")
                .since(changed(&dir))
                .remedy(Remedy::Agent(dir))
            })
            .collect()
    }

    fn groups(&self, known: &Known) -> Vec<Finding> {
        let all = CLASSES
            .iter()
            .flat_map(|class| groups_below(&self.cgroups, &join_cgroup(&self.cgroup_root, class)));
        all.filter_map(|group| self.surplus_group(group, known)).collect()
    }

    fn surplus_group(&self, group: FoundGroup, known: &Known) -> Option<Finding> {
        let uid = group.path.rsplit_once("/pod").map(|(_, uid)| uid.to_owned())?;
        let has_directory = self.dirs.pod(&PodUid::new(&uid)).is_dir();
        // Named by a sandbox's id: the engine's own, which looks at them itself.
        if known.uids.contains(&uid) || ids::is_id(&uid) || has_directory || known.is_young(group.since) {
            return None;
        }
        let (ours, remedy) = match self.cgroup_root.as_str() {
            "/" => ("it is in the kubepods tree, which a kubelet may share", {
                Remedy::None(
                    "it may be another kubelet's: starting the agent removes it if it is not".to_owned(),
                )
            }),
            _ => (
                "it is below the cgroup that carries this instance's tag",
                Remedy::RemoveGroup(group.path.clone()),
            ),
        };
        let what = format!(
            "group of a pod that nobody knows; in {} hierarchies, {} processes",
            group.hierarchies, group.processes
        );
        Some(
            Finding::surplus(Kind::Cgroup, group.path, what)
                .ours(ours)
                .step("the pod's worker removes it when the pod is over; so does the start of an agent")
                .since(group.since)
                .remedy(remedy),
        )
    }
}

impl Known {
    /// Whether a running agent may be at work on it: it makes the directory first and tells of the pod later.
    fn in_work(&self, path: &Path) -> bool {
        self.is_young(changed(path))
    }

    fn is_young(&self, since: Option<SystemTime>) -> bool {
        let young = |since| self.now.duration_since(since).unwrap_or_default() < IN_WORK;
        self.running && since.is_some_and(young)
    }
}

#[async_trait::async_trait]
impl AgentPart for PodPart {
    async fn look(
        &self,
        expected: &Expected,
        mounts: &MountTable,
        running: bool,
    ) -> Result<Vec<Finding>, Error> {
        let mut uids: BTreeSet<String> =
            expected.sandboxes.values().map(|record| record.config.uid.clone()).collect();
        match self.known_to_agent().await? {
            Some(pods) => uids.extend(pods),
            None => {
                let recorded = self.dirs.left_over().into_iter();
                let recorded = recorded.filter(|uid| checkpoint::load_pod(&self.dirs, uid).is_some());
                uids.extend(recorded.map(|uid| uid.to_string()));
            }
        }
        let known = Known { uids, running, now: SystemTime::now() };
        let mut findings = self.directories(&known);
        findings.extend(self.mounts(&known, mounts.below(&self.pods)));
        findings.extend(self.logs(&known));
        findings.extend(self.groups(&known));
        Ok(findings)
    }

    fn repair(&self, path: &Path) -> Result<(), Error> {
        let told = |e: volumes::VolumeError| Error::FailedPrecondition(crate::apply::chain(&e));
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name) {
            (Some(parent), Some(uid)) if parent == self.pods => {
                volumes::tear_down(&self.dirs, &PodUid::new(uid)).map_err(told)
            }
            (Some(parent), Some(_)) if Some(parent) == self.logs.as_deref() => {
                volumes::remove_dir(path).map_err(told)
            }
            _ => Err(Error::FailedPrecondition(format!("{} is no pod's directory", path.display()))),
        }
    }
}
