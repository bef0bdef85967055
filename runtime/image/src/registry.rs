//! Requests to the registry hosts of one pull.
//!
//! In: hosts in order, credentials. Out: manifests (bounded) and blob streams, from the first host that has them. Every answer
//! that is held in memory is bounded. Digests of manifests are checked here, those of blobs where they are stored.

use std::time::Duration;

use crate::digest::{Digest, shorten};
use crate::hosts::Host;
use crate::limits::{ERROR_BYTES, MANIFEST_BYTES};
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::registry_auth::{Credentials, Refusal, authorize};
use crate::{Auth, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for authentication, a manifest, or the beginning of a blob.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The hosts that serve one repository.
pub(crate) struct Registry {
    endpoints: Vec<Endpoint>,
    shown: String,
}

struct Endpoint {
    host: Host,
    http: reqwest::Client,
    /// Where the registry's interface begins: `https://host/v2/`.
    base: String,
    repository: String,
    /// The registry a mirror is asked for.
    namespace: Option<String>,
    own: Credentials,
    /// What the host turned out to want, once it was asked.
    granted: tokio::sync::Mutex<Option<Credentials>>,
}

impl Registry {
    pub(crate) fn new(hosts: Vec<Host>, reference: &Reference, auth: Option<&Auth>) -> Result<Self, Error> {
        // An installed provider, by whoever, is what TLS needs; losing the race to install ours is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let endpoints =
            hosts.into_iter().map(|host| Endpoint::new(host, reference, auth)).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, shown: reference.to_string() })
    }

    /// The manifest or index a tag or digest stands for.
    pub(crate) async fn manifest(&self, wanted: &Wanted<'_>) -> Result<(Vec<u8>, Digest), Error> {
        let mut turns =
            self.turns(|host| host.pulls && (host.resolves || matches!(wanted, Wanted::Digest(_))));
        while let Some(endpoint) = turns.next().await {
            match endpoint.manifest(wanted, &self.shown).await {
                Ok(answer) => return Ok(answer),
                Err(error) => turns.failed(error),
            }
        }
        Err(turns.last)
    }

    /// Opens a blob for streaming.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<BlobStream, Error> {
        let mut turns = self.turns(|host| host.pulls);
        while let Some(endpoint) = turns.next().await {
            match endpoint.blob(digest, &self.shown).await {
                Ok(stream) => return Ok(stream),
                Err(error) => turns.failed(error),
            }
        }
        Err(turns.last)
    }

    fn turns(&self, able: impl Fn(&Host) -> bool) -> Turns<'_> {
        Turns {
            endpoints: self.endpoints.iter().filter(|e| able(&e.host)).collect(),
            asked: 0,
            attempt: 0,
            last: Error::not_found(format!("a host to pull {} from", self.shown)),
        }
    }
}

/// Whom to ask next: one host after the other, and again after a pause if that may help.
struct Turns<'a> {
    endpoints: Vec<&'a Endpoint>,
    asked: usize,
    attempt: u32,
    /// The error to tell: the last host's, which is the registry itself.
    last: Error,
}

impl<'a> Turns<'a> {
    async fn next(&mut self) -> Option<&'a Endpoint> {
        if self.asked == self.endpoints.len() {
            if !self.last.is_retryable() || self.attempt + 1 == ATTEMPTS {
                return None;
            }
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(self.attempt)).await;
            (self.asked, self.attempt) = (0, self.attempt + 1);
        }
        self.asked += 1;
        self.endpoints.get(self.asked - 1).copied()
    }

    fn failed(&mut self, error: Error) {
        tracing::debug!(%error, "a registry host failed");
        self.last = error;
    }
}

/// A tag or a digest.
pub(crate) enum Wanted<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
}

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A blob on its way; chunks are the client's own buffers.
pub(crate) struct BlobStream {
    response: reqwest::Response,
    context: Context,
}

impl BlobStream {
    /// The next chunk, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<tokio_util::bytes::Bytes, Error>> {
        self.response.chunk().await.map_err(|e| self.context.network(e)).transpose()
    }
}

impl Endpoint {
    fn new(host: Host, reference: &Reference, auth: Option<&Auth>) -> Result<Self, Error> {
        let context = Context::new(&host, &reference.to_string(), "set up the connection");
        let http = http_client(&host).map_err(|e| context.network(e))?;
        let scheme = if host.is_https { "https" } else { "http" };
        Ok(Self {
            base: format!("{scheme}://{}/v2/", host.authority),
            repository: format!("{}{}", host.prefix, reference.repository),
            namespace: host.is_mirror.then(|| reference.registry.clone()),
            // A mirror is somebody else.
            own: auth.filter(|_| !host.is_mirror).into(),
            granted: tokio::sync::Mutex::new(None),
            host,
            http,
        })
    }

