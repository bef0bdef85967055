//! Debian's containerd: its configuration, its plug-ins' configuration, its command lines.
//!
//! In: a directory. Out: files in it, commands. Everything containerd, runc and the CNI plug-ins keep lies below the
//! directory, or is hidden behind a mount of our own ([`PRIVATE`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::image::PAUSE_IMAGE;
use crate::place::Place;

/// Where containerd's supervisors have their sockets and libcni its cache, whatever the configuration says.
pub(crate) const PRIVATE: &[&str] = &["/run/containerd", "/var/lib/cni"];
/// The supervisors' program.
pub(crate) const SUPERVISOR: &str = "containerd-shim-runc-v2";
/// The pods' bridge.
pub(crate) const BRIDGE: &str = "cnibench0";

const PLUGIN_DIRECTORIES: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Writes the configuration.
pub(crate) fn configure(dir: &Path) -> Result<()> {
    let conf = dir.join("cni");
    for path in [&conf, &dir.join("state")] {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    }
    write(&conf.join("10-bench.conflist"), &network(dir))?;
    write(&dir.join("config.toml"), &configuration(dir, &plugins()?))
}

/// Fills in the daemon's command line.
pub(crate) fn arguments(command: &mut Command, dir: &Path) {
    command.arg("--config").arg(dir.join("config.toml"));
}

/// `ctr` importing an archive for CRI's use.
pub(crate) fn import_command(place: &Place, dir: &Path, archive: &Path) -> Command {
    let mut command = place.command("ctr");
    command.arg("--address").arg(dir.join("daemon.sock"));
    command.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    command
}

fn plugins() -> Result<PathBuf> {
    let mut all = PLUGIN_DIRECTORIES.iter().map(PathBuf::from);
    all.find(|dir| dir.join("bridge").exists()).context("no CNI plug-ins: run `integration/setup bench`")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What a two-line installation guide gives: overlay snapshots, runc, no systemd. What differs from the defaults is the
/// places, the pause image, and what a build machine without CAP_SYS_RESOURCE or AppArmor needs.
fn configuration(dir: &Path, plugins: &Path) -> String {
    let (dir, plugins) = (dir.display(), plugins.display());
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/daemon.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{dir}/state/runc"
"#
    )
}

/// The network that containerd's and Kubernetes' guides give for a single node; the loopback plug-in is run by containerd
/// itself.
fn network(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "bench", "plugins": [
  {{"type": "bridge", "bridge": "{BRIDGE}", "isGateway": true, "ipMasq": true,
   "ipam": {{"type": "host-local", "dataDir": "{dir}/leases", "ranges": [[{{"subnet": "10.88.0.0/16"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#
    )
}
