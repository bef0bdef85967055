//! The user's own terminal, while a command in a container has it.
//!
//! In: standard input. Out: a terminal that passes every key on, its size, and keys from a thread. However the verb ends
//! (error, signal, panic), the terminal is put back as it was.

use std::{
    future::pending,
    io::{self, Read as _},
    sync::{Mutex, Once, PoisonError},
};

use bytes::Bytes;
use pintle_streaming::TerminalSize;
use rustix::termios::{OptionalActions, Termios};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::error::CliError;

/// How the terminal was before; nothing while it is so.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();
/// Read at once from standard input.
const READ_BYTES: usize = 64 * 1024;

/// Passes every key on for as long as it is there.
#[derive(Debug)]
pub(crate) struct Raw {
    signals: Vec<(i32, Signal)>,
    size: Signal,
}

impl Raw {
    /// Makes the terminal raw.
    pub(crate) fn enter() -> Result<Self, CliError> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            let reason = "standard input is not a terminal".to_owned();
            return Err(CliError::Argument { flag: "--tty", reason });
        }
        // First this: a signal must not come between.
        let ends =
            [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit()];
        let watch = |kind: SignalKind| signal(kind).map(|signal| (kind.as_raw_value(), signal));
        let signals = ends.into_iter().map(watch).collect::<io::Result<_>>()?;
        let size = signal(SignalKind::window_change())?;
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                usual(panic);
            }));
        });
        let before = rustix::termios::tcgetattr(stdin).map_err(io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let entered = Self { signals, size };
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).map_err(io::Error::from)?;
        Ok(entered)
    }

    /// What there is to be told: that the size is another, or that a signal ends the verb. Cancel-safe.
    pub(crate) async fn next(&mut self) -> News {
        let Self { signals, size } = self;
        let waits = signals.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        tokio::select! {
            _ = size.recv() => News::Size,
            (number, _, _) = futures_util::future::select_all(waits) => News::End(number),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// What [`Raw::next`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Size,
    End(i32),
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before
        && let Err(error) = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before)
    {
        eprintln!("the terminal stays raw ('stty sane' mends it): {error}");
    }
}

/// What comes on the raw terminal, or nothing ever without one.
pub(crate) async fn news(raw: &mut Option<Raw>) -> News {
    match raw {
        Some(raw) => raw.next().await,
        None => pending().await,
    }
}

/// How large the terminal is, if it says so.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
    let known = size.ws_col > 0 && size.ws_row > 0;
    known.then_some(TerminalSize { width: size.ws_col, height: size.ws_row })
}

/// Standard input, piece by piece, until its end. Read by a thread that nobody waits for: a read of a terminal cannot be given
/// up, and would hold up the end of the process.
pub(crate) fn input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(length) if length > 0 => {
                    let piece = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return,
            }
        }
    });
    receiver
}

/// Finds the keys that leave a terminal without ending what runs there: Ctrl-P Ctrl-Q, as crictl's.
#[derive(Debug, Default)]
pub(crate) struct Detach {
    is_begun: bool,
}

const FIRST: u8 = 0x10;
const SECOND: u8 = 0x11;

impl Detach {
    /// The keys to pass on, and whether the user leaves after them. A first key is held back until the next one.
    pub(crate) fn filter(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            match (std::mem::take(&mut self.is_begun), *key) {
                (true, SECOND) => return (passed, true),
                (begun, key) => {
                    passed.extend(begun.then_some(FIRST));
                    self.is_begun = key == FIRST;
                    passed.extend((key != FIRST).then_some(key));
                }
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_detach_are_found_across_reads_and_all_others_are_passed_on() {
        let of = |reads: &[&[u8]]| {
            let mut detach = Detach::default();
            let mut all = Vec::new();
            for keys in reads {
                let (passed, leaves) = detach.filter(keys);
                all.extend(passed);
                if leaves {
                    return (all, true);
                }
            }
            (all, false)
        };
        assert_eq!(of(&[b"ls\n"]), (b"ls\n".to_vec(), false));
        assert_eq!(of(&[b"a\x10\x11b"]), (b"a".to_vec(), true));
        assert_eq!(of(&[b"a\x10", b"\x11b"]), (b"a".to_vec(), true));
        assert_eq!(of(&[b"\x10\x10", b"\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(of(&[b"\x10", b"x\x11"]), (b"\x10x\x11".to_vec(), false));
    }
}
