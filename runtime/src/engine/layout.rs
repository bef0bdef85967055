//! Where everything is: directories, and the names that an instance takes on the host.
//!
//! In: the engine's configuration. Out: paths and names. Two engines with different state directories share no name.
//! It creates nothing.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::handlers::RuntimeHandler;
use super::image_settings::ImageSettings;

/// The default state directory; its instance carries no tag.
pub const DEFAULT_STATE: &str = "/run/pintle";

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Persistent data: images, layers, snapshots, the pause root.
    pub root: PathBuf,
    /// Data of this boot: records, sockets, leases.
    pub state: PathBuf,
    /// The pods' addresses, as CIDR; absent: chosen so that it overlaps no route of the host.
    pub pod_cidr: Option<String>,
    /// Registry configuration in containerd's `hosts.toml` layout.
    pub registry_config: Option<PathBuf>,
    /// How images are come by.
    pub images: ImageSettings,
    /// The supervisor's program, `pintle-shim`.
    pub shim: PathBuf,
    /// The cgroup under which everything is made; absent: `/`, or `/pintle-<tag>` beside a default instance.
    pub cgroup_root: Option<String>,
    /// The soft and the hard limit on open files that containers get; absent: the engine's own.
    pub open_files: Option<(u64, u64)>,
    /// External OCI runtimes, by the names under which pods ask for them.
    pub runtime_handlers: Vec<RuntimeHandler>,
    /// Where clients of exec, attach and port-forward connect; port 0: any.
    pub streaming: SocketAddr,
    /// The directories with CDI's specification files; a later one goes before an earlier one.
    pub cdi_dirs: Vec<PathBuf>,
}

/// Loopback: whoever can connect and knows a token is let in.
pub const DEFAULT_STREAMING: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl EngineConfig {
    /// The usual configuration for a pair of directories: the supervisor's program beside the running one.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            state: state.into(),
            pod_cidr: None,
            registry_config: None,
            images: ImageSettings::default(),
            shim: default_shim(),
            cgroup_root: None,
            open_files: None,
            runtime_handlers: Vec::new(),
            streaming: DEFAULT_STREAMING,
            cdi_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
        }
    }
}

/// `pintle-shim` beside the running program, else wherever PATH finds it.
#[must_use]
pub fn default_shim() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("pintle-shim"));
    beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("pintle-shim"))
}

/// Every path and name of one instance.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Persistent data.
    pub root: PathBuf,
    /// Data of this boot.
    pub state: PathBuf,
    /// `/` or `/pintle-<tag>`.
    pub cgroup_root: String,
    /// The pods' bridge.
    pub bridge: String,
    /// The nftables table.
    pub nft_table: String,
}

impl Layout {
    /// The layout for a configuration.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Self {
        let tag = instance_tag(&config.state);
        let suffix = |prefix: &str, plain: &str| match tag.as_str() {
            "" => plain.to_owned(),
            tag => format!("{prefix}-{tag}"),
        };
        Self {
            root: config.root.clone(),
            state: config.state.clone(),
            cgroup_root: config.cgroup_root.clone().unwrap_or_else(|| suffix("/pintle", "/")),
            bridge: suffix("ptl", "pintle0"),
            nft_table: suffix("pintle", "pintle"),
        }
    }

    /// The directory of all sandboxes.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    /// The directory of one sandbox.
    #[must_use]
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    /// The directory of all containers.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// The directory of one container, which is its OCI bundle.
    #[must_use]
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Damaged records, for people to look at.
    #[must_use]
    pub fn damaged(&self) -> PathBuf {
        self.state.join("damaged")
    }

    /// The network's leases.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.state.join("network")
    }

    /// Locked while an engine runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("pintle.lock")
    }

    /// The root of the infra containers: the pause program and nothing else.
    #[must_use]
    pub fn pause_rootfs(&self) -> PathBuf {
        self.root.join("pause/rootfs")
    }

    /// The cgroup of all supervisors.
    #[must_use]
    pub fn supervisors_cgroup(&self) -> String {
        join_cgroup(&self.cgroup_root, "pintle-shims")
    }

    /// The cgroup under which pods without a parent of their own are put.
    #[must_use]
    pub fn default_pods_cgroup(&self) -> String {
        join_cgroup(&self.cgroup_root, "kubepods/besteffort")
    }

    /// The cgroup of a pod that names none.
    #[must_use]
    pub fn own_pod_cgroup(&self, sandbox: &str) -> String {
        join_cgroup(&self.default_pods_cgroup(), &format!("pod{sandbox}"))
    }
}

/// A path below a cgroup.
#[must_use]
pub fn join_cgroup(parent: &str, child: &str) -> String {
    format!("{}/{}", parent.trim_end_matches('/'), child.trim_matches('/'))
}

/// "" for the default state directory, else eight hexadecimal digits of the path's SHA-256.
#[must_use]
pub fn instance_tag(state: &Path) -> String {
    if state == Path::new(DEFAULT_STATE) {
        return String::new();
    }
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest.iter().take(4).fold(String::new(), |mut tag, byte| {
        // Writing to a String cannot fail.
        write!(tag, "{byte:02x}").unwrap_or(());
        tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_instance_takes_plain_names() {
        let layout = Layout::new(&EngineConfig::new("/var/lib/pintle", DEFAULT_STATE));
        assert_eq!(layout.bridge, "pintle0");
        assert_eq!(layout.nft_table, "pintle");
        assert_eq!(layout.supervisors_cgroup(), "/pintle-shims");
        assert_eq!(layout.default_pods_cgroup(), "/kubepods/besteffort");
    }

    #[test]
    fn another_state_directory_shares_no_name_with_it() {
        let layout = Layout::new(&EngineConfig::new("/x", "/tmp/state"));
        let tag = instance_tag(Path::new("/tmp/state"));
        assert_eq!(tag.len(), 8);
        assert_eq!(layout.bridge, format!("ptl-{tag}"));
        assert_eq!(layout.supervisors_cgroup(), format!("/pintle-{tag}/pintle-shims"));
    }

    #[test]
    fn a_bridge_name_fits_the_kernels_fifteen_characters() {
        let layout = Layout::new(&EngineConfig::new("/x", "/tmp/state"));
        assert!(layout.bridge.len() <= 15);
    }
}
