//! The records of sandboxes and containers on disk: what cannot be observed on the node after a crash.
//!
//! In: [`SandboxRecord`], [`ContainerRecord`]. Out: versioned JSON files, written to a temporary file and renamed, so that
//! a reader sees the old record or the new one, whoever is killed. They are not synchronised: after a power cut every
//! sandbox is dead. Each ends with a line that tells what its bytes add up to, so that a damaged record is never taken for
//! a whole one. The first version of a record stays beside the later ones ([`save_first`]): it tells what a damaged one
//! was about. How a container ended is not here but in the supervisor's
//! `exit.json`, unless the engine itself decided it ([`End`]).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use pintle_cni::HostPort;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    error::{Error, Result},
    resource_record::ResourcesRecord,
};
use crate::spec::user_namespace::IdMappings;

/// The present version of both records.
pub const VERSION: u32 = 1;

/// The most bytes a record may have.
const MAX_RECORD: u64 = 8 * 1024 * 1024;

/// A record with a version and a file name.
pub trait Record: Serialize + DeserializeOwned {
    /// Its file name in its directory.
    const FILE: &'static str;
    /// The file name of its first version.
    const FIRST: &'static str;

    /// The version the record was written with.
    fn version(&self) -> u32;

    /// Whose it is: the name of its directory.
    fn id(&self) -> &str;
}

/// What begins the last line of a record, before the sum of the bytes above.
const SUM_LINE: &[u8] = b"# sha256 ";

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SandboxPhase {
    /// Being made, or being taken back after that failed; after a crash it is removed.
    Intent,
    /// It was ready when this was written; whether it still is can be observed.
    Ready,
    /// Its processes are gone or being killed, its network is given back.
    Stopped,
}

/// Which namespace of a kind the pod's containers live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NamespaceMode {
    /// The pod's.
    Pod,
    /// Each container its own.
    Container,
    /// The node's.
    Node,
}

/// What is kept of the configuration a sandbox was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// Counts the sandboxes of the pod.
    pub attempt: u32,
    /// The host name inside; empty: the node's.
    pub hostname: String,
    /// Where the containers' log files go; empty: nowhere.
    pub log_directory: String,
    /// Labels, to select by.
    pub labels: BTreeMap<String, String>,
    /// Annotations, handed back as they came.
    pub annotations: BTreeMap<String, String>,
    /// The runtime handler asked for.
    pub runtime_handler: String,
    /// Network namespace: the pod's or the node's.
    pub network: NamespaceMode,
    /// Pid namespace.
    pub pid: NamespaceMode,
    /// IPC namespace: the pod's or the node's.
    pub ipc: NamespaceMode,
    /// Whether privileged containers may run in it.
    pub privileged: bool,
    /// Which of the node's users its users are; absent: all of them are the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<IdMappings>,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SandboxRecord {
    /// The version of this format.
    pub v: u32,
    /// Its id.
    pub id: String,
    /// The boot in which it was made; in any other boot it is dead.
    pub boot: String,
    /// How far it has come.
    pub phase: SandboxPhase,
    /// What it was made with.
    pub config: SandboxConfig,
    /// The cgroup its containers' cgroups are in.
    pub cgroup_parent: String,
    /// Whether the engine made that cgroup, and so removes it.
    pub owns_parent: bool,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// The infra container's first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra_pid: Option<i32>,
    /// Its supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor_pid: Option<i32>,
    /// What its containers may use together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesRecord>,
    /// What the pod itself may use beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead: Option<ResourcesRecord>,
    /// The ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// The sum of the request it was made from: a repeated one is compared with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    /// Its addresses, the first one first.
    pub ips: Vec<String>,
}

impl Record for SandboxRecord {
    const FILE: &'static str = "sandbox.json";
    const FIRST: &'static str = "sandbox.first.json";

