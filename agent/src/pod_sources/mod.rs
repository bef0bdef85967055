//! Where pods come from. Merging what the sources say is `pintle_core::pod_sources`; this module reads them.

pub(crate) mod file;
