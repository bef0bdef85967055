//! Serves CRI and Pintle's extension on a unix socket.
//!
//! In: a listener, a future that ends when it is time to stop. Out: calls to `cri`. Stopping closes the socket and lets
//! calls under way finish for a moment; pods are not touched.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixListener, sync::watch};
use tonic::{service::Routes, transport::Server};

use super::{
    Engine, accept,
    error::{Error, Result},
};
use crate::memory;

/// How long calls under way may take when serving ends.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// The most calls at once on one connection; more wait at the caller's end. A kubelet has one for each pod it works on.
const MAX_STREAMS: u32 = 1024;
/// The most bytes of a call's headers.
const MAX_HEADERS: u32 = 64 * 1024;
/// How often a caller that says nothing is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Makes the socket that the engine listens on, for root only. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// When somebody listens there already, or the socket cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("making", parent))?;
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("somebody listens on {} already", path.display());
            return Err(Error::FailedPrecondition(text));
        }
        fs::remove_file(path).map_err(Error::io("removing the stale socket", path))?;
    }
    let listener = UnixListener::bind(path).map_err(Error::io("listening on", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(Error::io("changing the mode of", path))?;
    Ok(listener)
}

impl Engine {
    /// The engine's services, for a caller who adds some of its own to the same socket.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        Routes::default()
            .add_service(pintle_cri_api::runtime_server(Arc::clone(self)))
            .add_service(pintle_cri_api::image_server(Arc::clone(self)))
            .add_service(pintle_cri_api::ext_images_server(Arc::clone(self)))
            .add_service(pintle_cri_api::ext_doctor_server(Arc::clone(self)))
            .add_service(pintle_cri_api::ext_debug_server(Arc::clone(self)))
    }

    /// Serves until `shutdown` ends. The pods run on.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self: Arc<Self>,
        listen: UnixListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let routes = self.routes();
        self.serve_routes(routes, listen, shutdown).await
    }

    /// As [`Self::serve`], with the caller's routes, which should begin with [`Self::routes`].
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub async fn serve_routes(
        self: Arc<Self>,
        routes: Routes,
        listen: UnixListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        self.serving_ends.send_replace(false);
        let stopped = self.serving_ends.subscribe();
        let server = Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_routes(routes)
            .serve_with_incoming_shutdown(accept::connections(listen), wait_until(stopped));
        tokio::pin!(server);
        tokio::select! {
            // The server is finished below, the others are dropped.
            ended = &mut server => return ended.map_err(transport),
            () = shutdown => {}
            () = memory::keep_small(Arc::clone(&self.work)) => {}
        }
        self.serving_ends.send_replace(true);
        let finished = tokio::time::timeout(FINISH_LIMIT, server).await;
        if finished.is_err() {
            tracing::info!("calls that had not finished were given up");
        }
        self.free_addresses().await;
        finished.unwrap_or(Ok(())).map_err(transport)
    }

    /// Gives the addresses of pods that are gone the moment that their interfaces need, so that none waits on disk for the
    /// next start.
    async fn free_addresses(&self) {
        let network = Arc::clone(&self.network);
        let freed = super::blocking(move || {
            network
                .settle(FINISH_LIMIT)
                .map_err(Error::network("freeing the addresses of pods that are gone"))
        });
        if let Err(error) = freed.await {
            tracing::warn!(error = error.chain(), "the next start frees them");
        }
    }
}

/// Ends when the flag is set, or nobody can set it any more.
pub(crate) async fn wait_until(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        tracing::trace!("serving ends");
    }
}

fn transport(error: tonic::transport::Error) -> Error {
    Error::Io { operation: "serving CRI on", path: "the socket".into(), source: io::Error::other(error) }
}
