//! Where a verb writes to.
//!
//! In: text. Out: stdout and stderr of the process, or buffers in a test.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Write},
};

/// The two output streams of one run.
pub struct Io<'a> {
    pub out: Box<dyn Write + Send + 'a>,
    pub err: Box<dyn Write + Send + 'a>,
    /// Whether progress may be drawn on stderr.
    pub terminal: bool,
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

impl Io<'static> {
    /// The process's own streams; stdout is buffered until [`Io::flush`].
    pub fn process() -> Self {
        Self {
            out: Box::new(BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            terminal: io::stderr().is_terminal(),
        }
    }
}

impl Io<'_> {
    /// Hands everything written so far to its reader.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }
}
