//! An image made of Debian's static busybox, as `docker save` would write it.

use std::{io::Write as _, path::Path};

use sha2::{Digest as _, Sha256};

/// The image's name.
pub(crate) const NAME: &str = "test.invalid/busybox:1";

const APPLETS: [&str; 33] = [
    "mknod", "sh", "cat", "sleep", "echo", "true", "false", "id", "hostname", "ls", "nc", "ip", "readlink",
    "mount", "touch", "dd", "env", "kill", "ps", "stat", "head", "tail", "wc", "grep", "test", "mkdir", "rm",
    "seq", "date", "pwd", "wget", "httpd", "dmesg",
];

/// The archive's bytes.
pub(crate) fn archive() -> Vec<u8> {
    let layer = layer();
    let diff_id = hex(&layer);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"],
            "Cmd": ["/bin/sh", "-c", "echo from the image"],
            "WorkingDir": "/work",
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created_by": "test"}],
    });
    let config = serde_json::to_vec(&config).unwrap();
    let config_name = format!("{}.json", hex(&config));
    let manifest = serde_json::json!([{
        "Config": config_name, "RepoTags": [NAME], "Layers": [format!("{diff_id}/layer.tar")],
    }]);
    let mut tar = tar::Builder::new(Vec::new());
    add_file(&mut tar, &config_name, &config, 0o644);
    add_file(&mut tar, &format!("{diff_id}/layer.tar"), &layer, 0o644);
    add_file(&mut tar, "manifest.json", &serde_json::to_vec(&manifest).unwrap(), 0o644);
    tar.into_inner().unwrap()
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/", "var/", "run/", "work/", "root/"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if dir == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, dir, std::io::empty()).unwrap();
    }
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
    add_file(&mut tar, "bin/busybox", &busybox, 0o755);
    add_file(
        &mut tar,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/work:/bin/sh\n",
        0o644,
    );
    add_file(&mut tar, "etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n", 0o644);
    for applet in APPLETS {
        add_link(&mut tar, &format!("bin/{applet}"), "busybox");
    }
    add_link(&mut tar, "var/run", "/run");
    add_link(&mut tar, "escape", "/../../../../tmp");
    tar.into_inner().unwrap()
}

fn add_link(tar: &mut tar::Builder<Vec<u8>>, name: &str, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    tar.append_link(&mut header, name, target).unwrap();
}

fn add_file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, Path::new(name), content).unwrap();
    tar.get_mut().flush().unwrap();
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
