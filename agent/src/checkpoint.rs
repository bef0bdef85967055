//! The record of a pod that was admitted, for the next agent.
//!
//! In: the pod as wanted, or the deadline it must be gone by. Out: `pod.json` and `deadline.json` in the pod's directory,
//! written atomically and carrying a version. With the first a file that breaks while the agent is away keeps its last
//! good pod; with the second a grace period does not start anew. A record that cannot be read counts as absent.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use pintle_core::ids::PodUid;
use pintle_core::model::DesiredPod;
use pintle_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::volumes::PodDirs;

const VERSION: u32 = 1;
const POD: &str = "pod.json";
const DEADLINE: &str = "deadline.json";
/// The most bytes of a record that are read.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

/// A record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {}: {source}", path.display())]
pub(crate) struct RecordError {
    path: PathBuf,
    source: std::io::Error,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodRecord {
    v: u32,
    uid: PodUid,
    hash: String,
    source: String,
    pod: api::Pod,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeadlineRecord {
    v: u32,
    deadline: Timestamp,
}

/// Records a pod. Its directory must be there.
pub(crate) fn save_pod(dirs: &PodDirs, pod: &DesiredPod) -> Result<(), RecordError> {
    let record = PodRecord {
        v: VERSION,
        uid: pod.uid.clone(),
        hash: pod.hash.clone(),
        source: pod.source.clone(),
        pod: pod.pod.clone(),
    };
    save(&dirs.pod(&pod.uid).join(POD), &record)
}

/// The pod recorded for a uid.
pub(crate) fn load_pod(dirs: &PodDirs, uid: &PodUid) -> Option<DesiredPod> {
    let record: PodRecord = load(&dirs.pod(uid).join(POD))?;
    let PodRecord { v, uid: recorded, hash, source, pod } = record;
    (v == VERSION && recorded == *uid).then_some(DesiredPod { uid: recorded, pod, hash, source })
}

/// Records when a pod must be gone. Without its directory there is nothing to end, and nothing is recorded.
pub(crate) fn save_deadline(dirs: &PodDirs, uid: &PodUid, deadline: Timestamp) -> Result<(), RecordError> {
    let dir = dirs.pod(uid);
    if !dir.is_dir() {
        return Ok(());
    }
    save(&dir.join(DEADLINE), &DeadlineRecord { v: VERSION, deadline })
}

/// When a pod must be gone, if that was decided before.
pub(crate) fn load_deadline(dirs: &PodDirs, uid: &PodUid) -> Option<Timestamp> {
    let record: DeadlineRecord = load(&dirs.pod(uid).join(DEADLINE))?;
    (record.v == VERSION).then_some(record.deadline)
}

/// The manifest's path in a pod's source.
pub(crate) fn source_file(pod: &DesiredPod) -> PathBuf {
    let source = pod.source.as_str();
    let path =
        source.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (pod ")).map_or(source, |(path, _)| path);
    path.into()
}

fn save(path: &Path, record: &impl Serialize) -> Result<(), RecordError> {
    let failed = |source| RecordError { path: path.to_owned(), source };
    let text = serde_json::to_vec(record).map_err(|e| failed(e.into()))?;
    if std::fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let write = || {
        // The pod's environment may hold secrets.
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&new, path)
    };
    write().map_err(failed)
}

fn load<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).ok()?;
    let record = serde_json::from_reader(std::io::BufReader::new(file.take(MAX_RECORD)));
    record.inspect_err(|e| warn!(path = %path.display(), error = %e, "a record cannot be read")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox_config::tests::desired;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_pod_reads_back_as_it_was_recorded() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = PodDirs::new(root.path());
        let pod = desired(r#"{"metadata":{"name":"a","namespace":"b"},"spec":{"containers":[]}}"#);
        assert_eq!(load_pod(&dirs, &pod.uid), None);
        std::fs::create_dir_all(dirs.pod(&pod.uid)).expect("mkdir");
        save_pod(&dirs, &pod).expect("saved");
        save_deadline(&dirs, &pod.uid, Timestamp::from_nanos(7)).expect("saved");
        let mode = std::fs::metadata(dirs.pod(&pod.uid).join(POD)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load_pod(&dirs, &pod.uid), Some(pod.clone()));
        assert_eq!(load_deadline(&dirs, &pod.uid), Some(Timestamp::from_nanos(7)));
        std::fs::write(dirs.pod(&pod.uid).join(POD), "{\"v\":1,\"uid\":").expect("half a record");
        assert_eq!(load_pod(&dirs, &pod.uid), None);
    }

    #[test]
    fn the_record_is_of_version_1() {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = PodDirs::new(root.path());
        let pod = desired(r#"{"metadata":{"name":"a"},"spec":{"containers":[]}}"#);
        std::fs::create_dir_all(dirs.pod(&pod.uid)).expect("mkdir");
        save_pod(&dirs, &pod).expect("saved");
        let text = std::fs::read_to_string(dirs.pod(&pod.uid).join(POD)).expect("there");
        assert_eq!(
            text,
            r#"{"v":1,"uid":"u-1","hash":"h","source":"test","pod":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[]}}}"#
        );
    }

    #[test]
    fn the_manifest_is_known_from_the_source() {
        let mut pod = desired(r#"{"metadata":{"name":"a"}}"#);
        for (source, file) in [("/m/a.yaml", "/m/a.yaml"), ("/m/a (b).yaml (pod 2)", "/m/a (b).yaml")] {
            pod.source = source.into();
            assert_eq!(source_file(&pod), Path::new(file));
        }
    }
}