    async fn manifest(&self, wanted: &Wanted<'_>, shown: &str) -> Result<(Vec<u8>, Digest), Error> {
        let context = Context::new(&self.host, shown, "fetch the manifest");
        let work = self.fetch_manifest(wanted, &context);
        let bytes = tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|e| context.network(e))??;
        let digest = Digest::of(&bytes);
        match wanted {
            Wanted::Digest(expected) if **expected != digest => {
                let reason = format!("{} sent content with the digest {digest}", self.host.authority);
                Err(Error::corrupt(format!("manifest {expected}"), reason))
            }
            Wanted::Digest(_) | Wanted::Tag(_) => Ok((bytes, digest)),
        }
    }

    async fn fetch_manifest(&self, wanted: &Wanted<'_>, context: &Context) -> Result<Vec<u8>, Error> {
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        let response = self.request(&format!("manifests/{wanted}"), &accept, context).await?;
        read_bounded(response, MANIFEST_BYTES, context).await
    }

    async fn blob(&self, digest: &Digest, shown: &str) -> Result<BlobStream, Error> {
        let context = Context::new(&self.host, shown, &format!("fetch {digest}"));
        let path = format!("blobs/{digest}");
        let work = self.request(&path, "*/*", &context);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|e| context.network(e))?;
        Ok(BlobStream { response: answer?, context })
    }

    /// Sends a request and checks its status. A token that is no longer good is replaced once.
    async fn request(&self, path: &str, accept: &str, context: &Context) -> Result<reqwest::Response, Error> {
        let namespace = self.namespace.as_ref().map_or(String::new(), |ns| format!("?ns={ns}"));
        let url = format!("{}{}/{path}{namespace}", self.base, self.repository);
        let mut is_first = true;
        loop {
            let credentials = self.credentials(context).await?;
            let request = self.http.get(&url).header("Accept", accept);
            let response = credentials.apply(request).send().await.map_err(|e| context.network(e))?;
            let status = response.status().as_u16();
            if status == 200 {
                return Ok(response);
            }
            if status == 401 && is_first && matches!(credentials, Credentials::Bearer(_)) {
                *self.granted.lock().await = None;
                is_first = false;
                continue;
            }
            let body = read_bounded(response, ERROR_BYTES, context).await.unwrap_or_default();
            return Err(context.status(status, &String::from_utf8_lossy(&body)));
        }
    }

    /// Several layers at once ask once.
    async fn credentials(&self, context: &Context) -> Result<Credentials, Error> {
        let mut granted = self.granted.lock().await;
        if let Some(credentials) = &*granted {
            return Ok(credentials.clone());
        }
        let credentials =
            authorize(&self.http, &self.base, &self.repository, &self.own).await.map_err(|e| match e {
                Refusal::Network(source) => context.network(source),
                Refusal::Denied(reason) => context.unauthorized(&reason),
            })?;
        *granted = Some(credentials.clone());
        Ok(credentials)
    }
}

async fn read_bounded(
    mut response: reqwest::Response,
    limit: u64,
    context: &Context,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| context.network(e))? {
        bytes.extend_from_slice(&chunk);
        crate::content::check_small("manifest", &bytes, limit)?;
    }
    Ok(bytes)
}

fn http_client(host: &Host) -> Result<reqwest::Client, reqwest::Error> {
    let mut roots = Vec::new();
    for pem in &host.ca {
        roots.extend(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    reqwest::Client::builder()
        .danger_accept_invalid_certs(host.skip_verify)
        .tls_certs_merge(roots)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("pintle/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What was being done, for errors.
struct Context {
    operation: String,
    host: String,
    image: String,
}

impl Context {
    fn new(host: &Host, image: &str, operation: &str) -> Self {
        Self { operation: operation.into(), host: host.authority.clone(), image: image.into() }
    }

    fn network(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Network { operation: self.operation.clone(), host: self.host.clone(), source: source.into() }
    }

    fn status(&self, status: u16, message: &str) -> Error {
        match status {
            401 | 403 => self.unauthorized(message),
            404 => Error::not_found(format!("{} at {}", self.image, self.host)),
            _ => Error::Registry {
                operation: self.operation.clone(),
                host: self.host.clone(),
                status,
                message: shorten(message),
            },
        }
    }

    fn unauthorized(&self, reason: &str) -> Error {
        Error::Unauthorized {
            image: self.image.clone(),
            host: self.host.clone(),
            reason: shorten(reason.trim()),
        }
    }
}
