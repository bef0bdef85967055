//! The doctor: compares what an instance ought to have on the node with what the kernel and the disk have.
//!
//! In: the engine's configuration, the records on disk and, while an engine runs, what it holds in memory ([`EngineSide`]). Out:
//! a [`Report`] of [`Finding`]s, each explained; repairs on request. Reading ([`expected`], [`found`]) is apart from comparing
//! ([`compare`], pure) and from repairing ([`repair`]).
//!
//! How it is sound beside a running engine: every id that the engine works on right now is left out; and what is found counts only
//! if it is found again, with records read anew, in every one of several looks over some seconds ([`Doctor::examine`]). What the engine
//! keeps in memory too (leases, snapshots, layers) is given back by the engine itself. Without an engine its lock is held.
//!
//! It does not look at what belongs to an agent (pod directories, the `kubepods` tree): that is for an [`AgentPart`].

pub mod compare;
pub mod examine;
pub mod expected;
pub mod finding;
pub mod found;
mod network;
pub mod repair;
mod store;

pub use examine::{AgentPart, Doctor, EngineSide, Held, Holds, Release, Report, Stopped};
pub use expected::Expected;
pub use finding::{Class, Finding, Kind, Outcome, Remedy};
