//! The lease store: one small file per address, so that a crash at any instruction forgets nobody.
//!
//! In: intents and releases. Out: files `leases/<address>`, `cursor` and `range` in the state directory, each written
//! to a temporary name and renamed. A lease is written before the kernel is touched and deleted after the interface is
//! gone:
//!
//! ```text
//!   (free) ── intend ──► held ── begin_release ──► releasing ── interface gone ──► (free)
//! ```
//!
//! A lease of another boot is void: interfaces do not survive a boot. That is also why nothing is synced to the disk:
//! what a power cut tears is void anyway. It never looks at the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;
use crate::host_port::HostPort;
use crate::nft::host_ports::Target;
use crate::pod_network::Mac;

/// Version of the lease file's format.
pub(crate) const VERSION: u32 = 1;
/// No record is nearly as long.
const RECORD_MOST: u64 = 64 * 1024;

/// What can go wrong with the lease files.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("make lease directory {path}")]
    MakeDirectory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("list lease directory {path}")]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("delete {path}")]
    Delete {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("encode {path}")]
    Encode {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("read the boot id {path}")]
    BootId {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// An address and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    pub(crate) version: u32,
    pub(crate) state: LeaseState,
    pub(crate) sandbox: String,
    pub(crate) pod_uid: String,
    pub(crate) boot_id: String,
    pub(crate) ip: IpAddr,
    pub(crate) mac: Mac,
    /// Name of the host end.
    pub(crate) interface: String,
    /// The host ports that lead to it, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<HostPort>,
}

impl Lease {
    /// Its host ports, each with its address.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.ports.iter().map(|port| Target { port: *port, pod: self.ip })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LeaseState {
    /// The sandbox has it, or is about to.
    Held,
    /// The sandbox gave it back; nobody gets it before the interface is gone.
    Releasing,
}

/// The leases of one node.
#[derive(Debug)]
pub(crate) struct LeaseStore {
    state_dir: PathBuf,
    boot_id: String,
    leases: BTreeMap<IpAddr, Lease>,
    last: Option<IpAddr>,
}

