//! Seccomp profiles, and the programs for the kernel that they become.
//!
//! In: an OCI `LinuxSeccomp`, the text of a profile file ([`file::parse`]), or a container's capabilities, from which the
//! default profile follows ([`default::profile`]). Out: a [`Filter`]: flags and a classic BPF program ([`compile`]). Pure:
//! no file is read, nothing is loaded into the kernel, and what a profile may cost is bounded.

pub mod arch;
mod code;
mod compile;
pub mod default;
mod default_calls;
pub mod file;
#[cfg(test)]
mod interpreter;
mod plan;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator};

pub use arch::Arch;
pub use compile::{Filter, Instruction, compile};

/// The most instructions of a program: the kernel's `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// The most entries of a profile's `syscalls`. Docker's own profile has about 30.
pub const MAX_RULES: usize = 4096;
/// The most names and conditions in all of them together; no architecture has more than some 500 calls.
pub const MAX_PARTS: usize = 16_384;

/// Why a profile cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// It is no JSON of the expected shape.
    #[error("seccomp profile: {reason}")]
    Parse {
        /// What is wrong, and where.
        reason: String,
    },
    /// A field says what cannot be.
    #[error("seccomp profile: {field}: {reason}")]
    Field {
        /// The field, in OCI's spelling.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A condition on a call's argument. With all fields given the builder has nothing to complain about; were it to, there is no
/// profile rather than one without the condition.
fn argument(
    index: usize,
    (value, second): (u64, Option<u64>),
    op: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, SeccompError> {
    let built = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    let built = match second {
        Some(second) => built.value_two(second),
        None => built,
    };
    built.build().map_err(|error| SeccompError::field("syscalls[].args", error.to_string()))
}

impl SeccompError {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }
}
