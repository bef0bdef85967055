//! The bounds on everything that comes from a registry or an archive, in one place.
//!
//! In: nothing. Out: constants, and [`LayerLimits`], which the unpacker takes as an argument so that its tests can be small.

/// Largest manifest or image index.
pub(crate) const MANIFEST_BYTES: u64 = 4 << 20;
/// Largest image configuration.
pub(crate) const CONFIG_BYTES: u64 = 8 << 20;
/// Largest `hosts.toml` and CA file.
pub(crate) const HOSTS_FILE_BYTES: u64 = 1 << 20;
/// Most layers in an image; the figure other engines use too.
pub(crate) const LAYERS: usize = 127;
/// Most entries in an index, nested ones included.
pub(crate) const INDEX_ENTRIES: usize = 1024;
/// Most files in an archive given to `import`.
pub(crate) const ARCHIVE_ENTRIES: u64 = 100_000;
/// Largest single blob, compressed.
pub(crate) const BLOB_BYTES: u64 = 256 << 30;

/// Bounds on one unpacked layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerLimits {
    /// Most tar entries.
    pub(crate) entries: u64,
    /// Longest path or link target in bytes; the kernel's PATH_MAX.
    pub(crate) path: usize,
    /// Largest extended header (PAX, GNU long names) in bytes.
    pub(crate) extended_header: u64,
    /// Uncompressed bytes that are always fine.
    pub(crate) free_bytes: u64,
    /// Beyond that: at most so many uncompressed bytes for each compressed one.
    pub(crate) ratio: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { entries: 2_000_000, path: 4095, extended_header: 1 << 20, free_bytes: 4 << 30, ratio: 100 }
    }
}

impl LayerLimits {
    /// Most uncompressed bytes for a layer of so many compressed bytes.
    pub(crate) fn unpacked_bytes(&self, compressed: u64) -> u64 {
        self.free_bytes.saturating_add(compressed.saturating_mul(self.ratio))
    }
}