impl LeaseStore {
    /// Reads the leases of this boot and deletes all others.
    pub(crate) fn open(state_dir: &Path, boot_id: &str) -> Result<Self, LeaseError> {
        let directory = state_dir.join("leases");
        let made = fs::create_dir_all(&directory);
        made.map_err(|source| LeaseError::MakeDirectory { path: directory.clone(), source })?;
        let mut store = Self {
            state_dir: state_dir.to_owned(),
            boot_id: boot_id.to_owned(),
            leases: BTreeMap::new(),
            last: read_text(&state_dir.join("cursor"))?.and_then(|text| text.trim().parse().ok()),
        };
        let listing = |source| LeaseError::List { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(listing)? {
            store.load(&entry.map_err(listing)?.path())?;
        }
        Ok(store)
    }

    fn load(&mut self, path: &Path) -> Result<(), LeaseError> {
        match read_lease(path, &self.boot_id)? {
            Ok(lease) => {
                self.leases.insert(lease.ip, lease);
                Ok(())
            }
            Err(reason) => {
                tracing::info!(lease = %path.display(), reason, "void lease deleted");
                delete(path)
            }
        }
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The address a sandbox holds.
    pub(crate) fn held_by(&self, sandbox: &str) -> Option<&Lease> {
        self.leases.values().find(|l| l.sandbox == sandbox && l.state == LeaseState::Held)
    }

    pub(crate) fn is_leased(&self, ip: IpAddr) -> bool {
        self.leases.contains_key(&ip)
    }

    /// The address given out last.
    pub(crate) fn last(&self) -> Option<IpAddr> {
        self.last
    }

    /// Every host port.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.leases.values().flat_map(Lease::targets).collect()
    }

    /// Whose a host port is already.
    pub(crate) fn holder(&self, port: &HostPort) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.ports.iter().any(|other| other.collides(port)))
    }

    /// Takes the host ports from a lease, after they lead nowhere any more.
    pub(crate) fn clear_ports(&mut self, sandbox: &str) -> Result<(), LeaseError> {
        match self.held_by(sandbox).cloned() {
            Some(lease) if !lease.ports.is_empty() => self.put(Lease { ports: Vec::new(), ..lease }),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes a lease down, before the kernel hears of it.
    pub(crate) fn intend(&mut self, lease: Lease) -> Result<(), LeaseError> {
        write(&self.state_dir.join("cursor"), lease.ip.to_string().as_bytes())?;
        self.last = Some(lease.ip);
        self.put(lease)
    }

    /// Takes the address from the sandbox; it stays out of use until [`Self::forget`].
    pub(crate) fn begin_release(&mut self, sandbox: &str) -> Result<Option<Lease>, LeaseError> {
        let Some(lease) = self.held_by(sandbox) else { return Ok(None) };
        let lease = Lease { state: LeaseState::Releasing, ports: Vec::new(), ..lease.clone() };
        self.put(lease.clone())?;
        Ok(Some(lease))
    }

    /// Frees an address whose interface is gone; nothing if it was freed before, even if somebody has it again.
    pub(crate) fn forget(&mut self, ip: IpAddr, interface: &str) -> Result<(), LeaseError> {
        let released = |l: &Lease| l.state == LeaseState::Releasing && l.interface == interface;
        if self.leases.get(&ip).is_some_and(released) { self.drop_lease(ip) } else { Ok(()) }
    }

    /// Deletes every file of the store.
    pub(crate) fn remove_all(&mut self) -> Result<(), LeaseError> {
        for ip in self.leases.keys().copied().collect::<Vec<_>>() {
            self.drop_lease(ip)?;
        }
        delete(&self.state_dir.join("cursor"))?;
        delete(&self.state_dir.join("range"))?;
        let directory = self.state_dir.join("leases");
        match fs::remove_dir(&directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LeaseError::Delete { path: directory, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn drop_lease(&mut self, ip: IpAddr) -> Result<(), LeaseError> {
        delete(&self.path(ip))?;
        self.leases.remove(&ip);
        Ok(())
    }

    fn put(&mut self, lease: Lease) -> Result<(), LeaseError> {
        let path = self.path(lease.ip);
        let text = serde_json::to_vec_pretty(&lease);
        let text = text.map_err(|source| LeaseError::Encode { path: path.clone(), source })?;
        write(&path, &text)?;
        self.leases.insert(lease.ip, lease);
        Ok(())
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.state_dir.join("leases").join(ip.to_string())
    }
}

/// The leases on disk, and the files beside them that are none, each with the reason. It changes nothing.
pub(crate) fn read_all(state_dir: &Path, boot_id: &str) -> Result<ReadLeases, LeaseError> {
    let directory = state_dir.join("leases");
    let listing = |source| LeaseError::List { path: directory.clone(), source };
    let entries = match fs::read_dir(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        entries => entries.map_err(listing)?,
    };
    let (mut leases, mut void) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.map_err(listing)?.path();
        match read_lease(&path, boot_id)? {
            Ok(lease) => leases.push((lease, path)),
            Err(reason) => void.push((path, reason)),
        }
    }
    Ok((leases, void))
}

/// Leases and void files, each with its path.
pub(crate) type ReadLeases = (Vec<(Lease, PathBuf)>, Vec<(PathBuf, &'static str)>);

/// The pod range an earlier start chose.
pub(crate) fn read_range(state_dir: &Path) -> Result<Option<Cidr>, LeaseError> {
    Ok(read_text(&state_dir.join("range"))?.and_then(|text| text.trim().parse().ok()))
}

/// Keeps the chosen pod range for the next start.
pub(crate) fn write_range(state_dir: &Path, cidr: Cidr) -> Result<(), LeaseError> {
    let made = fs::create_dir_all(state_dir);
    made.map_err(|source| LeaseError::MakeDirectory { path: state_dir.to_owned(), source })?;
    write(&state_dir.join("range"), format!("{cidr}\n").as_bytes())
}

/// The id of the running boot.
pub(crate) fn boot_id() -> Result<String, LeaseError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(|source| LeaseError::BootId { path: PATH, source })?;
    Ok(text.trim().to_owned())
}

/// The lease in a file, or why it is void.
fn read_lease(path: &Path, boot_id: &str) -> Result<Result<Lease, &'static str>, LeaseError> {
    let named: Option<IpAddr> = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
    let Some(named) = named else { return Ok(Err("not named by an address")) };
    let Some(text) = read_text(path)? else { return Ok(Err("too long")) };
    let Ok(lease) = serde_json::from_str::<Lease>(&text) else { return Ok(Err("not readable")) };
    Ok(match lease {
        l if l.version != VERSION => Err("another version"),
        l if l.boot_id != boot_id => Err("of another boot"),
        l if l.ip != named => Err("names another address"),
        l => Ok(l),
    })
}

/// A small text file; `None` if it is missing, too long or not text.
fn read_text(path: &Path) -> Result<Option<String>, LeaseError> {
    let read = fs::symlink_metadata(path).and_then(|m| {
        if m.is_file() && m.len() <= RECORD_MOST { fs::read(path).map(Some) } else { Ok(None) }
    });
    match read {
        Ok(bytes) => Ok(bytes.and_then(|b| String::from_utf8(b).ok())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LeaseError::Read { path: path.to_owned(), source }),
    }
}

/// A half-written file is only ever seen under a name that no lease has.
fn write(path: &Path, bytes: &[u8]) -> Result<(), LeaseError> {
    let temporary = path.with_added_extension("tmp");
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| LeaseError::Write { path: path.to_owned(), source })
}

fn delete(path: &Path) -> Result<(), LeaseError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LeaseError::Delete { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ip: &str, boot_id: &str) -> Lease {
        Lease {
            version: VERSION,
            state: LeaseState::Held,
            sandbox: format!("sandbox-{ip}"),
            pod_uid: "5f0c6a3e-6d3f-4b7e-9a51-0f6f9f1d2c3b".into(),
            boot_id: boot_id.into(),
            ip: ip.parse().unwrap(),
            mac: Mac([0x0e, 0x50, 10, 88, 0, 2]),
            interface: "pv0123456789ab".into(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn the_file_format_is_the_golden_one() {
        let golden = include_str!("../tests/golden/lease-v1.json");
        assert_eq!(serde_json::from_str::<Lease>(golden).unwrap(), lease("10.88.0.2", "boot"));
        assert_eq!(serde_json::to_string_pretty(&lease("10.88.0.2", "boot")).unwrap(), golden.trim_end());
    }

    #[test]
    fn host_ports_are_held_with_the_address_and_given_back_before_it() {
        let port =
            |host_port| HostPort { protocol: crate::Protocol::Udp, host_ip: None, host_port, pod_port: 53 };
        let dir = tempfile::tempdir().unwrap();
        let mut store = LeaseStore::open(dir.path(), "boot").unwrap();
        let ports: Vec<HostPort> = (1..=256).map(port).collect();
        store.intend(Lease { ports, ..lease("10.88.0.2", "boot") }).unwrap();
        let mut store = LeaseStore::open(dir.path(), "boot").unwrap();
        assert_eq!(store.targets().len(), 256, "the largest lease reads back");
        assert!(store.holder(&port(7)).is_some() && store.holder(&port(300)).is_none());
        store.clear_ports("sandbox-10.88.0.2").unwrap();
        assert!(store.holder(&port(7)).is_none() && store.held_by("sandbox-10.88.0.2").is_some());
    }

    #[test]
    fn leases_and_the_last_address_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LeaseStore::open(dir.path(), "boot").unwrap();
        store.intend(lease("10.88.0.2", "boot")).unwrap();
        store.intend(lease("10.88.0.3", "boot")).unwrap();
        assert!(store.begin_release("sandbox-10.88.0.2").unwrap().is_some());
        let mut store = LeaseStore::open(dir.path(), "boot").unwrap();
        assert_eq!(store.last(), Some("10.88.0.3".parse().unwrap()));
        assert!(store.held_by("sandbox-10.88.0.2").is_none() && store.held_by("sandbox-10.88.0.3").is_some());
        assert!(store.is_leased("10.88.0.2".parse().unwrap()));
        store.forget("10.88.0.3".parse().unwrap(), "pv0123456789ab").unwrap();
        store.forget("10.88.0.2".parse().unwrap(), "pv000000000000").unwrap();
        assert_eq!(store.all().count(), 2, "only what is being released is freed");
        store.forget("10.88.0.2".parse().unwrap(), "pv0123456789ab").unwrap();
        assert!(!LeaseStore::open(dir.path(), "boot").unwrap().is_leased("10.88.0.2".parse().unwrap()));
    }

    #[test]
    fn void_leases_are_deleted_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LeaseStore::open(dir.path(), "old").unwrap();
        store.intend(lease("10.88.0.2", "old")).unwrap();
        let leases = dir.path().join("leases");
        fs::write(leases.join("10.88.0.3"), "{\"version\":").unwrap();
        fs::write(leases.join("10.88.0.4.tmp"), "half").unwrap();
        fs::write(leases.join("10.88.0.5"), vec![b' '; 100_000]).unwrap();
        let other = serde_json::to_string(&lease("10.88.0.7", "new")).unwrap();
        fs::write(leases.join("10.88.0.6"), other).unwrap();
        let store = LeaseStore::open(dir.path(), "new").unwrap();
        assert_eq!(store.all().count(), 0);
        assert_eq!(fs::read_dir(leases).unwrap().count(), 0);
    }

    #[test]
    fn removing_all_leaves_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        write_range(dir.path(), "10.88.0.0/24".parse().unwrap()).unwrap();
        assert_eq!(read_range(dir.path()).unwrap(), Some("10.88.0.0/24".parse().unwrap()));
        let mut store = LeaseStore::open(dir.path(), "boot").unwrap();
        store.intend(lease("10.88.0.2", "boot")).unwrap();
        store.remove_all().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        store.remove_all().unwrap();
    }
}
