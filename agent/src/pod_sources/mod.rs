//! Where pods come from: the manifest directory, parsed and merged into the set of wanted pods.
//!
//! In: snapshots of the directory from [`file`], pods that an earlier agent recorded. Out: [`Wanted`] on a watch channel.
//! What a manifest means and who holds a pod's name is `pintle_core`'s; this module remembers what it parsed and logs what
//! is wrong once.

mod directory;
pub(crate) mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pintle_core::manifest::NodeInfo;
use pintle_core::model::DesiredPod;
use pintle_core::pod_sources::{Change, Content, PodSources};
use tokio::sync::watch;
use tracing::{error, info};

use crate::pod_workers::Wanted;
use crate::{checkpoint, clock};
use file::{Complete, Snapshot};

/// Turns snapshots of the manifest directory into wanted pods.
#[derive(Debug)]
pub(crate) struct Merger {
    node: NodeInfo,
    sources: PodSources,
    /// What was parsed last of each file, and what it was.
    parsed: BTreeMap<PathBuf, Parsed>,
    /// What was logged as wrong and still is.
    told: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Parsed {
    bytes: Option<Arc<[u8]>>,
    content: Content,
}

impl Merger {
    /// Begins with the pods that an earlier agent ran, as if their manifests had just said so: a manifest that broke
    /// meanwhile keeps its last good pod, one that is gone does not.
    pub(crate) fn new(node: NodeInfo, recorded: Vec<DesiredPod>) -> Self {
        let mut by_file: BTreeMap<PathBuf, Vec<DesiredPod>> = BTreeMap::new();
        for pod in recorded {
            by_file.entry(checkpoint::source_file(&pod)).or_default().push(pod);
        }
        let mut sources = PodSources::new();
        sources.apply(by_file.into_iter().map(|(path, pods)| Change::Seen(path, Content::Pods(pods))));
        Self { node, sources, parsed: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// What is wanted according to this snapshot and all before it.
    pub(crate) fn merge(&mut self, snapshot: &Snapshot) -> Wanted {
        let mut directory = BTreeMap::new();
        for (path, bytes) in &snapshot.files {
            directory.insert(path.clone(), self.content(path, bytes));
        }
        for (path, reason) in &snapshot.unreadable {
            directory.insert(path.clone(), Content::Unreadable(reason.clone()));
        }
        self.parsed.retain(|path, _| directory.contains_key(path));
        self.sources.apply_directory(directory);
        let wanted = self.sources.wanted();
        self.tell(&wanted.errors.iter().map(ToString::to_string).collect());
        Wanted { pods: wanted.pods.into_values().collect(), errors: wanted.errors }
    }

    /// Follows the directory for ever.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        wanted: watch::Sender<Wanted>,
    ) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            wanted.send_replace(self.merge(&snapshot));
        }
        error!("the thread that watches the manifest directory has ended");
    }

    /// A file is parsed once per content.
    fn content(&mut self, path: &Path, bytes: &Arc<[u8]>) -> Content {
        if let Some(known) = self.parsed.get(path).filter(|known| known.bytes.as_ref() == Some(bytes)) {
            return known.content.clone();
        }
        let content = Content::read(path, bytes, &self.node, clock::now());
        if let Content::Pods(pods) = &content {
            info!(file = %path.display(), pods = pods.len(), "manifest accepted");
        }
        let parsed = Parsed { bytes: Some(Arc::clone(bytes)), content: content.clone() };
        self.parsed.insert(path.to_owned(), parsed);
        content
    }

    fn tell(&mut self, wrong: &BTreeSet<String>) {
        for text in wrong.difference(&self.told) {
            error!("manifest: {text}");
        }
        for text in self.told.difference(wrong) {
            info!("manifest: no longer: {text}");
        }
        self.told.clone_from(wrong);
    }
}

/// Tells whether a file's bytes are a manifest that could be run.
pub(crate) fn is_complete(node: NodeInfo) -> Complete {
    Box::new(move |bytes| {
        matches!(Content::read(Path::new(""), bytes, &node, clock::now()), Content::Pods(_))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: a, image: demo}\n";

    fn merger(recorded: Vec<DesiredPod>) -> Merger {
        Merger::new(NodeInfo { name: "n1".into() }, recorded)
    }

    fn snapshot(files: &[(&str, &str)]) -> Snapshot {
        let file = |(name, text): &(&str, &str)| (PathBuf::from(name), Arc::from(text.as_bytes()));
        Snapshot { files: files.iter().map(file).collect(), ..Snapshot::default() }
    }

    fn names(wanted: &Wanted) -> Vec<&str> {
        wanted.pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn a_manifest_that_broke_while_the_agent_was_away_keeps_its_last_good_pod() {
        let before = merger(vec![]).merge(&snapshot(&[("/m/web.yaml", POD)]));
        let recorded: Vec<DesiredPod> = before.pods.iter().map(|pod| (**pod).clone()).collect();
        let mut after = merger(recorded.clone());
        let wanted = after.merge(&snapshot(&[("/m/web.yaml", "apiVersion: v1\nkind: Pod\nspec: [")]));
        assert_eq!(names(&wanted), ["web-n1"]);
        assert!(wanted.errors[0].to_string().starts_with("/m/web.yaml:3"), "{}", wanted.errors[0]);
        let wanted = merger(recorded).merge(&snapshot(&[]));
        assert!(wanted.pods.is_empty() && wanted.errors.is_empty());
    }

    #[test]
    fn an_unchanged_manifest_stays_the_same_object_over_a_restart() {
        let before = merger(vec![]).merge(&snapshot(&[("/m/web.yaml", POD)]));
        let recorded: Vec<DesiredPod> = before.pods.iter().map(|pod| (**pod).clone()).collect();
        let after = merger(recorded).merge(&snapshot(&[("/m/web.yaml", POD)]));
        assert_eq!(before.pods, after.pods);
    }

    #[test]
    fn what_is_wrong_is_told_until_it_is_not() {
        let mut merger = merger(vec![]);
        merger.merge(&snapshot(&[("/m/web.yaml", "kind: [")]));
        assert_eq!(merger.told.len(), 1);
        merger.merge(&snapshot(&[("/m/web.yaml", POD)]));
        assert!(merger.told.is_empty());
    }
}
