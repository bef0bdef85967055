//! The `pintle` command's crictl-like verbs, over any CRI v1 socket: Pintle's own, containerd's, CRI-O's.
//!
//! In: parsed arguments ([`Command`], [`GlobalArgs`]) and a runtime's unix socket. Out: text on stdout and
//! stderr, and an exit code. Holds no state between runs, starts no daemon, and decides nothing for a pod: each
//! verb is a few calls and a printer. Verbs that CRI has no call for (`import`, `get pods`) ask Pintle's own
//! extension on the same socket and say so when the socket belongs to somebody else.

mod age;
mod command;
mod config;
mod conversation;
mod duration;
mod error;
mod explain;
mod filter;
mod io;
mod logs;
mod output;
mod pod_row;
mod progress;
mod protojson;
mod resolve;
mod session;
mod settings;
mod size;
mod table;
mod terminal;
mod verbs;

pub use command::{Cli, Command, completion, run, run_to};
pub use error::{CliError, Noun};
pub use explain::explanation;
pub use io::Io;
pub use settings::{GlobalArgs, Settings};
