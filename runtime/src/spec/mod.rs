//! What the engine asks the supervisor to make, as OCI runtime configurations.
//!
//! In: CRI configurations, an image's configuration, facts of the node. Out: an OCI `Spec`, or [`Error`] saying which
//! field cannot be had. Pure: no file is read, no clock, nothing is logged; what has to be looked up on the node
//! (users, mount points, devices) comes in as values. Nothing that was asked for is silently left out.

pub mod bounds;
pub mod capabilities;
pub mod cdi;
pub mod container;
pub mod devices;
pub mod dns;
pub mod infra;
pub mod mounts;
pub mod namespaces;
pub mod not_here;
pub mod ports;
pub mod process;
pub mod resource_change;
pub mod resources;
pub mod seccomp;
pub mod signal;
pub mod sysctls;
pub mod user;
pub mod user_namespace;
pub mod validate;

/// Why a configuration cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It can never be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, in CRI's spelling.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is not built yet.
    #[error("{field}: {reason}")]
    Unsupported {
        /// The field, in CRI's spelling.
        field: &'static str,
        /// What is not supported.
        reason: String,
    },
}

pub use SpecError as Error;

impl SpecError {
    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    pub(crate) fn unsupported(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Unsupported { field, reason: reason.into() }
    }
}

/// Where limits on huge pages are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hugetlb {
    /// Nowhere: no hierarchy has the controller.
    #[default]
    None,
    /// In a v1 hierarchy.
    Legacy,
    /// In the v2 hierarchy, which on a hybrid node stands beside those of v1.
    Unified,
}

/// What the node can do, found out once.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// Whether the node has cgroup v2 only.
    pub cgroup_v2: bool,
    /// Whether swap can be limited per cgroup.
    pub swap_limits: bool,
    /// Where limits on huge pages are set.
    pub hugetlb: Hugetlb,
    /// The sizes of huge pages, as `2MB`.
    pub hugepage_sizes: Vec<String>,
    /// The capabilities that the engine has and can give, as `CAP_…`.
    pub capabilities: Vec<String>,
    /// The lowest `oom_score_adj` the engine may set.
    pub oom_floor: i32,
    /// The soft and the hard limit on open files that containers get; absent: the supervisor's.
    pub open_files: Option<(u64, u64)>,
}
