//! The place of the Kubernetes-compatible control plane: store, API machinery, scheduler, controllers.
//!
//! Nothing is served yet. The node agent runs standalone, from a manifest directory.
