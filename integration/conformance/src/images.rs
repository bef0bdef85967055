//! Images that are given to a runtime as archives.
//!
//! In: a program or a configuration. Out: `docker save` archives: containerd's infra image, and one whose configuration sets
//! everything that a container can take from its image.

use std::{fs, path::Path};

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// containerd's sandbox image: Pintle's own pause program.
pub(crate) const PAUSE: &str = "localhost/pintle-cri-pause:1";
/// An image with an entrypoint, a command, a user, a working directory, a variable and a stop signal.
pub(crate) const FULL: &str = "localhost/pintle-cri-full:1";

/// Writes the sandbox image.
pub(crate) fn write_pause(out: &Path) {
    let mut layer = Tar::new();
    layer.file("pause", pintle_pause::PAUSE, 0o755);
    write(out, &[PAUSE], layer, &json!({"Entrypoint": ["/pause"], "WorkingDir": "/"}));
}

/// Writes the image that sets everything.
pub(crate) fn write_full(out: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = fs::read(busybox.expect("busybox-static is installed")).expect("busybox can be read");
    let mut layer = Tar::new();
    layer.file("bin/busybox", &busybox, 0o755);
    for applet in ["sh", "echo", "cat", "sleep", "id", "pwd", "env"] {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n", 0o644);
    layer.file("etc/group", b"root:x:0:\nweb:x:1000:\nstaff:x:50:web\n", 0o644);
    layer.file("srv/data/one", b"one\n", 0o644);
    layer.file("srv/data/deep/two", b"two\n", 0o644);
    write(
        out,
        &[FULL],
        layer,
        &json!({
            "Entrypoint": ["/bin/echo", "entrypoint"], "Cmd": ["command"], "WorkingDir": "/srv",
            "User": "web", "Env": ["PATH=/bin", "OF_IMAGE=image", "BOTH=image"], "StopSignal": "SIGUSR1",
        }),
    );
}

/// Writes a small image with content of its own, under several names.
pub(crate) fn write_own(out: &Path, names: &[&str], content: &str) {
    let mut layer = Tar::new();
    layer.file("content", content.as_bytes(), 0o644);
    write(out, names, layer, &json!({"Entrypoint": ["/content"]}));
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).expect("an archive in memory");
    }

    fn link(&mut self, path: &str, target: &str) {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).expect("an archive in memory");
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("an archive in memory")
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn write(out: &Path, names: &[&str], layer: Tar, config: &serde_json::Value) {
    let layer = layer.finish();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    })
    .to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let manifest = json!([{"Config": config_name, "RepoTags": names, "Layers": ["layer.tar"]}]).to_string();
    let mut archive = Tar::new();
    archive.file(&config_name, config.as_bytes(), 0o644);
    archive.file("layer.tar", &layer, 0o644);
    archive.file("manifest.json", manifest.as_bytes(), 0o644);
    fs::write(out, archive.finish()).expect("an archive can be written");
}

fn hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
