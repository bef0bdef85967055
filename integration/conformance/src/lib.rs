//! What CRI v1 says, as cases that run against any runtime through the same client; here against Pintle and Debian's
//! containerd.
//!
//! In: the protocol's text, which each case quotes in its own words ([`Case::rule`]). Out: for each case and runtime whether
//! it holds, as a table; a difference must be one that the case names, with who is right, and one that is named must be
//! there. One file per call in `calls`. Nothing here knows how a runtime does what it does.
//!
//! ```text
//!  report ─► calls::* (cases) ─► run (a case's pods, what is left is removed) ─► side (one runtime) ─► ground (namespaces)
//! ```

mod calls;
mod case;
mod config;
mod containerd;
mod ground;
mod images;
mod pintle;
mod registry;
mod report;
mod run;
mod side;

pub use calls::{all, names_of_calls};
pub use case::{Case, Kind};
pub use report::{Report, conformance};
