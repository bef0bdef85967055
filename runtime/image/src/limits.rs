//! The bounds on everything that comes from a registry or an archive, in one place.
//!
//! In: nothing. Out: constants, and [`LayerLimits`], which the unpacker takes as an argument so that its tests can be small.

/// Largest manifest or image index.
pub(crate) const MANIFEST_BYTES: u64 = 4 << 20;
/// Largest image configuration.
pub(crate) const CONFIG_BYTES: u64 = 8 << 20;
/// Largest answer of a token server; tokens have a few kilobytes.
pub(crate) const TOKEN_BYTES: u64 = 1 << 20;
/// What is read of a registry's error; 200 characters of it are shown.
pub(crate) const ERROR_BYTES: u64 = 64 << 10;
/// Largest `hosts.toml` and CA file.
pub(crate) const HOSTS_FILE_BYTES: u64 = 1 << 20;
/// Annotations of a manifest that are told with the image, keys and values together.
pub(crate) const ANNOTATION_BYTES: usize = 8 << 10;
/// Most layers in an image; the figure other engines use too.
pub(crate) const LAYERS: usize = 127;
/// Most entries in an index, nested ones included.
pub(crate) const INDEX_ENTRIES: usize = 1024;
/// Most files in an archive given to `import`.
pub(crate) const ARCHIVE_ENTRIES: u64 = 100_000;
/// Largest single blob, compressed.
pub(crate) const BLOB_BYTES: u64 = 256 << 30;

/// Largest archive given to `import`, uncompressed; several of the largest images there are.
pub(crate) const ARCHIVE_BYTES: u64 = 1 << 40;
/// Uncompressed bytes of an archive that are always fine, whatever it was compressed to.
const ARCHIVE_FREE_BYTES: u64 = 4 << 30;
/// Uncompressed bytes of all layers of an image that are always fine; each layer has an equal share.
const IMAGE_FREE_BYTES: u64 = 16 << 30;
/// Uncompressed bytes for each compressed one. Gzip itself cannot do more than 1032; real layers stay below 20.
const RATIO: u64 = 100;
/// Largest layer on disk. Layers with model weights have some tens of gigabytes.
const UNPACKED_BYTES: u64 = 1 << 40;

/// Bounds on one unpacked layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerLimits {
    /// Most tar entries. Large images have some hundred thousand files.
    pub(crate) entries: u64,
    /// Longest path or link target in bytes; the kernel's PATH_MAX.
    pub(crate) path: usize,
    /// Deepest path in components, so that no walk over a layer takes long. Real trees stay below 100.
    pub(crate) depth: usize,
    /// Extended headers (PAX, GNU long names) of one entry in bytes, all together.
    pub(crate) extended_header: u64,
    /// Most extended attributes of an entry. Real files have one or two.
    pub(crate) xattrs: usize,
    /// Uncompressed bytes that are always fine.
    pub(crate) free_bytes: u64,
    /// Beyond that: at most so many uncompressed bytes for each compressed one.
    pub(crate) ratio: u64,
    /// Most uncompressed bytes, whatever the compressed size.
    pub(crate) bytes: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            path: 4095,
            depth: 1024,
            extended_header: 1 << 20,
            xattrs: 64,
            free_bytes: IMAGE_FREE_BYTES,
            ratio: RATIO,
            bytes: UNPACKED_BYTES,
        }
    }
}

impl LayerLimits {
    /// For one of so many layers of an image.
    pub(crate) fn for_image_of(layers: usize) -> Self {
        let share = IMAGE_FREE_BYTES / u64::try_from(layers.max(1)).unwrap_or(u64::MAX);
        Self { free_bytes: share, ..Self::default() }
    }

    /// For an archive given to `import`.
    pub(crate) fn for_archive() -> Self {
        Self {
            entries: ARCHIVE_ENTRIES,
            free_bytes: ARCHIVE_FREE_BYTES,
            bytes: ARCHIVE_BYTES,
            ..Self::default()
        }
    }

    /// Most uncompressed bytes for so many compressed bytes.
    pub(crate) fn unpacked_bytes(&self, compressed: u64) -> u64 {
        self.free_bytes.saturating_add(compressed.saturating_mul(self.ratio)).min(self.bytes)
    }
}