    fn version(&self) -> u32 {
        self.v
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// A mount, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountRecord {
    /// Path inside.
    pub container_path: String,
    /// Path on the node.
    pub host_path: String,
    /// Whether nothing may be written through it.
    pub readonly: bool,
    /// Whether that also holds for mounts below it.
    pub recursive_read_only: bool,
    /// The number of CRI's `MountPropagation`.
    pub propagation: i32,
    /// The image whose files it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Which directory of the image; empty: all of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_sub_path: String,
    /// What else is forbidden on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// An end that the engine decided, where no exit record says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// The exit code.
    pub code: i32,
    /// CRI's reason.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When its program was executed, in nanoseconds since 1970; 0 if it never was.
    pub started_at: i64,
    /// When it ended, in nanoseconds since 1970.
    pub finished_at: i64,
}

/// Whose identity a container's first process has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserRecord {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerRecord {
    /// The version of this format.
    pub v: u32,
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// The boot in which it was made; in any other boot it is dead.
    pub boot: String,
    /// Whether it was made completely; after a crash an incomplete one is removed.
    pub complete: bool,
    /// Its name in the pod.
    pub name: String,
    /// Counts its incarnations.
    pub attempt: u32,
    /// The image as the request named it.
    pub image: String,
    /// The image as the user named it.
    pub user_specified_image: String,
    /// The image's digest reference or id, for the status.
    pub image_ref: String,
    /// The image's id.
    pub image_id: String,
    /// Labels, to select by.
    pub labels: BTreeMap<String, String>,
    /// Annotations, handed back as they came.
    pub annotations: BTreeMap<String, String>,
    /// The mounts asked for.
    pub mounts: Vec<MountRecord>,
    /// The log file; empty: none.
    pub log_path: String,
    /// Its cgroup.
    pub cgroup: String,
    /// The number of the signal that asks it to stop.
    pub stop_signal: i32,
    /// Whose identity it has.
    pub user: UserRecord,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// Its limits, as asked for and changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesRecord>,
    /// Its first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// How it ended, where the engine decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

impl Record for ContainerRecord {
    const FILE: &'static str = "container.json";
    const FIRST: &'static str = "container.first.json";

    fn version(&self) -> u32 {
        self.v
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// Writes a record into its directory.
///
/// # Errors
/// When a file cannot be written.
pub fn save<R: Record>(dir: &Path, record: &R) -> Result<()> {
    let text =
        encode(record).map_err(|e| Error::Record { path: dir.join(R::FILE), reason: e.to_string() })?;
    write_atomically(&dir.join(R::FILE), &text)
}

/// Writes a record for the first time, and keeps that version for good.
///
/// # Errors
/// When a file cannot be written.
pub fn save_first<R: Record>(dir: &Path, record: &R) -> Result<()> {
    save(dir, record)?;
    // A name more for the same file, which the next version does not overwrite but replace.
    if let Err(error) = fs::hard_link(dir.join(R::FILE), dir.join(R::FIRST)) {
        tracing::debug!(dir = %dir.display(), %error, "a record has no second copy");
    }
    Ok(())
}

/// Reads the record of a directory; `None` when there is none.
///
/// # Errors
/// [`Error::Record`] when it is damaged, too large, or has a version that this build does not know; [`Error::Io`] when it
/// cannot be read.
pub fn load<R: Record>(dir: &Path) -> Result<Option<R>> {
    load_file(dir, R::FILE)
}

/// Reads the first version of the record of a directory; as [`load`].
///
/// # Errors
/// As [`load`].
pub fn load_first<R: Record>(dir: &Path) -> Result<Option<R>> {
    load_file(dir, R::FIRST)
}

fn load_file<R: Record>(dir: &Path, file: &str) -> Result<Option<R>> {
    let path = dir.join(file);
    let Some(text) = read_bounded(&path)? else { return Ok(None) };
    let bad = |reason: String| Error::Record { path: path.clone(), reason };
    let record: R = decode(&text).map_err(&bad)?;
    match dir.file_name() {
        Some(name) if name != record.id() => {
            Err(bad(format!("it is {:?}'s, and not this directory's", record.id())))
        }
        _ => Ok(Some(record)),
    }
}

/// A record as it is written.
fn encode<R: Record>(record: &R) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(record)?;
    let sum = sum(&text);
    text.push(b'\n');
    text.extend_from_slice(SUM_LINE);
    text.extend_from_slice(sum.as_bytes());
    text.push(b'\n');
    Ok(text)
}

/// What is written, if it is whole. One without its last line was cut off behind its end, or is an older build's.
fn decode<R: Record>(bytes: &[u8]) -> std::result::Result<R, String> {
    let body = match bytes.iter().rposition(|byte| *byte == b'#') {
        Some(at) if bytes[at..].starts_with(SUM_LINE) && at > 0 && bytes[at - 1] == b'\n' => {
            let (body, line) = (&bytes[..at - 1], &bytes[at + SUM_LINE.len()..]);
            if line.strip_suffix(b"\n").unwrap_or(line) != sum(body).as_bytes() {
                return Err("its bytes are not those that were written".to_owned());
            }
            body
        }
        _ => bytes,
    };
    let record: R = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    match record.version() {
        VERSION => Ok(record),
        other => Err(format!("version {other}, and this build knows {VERSION}")),
    }
}

/// A short sum of bytes: eight bytes of their SHA-256, in hexadecimal digits.
#[must_use]
pub fn sum(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or(());
        text
    })
}

