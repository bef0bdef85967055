//! Opens a gRPC channel to a runtime's unix socket.
//!
//! In: an endpoint as users write it (`unix:///run/x.sock`, `unix:/run/x.sock` or a bare path). Out: a connected
//! [`Channel`] that reconnects by itself, or an error that says what to do. Speaks no TCP: CRI is local.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("endpoint {endpoint:?} is not a unix socket: write unix:///path/to/socket or an absolute path")]
    NotUnix { endpoint: String },
    #[error("no such socket {}", path.display())]
    NoSocket { path: PathBuf },
    #[error("nobody listens on {}", path.display())]
    Refused { path: PathBuf },
    #[error("permission denied on {}: run as root", path.display())]
    Denied { path: PathBuf },
    #[error("cannot connect to {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} accepts connections but does not speak gRPC", path.display())]
    Grpc { path: PathBuf, source: tonic::transport::Error },
}

impl ConnectError {
    fn from_io(path: PathBuf, source: io::Error) -> Self {
        let kind = source.kind();
        if kind == io::ErrorKind::NotFound {
            Self::NoSocket { path }
        } else if kind == io::ErrorKind::ConnectionRefused {
            Self::Refused { path }
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::Denied { path }
        } else {
            Self::Io { path, source }
        }
    }
}

/// Connects now, so that a missing socket is reported here and not by the first call.
pub async fn connect(endpoint: &str) -> Result<Channel, ConnectError> {
    let path = socket_path(endpoint)?;
    let stream =
        UnixStream::connect(&path).await.map_err(|source| ConnectError::from_io(path.clone(), source))?;
    let mut first = Some(stream);
    let socket = path.clone();
    let connector = tower::service_fn(move |_| {
        let ready = first.take();
        let socket = socket.clone();
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => UnixStream::connect(socket).await?,
            };
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The address is only a placeholder for the authority header; the connector ignores it.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Grpc { path, source })
}

/// The socket's path in an endpoint as users write it.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, ConnectError> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if Path::new(path).is_absolute() {
        Ok(PathBuf::from(path))
    } else {
        Err(ConnectError::NotUnix { endpoint: endpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_be_a_url_or_a_bare_path() {
        for endpoint in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), Path::new("/run/x.sock"));
        }
    }

    #[test]
    fn a_tcp_endpoint_is_refused() {
        for endpoint in ["tcp://127.0.0.1:80", "x.sock", ""] {
            assert!(matches!(socket_path(endpoint), Err(ConnectError::NotUnix { .. })), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let error = connect("unix:///nonexistent/x.sock").await.unwrap_err();
        assert_eq!(error.to_string(), "no such socket /nonexistent/x.sock");
    }
}
