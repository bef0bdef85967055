//! How a pull or an import tells how far it is.
//!
//! In: nothing. Out: calls on a listener, from any thread. It draws nothing itself.

/// Listens to the progress of one pull or import. Calls come from several threads; they must be quick.
pub trait Progress: std::fmt::Debug + Send + Sync {
    /// Work on a blob (by digest) begins; `total` is its size in bytes.
    fn started(&self, digest: &str, total: u64);
    /// So many bytes of the blob have arrived in all.
    fn advanced(&self, digest: &str, done: u64);
    /// The blob is here and, if a layer, unpacked.
    fn finished(&self, digest: &str);
}
