//! Images with something hostile in them, made from the test image at test time.
//!
//! In: a name, what to change in the image's configuration, a function that fills one more layer. Out: an archive to
//! import. The layer is made with the host's `tar`, which keeps links, FIFOs and device nodes as they are.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::node::image_archive;

/// The program that tries things (`integration/attacker`): static, to be run as `/attacker GROUP …`.
const ATTACKER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/attacker"));

/// Writes the attacker as an executable file.
pub fn write_attacker(path: &Path) {
    fs::write(path, ATTACKER).expect("the attacker can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
}

/// Makes an archive with the image `name` in the directory: the test image, the attacker as `/attacker`, and what `fill`
/// puts into the directory it is given. The members of `config` go over those of the image's configuration.
pub fn hostile_image(dir: &Path, name: &str, config: &Value, fill: impl FnOnce(&Path)) -> PathBuf {
    let work = tempfile::tempdir_in(dir).expect("a directory can be made");
    let at = |file: &str| work.path().join(file);
    tar(&["-xf", &image_archive().to_string_lossy(), "-C", &work.path().to_string_lossy()]);
    fs::create_dir(at("layer")).expect("a directory can be made");
    write_attacker(&at("layer/attacker"));
    fill(&at("layer"));
    let layer = at("layer.tar");
    tar(&[
        "--owner=0",
        "--group=0",
        "-cf",
        &layer.to_string_lossy(),
        "-C",
        &at("layer").to_string_lossy(),
        ".",
    ]);
    let read = |file: &str| -> Value {
        serde_json::from_slice(&fs::read(at(file)).expect("it is in the archive")).expect("JSON")
    };
    let mut image = read("config.json");
    let digest = Sha256::digest(fs::read(&layer).expect("it was written"));
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    image["rootfs"]["diff_ids"].as_array_mut().expect("a list").push(json!(format!("sha256:{digest}")));
    image["history"] = json!([]);
    for (key, value) in config.as_object().into_iter().flatten() {
        image["config"][key] = value.clone();
    }
    let mut manifest = read("manifest.json");
    manifest[0]["RepoTags"] = json!([name]);
    manifest[0]["Layers"].as_array_mut().expect("a list").push(json!("layer.tar"));
    for (file, value) in [("config.json", &image), ("manifest.json", &manifest)] {
        fs::write(at(file), value.to_string()).expect("it can be written");
    }
    let archive = dir.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let files = ["manifest.json", "config.json", "base.tar", "site.tar", "layer.tar"];
    let archive_name = archive.to_string_lossy().into_owned();
    let folder = work.path().to_string_lossy().into_owned();
    tar(&[&["-cf", archive_name.as_str(), "-C", folder.as_str()][..], &files[..]].concat());
    archive
}

fn tar(arguments: &[&str]) {
    let output = Command::new("tar").args(arguments).output().expect("tar runs");
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