/// Reads a file of bounded size; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("opening", path)(e)),
    };
    let mut text = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut text).map_err(Error::io("reading", path))?;
    if text.len() as u64 > MAX_RECORD {
        return Err(Error::Record {
            path: path.to_owned(),
            reason: format!("larger than {MAX_RECORD} bytes"),
        });
    }
    Ok(Some(text))
}

/// Replaces a file so that a reader, also one after the end of this process, sees the old content or the new.
///
/// # Errors
/// When a file cannot be written.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = create_private(&temporary).map_err(Error::io("creating", &temporary))?;
    file.write_all(content).map_err(Error::io("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("renaming to", path))
}

/// Writes a file that only root can read.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = create_private(path).map_err(Error::io("creating", path))?;
    file.write_all(content).map_err(Error::io("writing", path))
}

fn create_private(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SANDBOX: &str = include_str!("../../tests/golden/sandbox.json");
    const CONTAINER: &str = include_str!("../../tests/golden/container.json");

    #[test]
    fn the_golden_records_read_back_and_write_the_same_bytes() {
        let sandbox: SandboxRecord = serde_json::from_str(SANDBOX).unwrap();
        assert_eq!(serde_json::to_string_pretty(&sandbox).unwrap(), SANDBOX.trim_end());
        let container: ContainerRecord = serde_json::from_str(CONTAINER).unwrap();
        assert_eq!(serde_json::to_string_pretty(&container).unwrap(), CONTAINER.trim_end());
    }

    #[test]
    fn a_record_survives_saving_and_loading_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut record: SandboxRecord = serde_json::from_str(SANDBOX).unwrap();
        let dir = dir.path().join(&record.id);
        fs::create_dir(&dir).unwrap();
        save(&dir, &record).unwrap();
        assert_eq!(load::<SandboxRecord>(&dir).unwrap(), Some(record.clone()));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        save_first(&dir, &record).unwrap();
        record.phase = SandboxPhase::Stopped;
        save(&dir, &record).unwrap();
        assert_eq!(load::<SandboxRecord>(&dir).unwrap().unwrap().phase, SandboxPhase::Stopped);
        assert_eq!(load_first::<SandboxRecord>(&dir).unwrap().unwrap().phase, SandboxPhase::Ready);
    }

    #[test]
    fn a_record_in_another_ones_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let record: SandboxRecord = serde_json::from_str(SANDBOX).unwrap();
        save(dir.path(), &record).unwrap();
        assert!(matches!(load::<SandboxRecord>(dir.path()), Err(Error::Record { .. })));
    }

    /// Every way to lose the end of a record, and to flip one bit of it.
    fn damaged(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
        let cut = (0..text.len()).map(|length| text[..length].to_vec());
        let flipped = (0..text.len() * 8).map(|bit| {
            let mut text = text.to_vec();
            text[bit / 8] ^= 1 << (bit % 8);
            text
        });
        cut.chain(flipped)
    }

    #[test]
    fn a_record_cut_off_anywhere_or_with_any_bit_flipped_is_refused_or_still_the_same() {
        let sandbox: SandboxRecord = serde_json::from_str(SANDBOX).unwrap();
        for bytes in damaged(&encode(&sandbox).unwrap()) {
            let read = decode::<SandboxRecord>(&bytes);
            assert!(read.is_err() || read.is_ok_and(|read| read == sandbox));
        }
        let container: ContainerRecord = serde_json::from_str(CONTAINER).unwrap();
        for bytes in damaged(&encode(&container).unwrap()) {
            let read = decode::<ContainerRecord>(&bytes);
            assert!(read.is_err() || read.is_ok_and(|read| read == container));
        }
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut record: SandboxRecord = serde_json::from_str(SANDBOX).unwrap();
        record.v = 99;
        save(dir.path(), &record).unwrap();
        assert!(matches!(load::<SandboxRecord>(dir.path()), Err(Error::Record { .. })));
    }

    #[test]
    fn a_missing_record_is_none_and_a_torn_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load::<ContainerRecord>(dir.path()).unwrap(), None);
        fs::write(dir.path().join("container.json"), &CONTAINER[..40]).unwrap();
        assert!(load::<ContainerRecord>(dir.path()).is_err());
    }
}
