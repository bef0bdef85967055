//! Images made on the spot, the same bytes in every run: a pause image, the pods' image, and a big one to be pulled.
//!
//! In: Debian's static busybox, the pause program. Out: OCI layout archives with gzip layers. The big image stands for a
//! usual application image: some layers, thousands of files, most of them small, text beside binaries, which gzip makes
//! about 2.5 times smaller. Nothing is downloaded.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// containerd's sandbox image: Pintle's own pause program, so that both sides' infra process is the same.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pintle-bench-pause:1";
/// What the pods run: busybox, and a program that waits and ends on SIGTERM.
pub(crate) const POD_IMAGE: &str = "localhost/pintle-bench:1";
/// The big image, as it is called in an archive.
pub(crate) const BIG_IMAGE: &str = "localhost/pintle-bench-big:1";

const BIG_LAYERS: usize = 5;
const BIG_LAYER_BYTES: u64 = 20_000_000;
const BLOCK: usize = 512;

/// A layer: the tar's digest and the compressed bytes.
struct Layer {
    diff_id: String,
    blob: Vec<u8>,
}

/// Writes the pause image.
pub(crate) fn write_pause(out: &Path) -> Result<()> {
    let mut layer = Tar::new();
    layer.file("pause", pintle_pause::PAUSE, 0o755)?;
    write_archive(out, PAUSE_IMAGE, "/pause", vec![layer.finish()?])
}

/// Writes the pods' image.
pub(crate) fn write_pod(out: &Path) -> Result<()> {
    let path = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let path = path.context("no busybox: run `integration/setup bench`")?;
    let busybox = fs::read(path).with_context(|| format!("reading {path}"))?;
    let mut layer = Tar::new();
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        layer.dir(dir)?;
    }
    layer.file("bin/busybox", &busybox, 0o755)?;
    for applet in ["sh", "true", "cat", "sleep"] {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    layer.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)?;
    let mut second = Tar::new();
    second.file("bin/idle", pintle_pause::PAUSE, 0o755)?;
    write_archive(out, POD_IMAGE, "/bin/idle", vec![layer.finish()?, second.finish()?])
}

/// Writes the big image; gives the bytes of its files and how many there are.
pub(crate) fn write_big(out: &Path) -> Result<(u64, usize)> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut layers, mut bytes, mut files) = (Vec::new(), 0, 0);
    for number in 0..BIG_LAYERS {
        let mut layer = Tar::new();
        let mut held = 0;
        while held < BIG_LAYER_BYTES {
            if files % 20 == 0 {
                layer.dir(&format!("app/layer{number}/part{}", files / 20))?;
            }
            let content = content(&mut random, files % 4 == 0);
            let path = format!("app/layer{number}/part{}/file{files}", files / 20);
            layer.file(&path, &content, 0o644)?;
            held += content.len() as u64;
            files += 1;
        }
        bytes += held;
        layers.push(layer.finish()?);
    }
    write_archive(out, BIG_IMAGE, "/bin/none", layers)?;
    Ok((bytes, files))
}

/// A file's content: mostly a few KiB, now and then megabytes.
fn content(random: &mut Random, binary: bool) -> Vec<u8> {
    let doublings = random.below(14).min(random.below(16)).min(random.below(16));
    let size = 200 + random.below(500 << doublings);
    let mut content = Vec::with_capacity(size + BLOCK);
    while content.len() < size {
        if binary && random.below(2) == 0 {
            // Code and data: bytes that no compressor makes smaller.
            content.extend((0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()));
        } else {
            // Text: words out of four thousand.
            for _ in 0..BLOCK / 8 {
                let word = Random(random.below(4096) as u64 + 1).next();
                write!(content, "{:x} ", word >> (40 + word % 16)).unwrap_or_default();
            }
        }
    }
    content.truncate(size);
    content
}

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64)).unwrap_or(0)
    }
}

/// A layer being written.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).context("writing a layer")
    }

    fn dir(&mut self, path: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755);
        self.0.append_data(&mut header, format!("{path}/"), &[][..]).context("writing a layer")
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.0.append_link(&mut header, path, target).context("writing a layer")
    }

    fn finish(self) -> Result<Layer> {
        let plain = self.0.into_inner().context("writing a layer")?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&plain).context("compressing a layer")?;
        let blob = encoder.finish().context("compressing a layer")?;
        Ok(Layer { diff_id: digest(&plain), blob })
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

fn write_archive(out: &Path, name: &str, program: &str, layers: Vec<Layer>) -> Result<()> {
    let mut blobs = Vec::new();
    let mut add = |media_type: &str, data: Vec<u8>| {
        let descriptor = json!({"mediaType": media_type, "digest": digest(&data), "size": data.len()});
        blobs.push(data);
        descriptor
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let layers: Vec<_> = layers
        .into_iter()
        .map(|layer| add("application/vnd.oci.image.layer.v1.tar+gzip", layer.blob))
        .collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": [program], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
    let mut manifest = add(manifest_type, manifest.to_string().into_bytes());
    let tag = name.rsplit(':').next().unwrap_or(name);
    manifest["annotations"] =
        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    let mut archive =
        Tar(tar::Builder::new(Vec::with_capacity(blobs.iter().map(|blob| blob.len() + 1024).sum())));
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    archive.file("index.json", index.as_bytes(), 0o644)?;
    for blob in &blobs {
        archive.file(&format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
    }
    let bytes = archive.0.into_inner().context("writing an archive")?;
    fs::write(out, bytes).with_context(|| format!("writing {}", out.display()))
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(data: &[u8]) -> String {
    let hex: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Reads a file through once, so that the page cache holds it.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_same_bytes_in_every_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let archives = ["a.tar", "b.tar"].map(|name| dir.path().join(name));
        for archive in &archives {
            write_pause(archive).expect("an archive");
        }
        let [a, b] = archives.map(|path| fs::read(path).expect("an archive"));
        assert!(a == b && a.len() > 1024);
    }

    #[test]
    fn the_big_image_s_files_are_many_and_mostly_small() {
        let mut random = Random(1);
        let mut sizes: Vec<usize> = (0..200).map(|_| content(&mut random, false).len()).collect();
        sizes.sort_unstable();
        assert!(sizes[100] < 20_000 && sizes[199] > 50_000, "{} {}", sizes[100], sizes[199]);
    }
}
