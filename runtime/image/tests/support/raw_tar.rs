//! Tar archives written header by header, so that they may say what no builder would let them say.

use std::io::Write;

use tar::{EntryType, Header};

#[derive(Default, Clone)]
pub(crate) struct RawTar(pub(crate) Vec<u8>);

impl RawTar {
    /// An entry with any header. `path` goes into the name field as it is.
    pub(crate) fn raw(mut self, header: &mut Header, path: &str, body: &[u8]) -> Self {
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.body(body)
    }

    /// A header whose size field is what it is.
    pub(crate) fn with_size_field(mut self, path: &str, size: [u8; 12]) -> Self {
        let mut header = new_header(EntryType::Regular);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().size = size;
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.0.extend(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(self, kind: EntryType, path: &str, link: &str) -> Self {
        let mut header = new_header(kind);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        self.raw(&mut header, path, b"")
    }

    pub(crate) fn file(self, path: &str, body: &str) -> Self {
        self.raw(&mut new_header(EntryType::Regular), path, body.as_bytes())
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target)
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target)
    }

    pub(crate) fn device(self, kind: EntryType, path: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = new_header(kind);
        header.set_mode(0o666);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(&mut header, path, b"")
    }

    /// An extended header of any kind with any body.
    pub(crate) fn extended(self, kind: EntryType, body: &[u8]) -> Self {
        self.raw(&mut new_header(kind), "extended", body)
    }

    pub(crate) fn pax(self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap();
        let mut record = Vec::new();
        write!(record, "{length} {key}=").unwrap();
        record.extend(value);
        record.push(b'\n');
        self.extended(EntryType::XHeader, &record)
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn new_header(kind: EntryType) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}
