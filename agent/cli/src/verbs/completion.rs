//! `completion`: the arguments only; the script is written by [`crate::completion`].

use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// Shell to write for
    pub shell: Shell,
}
