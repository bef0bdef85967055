//! Debian's containerd as an installation guide sets it up, with directories of its own.
//!
//! In: a directory. Out: configuration files, command lines; at the end what is left of it is killed by its id.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{ground::Ground, images};

const PLUGIN_DIRECTORIES: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// The daemon's command.
pub(crate) fn daemon(ground: &Ground, dir: &Path) -> Command {
    let networks = dir.join("cni");
    fs::create_dir_all(&networks).expect("a directory");
    fs::write(networks.join("10-cri.conflist"), network(dir)).expect("a network's configuration");
    let config = dir.join("config.toml");
    fs::write(&config, configuration(dir)).expect("a configuration");
    let mut command = ground.command("containerd");
    command.arg("--config").arg(config);
    command
}

/// The command that gives it an image.
pub(crate) fn import(ground: &Ground, dir: &Path, archive: &Path) -> Command {
    let mut command = ground.command("ctr");
    command.arg("--address").arg(dir.join("sock"));
    command.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    command
}

/// What differs from the defaults is the places, the pause image, and what a machine without CAP_SYS_RESOURCE or AppArmor
/// needs.
fn configuration(dir: &Path) -> String {
    let plugins = PLUGIN_DIRECTORIES.iter().map(PathBuf::from).find(|dir| dir.join("bridge").exists());
    let plugins = plugins.expect("containernetworking-plugins is installed");
    let (dir, plugins, pause) = (dir.display(), plugins.display(), images::PAUSE);
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
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

fn network(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "cri", "plugins": [
  {{"type": "bridge", "bridge": "cri0", "isGateway": true,
   "ipam": {{"type": "host-local", "dataDir": "{dir}/leases", "ranges": [[{{"subnet": "10.88.0.0/16"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#
    )
}
