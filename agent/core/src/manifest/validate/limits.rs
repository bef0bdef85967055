//! How much a pod may consist of, in one place. What a file may consist of stands in `yaml.rs`.
//!
//! In: nothing. Out: constants. They are far above what pods have, and low enough that everything which is done for each
//! element stays quick. Kubernetes has none of them but those of its whole objects, which a node without an API server
//! has not.

/// Containers of a pod: few enough to compare each with each.
pub(crate) const CONTAINERS: usize = 256;
/// Volumes of a pod: each is a directory or a mount.
pub(crate) const VOLUMES: usize = 1024;
/// Words of a command, of arguments, and variables of a container: a shell script of a thousand lines has fewer.
pub(crate) const WORDS: usize = 4096;
/// Ports, and mounts, of a container: a mount is a system call, and memory of the kernel.
pub(crate) const PLACES: usize = 1024;
/// Labels, annotations, host aliases, tolerations and further groups of a pod: they are copied to each container.
pub(crate) const ENTRIES: usize = 1024;
/// Bytes of a path: what the kernel takes, without its zero byte.
pub(crate) const PATH: usize = 4095;
/// Bytes of an image's name: 255 for the name, 128 for the tag and 72 for the digest, in generous numbers.
pub(crate) const IMAGE: usize = 1024;
