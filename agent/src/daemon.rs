//! What both daemons have in common: logging, systemd's notification, the signals to stop at.
//!
//! In: settings. Out: a log on stderr, a future that ends with the first SIGTERM or SIGINT.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What can go wrong before a daemon serves.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// The log level makes no sense.
    #[error("log level {0:?}: {1}")]
    LogLevel(String, String),
    /// The signals cannot be waited for.
    #[error("wait for signals")]
    Signals(#[source] std::io::Error),
}

/// Logs to stderr; `RUST_LOG` goes before the configured level.
pub(crate) fn init_log(level: &str) -> Result<(), DaemonError> {
    let own = std::env::var("RUST_LOG").ok().filter(|own| !own.is_empty());
    let asked = own.unwrap_or_else(|| level.to_owned());
    // What the protocol's libraries have to say is of use only to those who ask for it by name.
    let filter = EnvFilter::try_new(format!("h2=warn,hyper=warn,tower=warn,tonic=warn,{asked}"))
        .map_err(|e| DaemonError::LogLevel(asked, e.to_string()))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .with_filter(filter);
    tracing_subscriber::registry().with(lines).with(pintle_runtime::waterfall::layer()).init();
    Ok(())
}

/// Lets the daemon, and the supervisors it starts, open as many files as it may, and returns the limits as they were: those
/// are the containers'. Programs that cannot deal with many (select(2), loops over all descriptors) rely on a low soft
/// limit, and others raise their own, as on a host without containers.
pub(crate) fn raise_open_files() -> (u64, u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let before = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!(%error, "the limit on open files stays at {}", before.0);
    }
    before
}

/// Removes the socket, so that clients are told at once that nobody serves.
pub(crate) fn unlink(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        warn!(socket = %path.display(), error = %e, "the socket is left behind");
    }
}

/// Tells systemd, if it asked to be told.
pub(crate) fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(e) = send(&name, state) {
        warn!(error = %e, "systemd was not told: {state}");
    }
}

fn send(name: &OsStr, state: &str) -> std::io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Ends with the first signal that asks the daemon to stop.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, DaemonError> {
    let mut term = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    Ok(async move {
        let name = tokio::select! {
            // Cancel-safe: both only wait.
            _ = term.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("stopping at {name}; pods go on running");
        notify("STOPPING=1");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let at_path = UnixDatagram::bind(&path).expect("bound");
        send(path.as_os_str(), "READY=1").expect("sent");
        let name = format!("pintle-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let abstract_one = UnixDatagram::bind_addr(&address).expect("bound");
        send(OsStr::new(&format!("@{name}")), "READY=1").expect("sent");
        for socket in [at_path, abstract_one] {
            let mut buffer = [0; 16];
            let read = socket.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..read], b"READY=1");
        }
    }
}
