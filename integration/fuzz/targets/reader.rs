//! The reading side of container logs, from the command line's sources.

#[path = "../../../agent/cli/src/logs/file.rs"]
pub(crate) mod file;
#[path = "../../../agent/cli/src/logs/line.rs"]
pub(crate) mod line;
#[path = "../../../agent/cli/src/logs/print.rs"]
pub(crate) mod print;
#[path = "../../../agent/cli/src/logs/since.rs"]
pub(crate) mod since;
#[path = "../../../agent/cli/src/logs/tail.rs"]
pub(crate) mod tail;
