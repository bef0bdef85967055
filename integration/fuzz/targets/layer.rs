//! Fuzzes the unpacking of a layer.
//!
//! In: a first byte that says what follows: a tar stream (plain, gzip or zstd), one whose checksums are put right, or a
//! list of entries as text (see [`archive`]). Checked: no panic; the bounds hold; whatever the archive says, nothing
//! outside of its directory changes, and all of it can be removed.
//!
//! Layers are unpacked by a thread that has mounts and a root of its own: a tmpfs with some files that an archive might
//! aim at. What leaves the layer's directory ends there and not on this machine. Needs root.
#![no_main]
#![allow(dead_code, reason = "the modules are those of the image store")]

#[path = "../../../runtime/image/src/compression.rs"]
mod compression;
#[path = "../../../runtime/image/src/digest.rs"]
mod digest;
#[path = "../../../runtime/image/src/error.rs"]
mod error;
#[path = "../../../runtime/image/src/layer_root.rs"]
mod layer_root;
#[path = "../../../runtime/image/src/limits.rs"]
mod limits;
#[path = "../../../runtime/image/src/read_ahead.rs"]
mod read_ahead;
#[path = "../../../runtime/image/src/resolve.rs"]
mod resolve;
#[path = "../../../runtime/image/src/tar_stream.rs"]
mod tar_stream;
#[path = "../../../runtime/image/src/tree.rs"]
mod tree;
#[path = "../../../runtime/image/src/unpack.rs"]
mod unpack;

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use compression::Decompressed;
use digest::Digest;
use error::Error;
use libfuzzer_sys::fuzz_target;
use limits::LayerLimits;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tar::{EntryType, Header};
use unpack::LayerStream;

const ENTRIES: u64 = 200;

/// Small enough that small archives reach them.
fn limits() -> LayerLimits {
    LayerLimits {
        entries: ENTRIES,
        path: 512,
        extended_header: 2048,
        free_bytes: 1 << 18,
        ratio: 10,
        ..LayerLimits::default()
    }
}
/// The layer's directory, as the thread sees it.
const LAYER: &str = "/layer";

static WORKER: LazyLock<Worker> = LazyLock::new(Worker::start);

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let archive = match how % 3 {
        0 => rest.to_vec(),
        1 => repaired(rest),
        _ => archive(rest),
    };
    WORKER.unpack(archive);
});

/// The thread that unpacks.
struct Worker {
    archives: std::sync::Mutex<Sender<Vec<u8>>>,
    done: std::sync::Mutex<Receiver<()>>,
}

impl Worker {
    fn start() -> Self {
        let (archives, wanted) = channel::<Vec<u8>>();
        let (tell, done) = channel();
        std::thread::spawn(move || {
            let outside = enter_root();
            for archive in wanted {
                unpack_one(&archive, &outside);
                tell.send(()).expect("the fuzzer waits");
            }
        });
        Self { archives: archives.into(), done: done.into() }
    }

    fn unpack(&self, archive: Vec<u8>) {
        self.archives.lock().expect("one at a time").send(archive).expect("the thread lives");
        self.done.lock().expect("one at a time").recv().expect("the thread lives");
    }
}

/// Gives this thread a root of its own and returns what is there besides the layer.
fn enter_root() -> Vec<Seen> {
    let base = tempfile::tempdir().expect("a directory");
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("unpacking is tried as root only");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
    let options = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("fuzz"), base.path(), Some("tmpfs"), options, Some("size=64m,mode=0755")).expect("tmpfs");
    let at = |name: &str| base.path().join(name);
    for dir in ["proc", "etc", "tmp", "layer"] {
        std::fs::create_dir(at(dir)).expect("made");
    }
    for (file, text) in [("etc/passwd", "root"), ("etc/shadow", "secret"), ("tmp/x", "x"), ("a", "a")] {
        std::fs::write(at(file), text).expect("written");
    }
    std::os::unix::fs::symlink("/etc", at("link")).expect("linked");
    // Attributes are set by way of /proc/self/fd.
    mount(Some("/proc"), &at("proc"), none, MsFlags::MS_BIND, none).expect("/proc");
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, &at("proc"), none, read_only, none).expect("/proc, read-only");
    nix::unistd::chroot(base.path()).expect("chroot");
    std::env::set_current_dir("/").expect("in the new root");
    seen()
}

fn unpack_one(archive: &[u8], outside: &[Seen]) {
    let root = Path::new(LAYER);
    let diff_id = Digest::of(&decompressed(archive));
    let size = archive.len() as u64;
    let stream = LayerStream { compressed: archive, compressed_size: size, diff_id, limits: limits() };
    match unpack::unpack(stream, root) {
        Ok((done, _)) => {
            let nodes = count(root);
            assert!(done.inodes <= ENTRIES * 512 && nodes <= done.inodes, "{nodes} of {}", done.inodes);
        }
        Err(error) => assert!(error.to_string().len() < 8192, "a long message: {error}"),
    }
    assert!(seen() == outside, "something outside of the layer changed: {:?}", seen());
    tree::remove_tree(root).expect("a layer can be removed");
    std::fs::create_dir(root).expect("made anew");
}

