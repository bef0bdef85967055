//! A process in a container and the user, brought together: what `exec` and `attach` have in common.
//!
//! In: a streaming URL's process, standard input, a terminal. Out: its output on stdout and stderr as it comes, and its exit
//! code. Ends with the process, at the keys that detach, or at a signal.

use std::{future::pending, io::Write, process::ExitCode};

use pintle_streaming::{
    Streams,
    client::{self, ClientError, Command, Resizer},
    spdy::{Receiver, Sender},
};

use crate::{
    error::CliError,
    io::Io,
    terminal::{self, Detach, News, Raw},
};

/// What the user wants of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

impl Wanted {
    /// Output always; a terminal has one.
    pub(crate) fn streams(self) -> Streams {
        Streams { stdin: self.stdin, stdout: true, stderr: !self.tty, tty: self.tty }
    }

    /// Refuses a terminal that nobody types on, before anything is asked of the runtime.
    pub(crate) fn check(self) -> Result<(), CliError> {
        if self.tty && !self.stdin {
            let reason = "a terminal needs -i too".to_owned();
            return Err(CliError::Argument { flag: "--tty", reason });
        }
        if self.tty && !rustix::termios::isatty(rustix::stdio::stdin()) {
            let reason = "standard input is not a terminal".to_owned();
            return Err(CliError::Argument { flag: "--tty", reason });
        }
        Ok(())
    }
}

/// Talks to the process at `url`.
pub(crate) async fn hold(
    what: &str,
    url: &str,
    wanted: Wanted,
    io: &mut Io<'_>,
) -> Result<ExitCode, CliError> {
    let failed = |source| CliError::Stream { what: what.to_owned(), source };
    let command = client::command(url, wanted.streams()).await.map_err(failed)?;
    let mut raw = if wanted.tty { Some(Raw::enter()?) } else { None };
    let ended = talk(command, wanted, &mut raw, io).await;
    // The terminal is the user's again before anything is said on it.
    drop(raw);
    ended?.map_err(failed)
}

type Ended = Result<Result<ExitCode, ClientError>, CliError>;

async fn talk(command: Command, wanted: Wanted, raw: &mut Option<Raw>, io: &mut Io<'_>) -> Ended {
    let Command { stdin, stdout, stderr, mut terminal, mut outcome } = command;
    let input = feed(stdin, wanted.tty);
    let signals = watch(raw, terminal.as_mut());
    let output = async {
        if let Err(error) = show(stdout, stderr, io).await? {
            return Ok(Err(error));
        }
        Ok(outcome.wait().await.map(exit_code))
    };
    // Whichever ends first ends the conversation; what is dropped then hangs up.
    tokio::select! {
        ended = output => ended,
        () = input => Ok(Ok(ExitCode::SUCCESS)),
        number = signals => Ok(Ok(exit_code(128 + number))),
    }
}

/// Passes standard input on. Returns when the user leaves.
async fn feed(to: Option<Sender>, has_keys: bool) {
    let Some(mut to) = to else { return pending().await };
    let mut from = terminal::input();
    let mut detach = Detach::default();
    while let Some(piece) = from.recv().await {
        let (piece, leaves) = match has_keys {
            true => {
                let (passed, leaves) = detach.filter(&piece);
                (passed.into(), leaves)
            }
            false => (piece, false),
        };
        // Whoever does not take it any more tells on the other streams why.
        if to.send(piece).await.is_err() {
            return pending().await;
        }
        if leaves {
            return;
        }
    }
    to.finish();
    pending().await
}

/// Tells the size of the terminal whenever it is another. Returns the number of the signal that ends the verb.
async fn watch(raw: &mut Option<Raw>, mut to: Option<&mut Resizer>) -> i32 {
    loop {
        if let (Some(to), Some(size)) = (&mut to, terminal::size())
            && to.resize(size).await.is_err()
        {
            return pending().await;
        }
        match terminal::news(raw).await {
            News::Size => {}
            News::End(number) => return number,
        }
    }
}

/// Writes both outputs as they come, to their ends.
async fn show(
    mut stdout: Option<Receiver>,
    mut stderr: Option<Receiver>,
    io: &mut Io<'_>,
) -> Result<Result<(), ClientError>, CliError> {
    while stdout.is_some() || stderr.is_some() {
        // Cancel-safe: a piece is taken or not.
        let (piece, name) = tokio::select! {
            piece = next(&mut stdout) => (piece, "stdout"),
            piece = next(&mut stderr) => (piece, "stderr"),
        };
        let (from, to) = match name {
            "stdout" => (&mut stdout, &mut io.out),
            _ => (&mut stderr, &mut io.err),
        };
        match piece {
            Ok(Some(piece)) => {
                to.write_all(&piece)?;
                to.flush()?;
            }
            Ok(None) => *from = None,
            Err(error) if client::is_reset(&error) => *from = None,
            Err(source) => return Ok(Err(ClientError::Broken { name, source })),
        }
    }
    Ok(Ok(()))
}

async fn next(from: &mut Option<Receiver>) -> std::io::Result<Option<bytes::Bytes>> {
    match from {
        Some(from) => from.receive().await,
        None => pending().await,
    }
}

/// The code the shell would see; anything out of range is a plain failure.
pub(crate) fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