/// The bytes that the digest is of, as many as are allowed.
fn decompressed(archive: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    if let Ok(reader) = Decompressed::detect(archive) {
        reader
            .take(limits().unpacked_bytes(archive.len() as u64))
            .read_to_end(&mut plain)
            .unwrap_or_default();
    }
    plain
}

/// Inodes below a directory, itself included; a file with several names counts once.
fn count(dir: &Path) -> u64 {
    let mut inodes = std::collections::BTreeSet::from([std::fs::symlink_metadata(dir).expect("there").ino()]);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        // A path longer than the kernel takes cannot be listed.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            inodes.insert(meta.ino());
            if meta.is_dir() {
                folders.push(entry.path());
            }
            let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
            assert!(!whiteout || meta.nlink() == 1, "a whiteout with several names");
        }
    }
    inodes.len() as u64
}

/// A file outside of the layer: everything that could be changed about it.
#[derive(Debug, PartialEq)]
struct Seen {
    path: PathBuf,
    kind_and_mode: u32,
    owner: (u32, u32),
    links: u64,
    changed: (i64, i64),
    content: Vec<u8>,
}

fn seen() -> Vec<Seen> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/")];
    while let Some(folder) = folders.pop() {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(&folder).expect("listed").map(|entry| entry.expect("read").path()).collect();
        names.sort();
        for path in names {
            if path == Path::new(LAYER) || path == Path::new("/proc") {
                continue;
            }
            let meta = std::fs::symlink_metadata(&path).expect("there");
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let content = if meta.is_file() { std::fs::read(&path).expect("read") } else { Vec::new() };
            found.push(Seen {
                path,
                kind_and_mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                links: meta.nlink(),
                changed: (meta.ctime(), meta.ctime_nsec()),
                content,
            });
        }
    }
    found
}

/// A tar stream with checksums that fit: without them hardly any change would reach the unpacking.
fn repaired(stream: &[u8]) -> Vec<u8> {
    let mut stream = stream.to_vec();
    let mut at = 0;
    while let Some(block) = stream.get_mut(at..at + 512) {
        let Ok(block) = <&mut [u8; 512]>::try_from(block) else { break };
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let header = Header::from_byte_slice(block);
        let size = header.entry_size().unwrap_or(0).min(1 << 16);
        let mut header = header.clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        at += 512 + usize::try_from(size.next_multiple_of(512)).unwrap_or(0);
    }
    stream
}

/// An archive from lines `<kind> <path> [<more>]`: `d`irectory, `f`ile with content, `s`ymbolic and `h`ard link with a
/// target, `c`haracter and `b`lock device with numbers, `p`ipe, `x` for an extended header `<key> <value>` of what comes
/// next, `g` for one of all that comes, `L` for a GNU long name. A capital `F` or `D` is setuid.
fn archive(text: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for line in text.split(|byte| *byte == b'\n').take(300) {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let (kind, path, more) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let Some(kind) = kind.first() else { continue };
        append(&mut builder, *kind, (path, more));
    }
    builder.into_inner().unwrap_or_default()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, kind: u8, (path, more): (&[u8], &[u8])) {
    let mut header = Header::new_ustar();
    header.set_mode(if kind.is_ascii_uppercase() { 0o4755 } else { 0o640 });
    header.set_mtime(u64::from(kind));
    let (entry, body) = match kind {
        b'd' | b'D' => (EntryType::Directory, Vec::new()),
        b's' => (EntryType::Symlink, Vec::new()),
        b'h' => (EntryType::Link, Vec::new()),
        b'c' => (EntryType::Char, Vec::new()),
        b'b' => (EntryType::Block, Vec::new()),
        b'p' => (EntryType::Fifo, Vec::new()),
        b'x' => (EntryType::XHeader, record(path, more)),
        b'g' => (EntryType::XGlobalHeader, record(path, more)),
        b'L' => (EntryType::GNULongName, path.to_vec()),
        _ => (EntryType::Regular, more.to_vec()),
    };
    header.set_entry_type(entry);
    header.set_size(body.len() as u64);
    if matches!(kind, b'c' | b'b') {
        let number = |at: usize| more.get(at).map_or(0, |digit| u32::from(digit & 0x0f));
        drop((header.set_device_major(number(0)), header.set_device_minor(number(1))));
    }
    // As they are: the library's own setters refuse what a hostile archive has.
    let bytes = header.as_mut_bytes();
    fill(&mut bytes[..100], path);
    if matches!(kind, b's' | b'h') {
        fill(&mut bytes[157..257], more);
    }
    header.set_cksum();
    drop(builder.append(&header, &body[..]));
}

fn fill(field: &mut [u8], text: &[u8]) {
    for (place, byte) in field.iter_mut().zip(text.iter().take_while(|byte| **byte != 0)) {
        *place = *byte;
    }
}

/// `<length> <key>=<value>\n`, the length counting itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &body].concat()
}
