//! Requests to the registry hosts of one pull.
//!
//! In: hosts in order, credentials. Out: manifests (bounded) and blob streams, from the first host that has them. Every answer
//! that is held in memory is bounded. Digests of manifests are checked here, those of blobs where they are stored.

use std::time::Duration;

use tokio_util::bytes::{Buf, Bytes};

use crate::challenge::{message_of, select};
use crate::credentials::Login;
use crate::digest::{Digest, shorten};
use crate::hosts::Host;
use crate::limits::{ERROR_BYTES, MANIFEST_BYTES};
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::registry_auth::{Asker, Credentials, Refusal, authorize};
use crate::{Auth, Error};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of an answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
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
    /// Where the registry's interface begins: `https://host/v2`.
    base: String,
    /// The repository's name there.
    repository: String,
    /// As the host calls the repository in a token's scope.
    scope: String,
    /// The registry a mirror is asked for.
    namespace: Option<String>,
    login: Login,
    /// What the host turned out to want, once it was asked.
    granted: tokio::sync::Mutex<Credentials>,
}

impl Registry {
    /// `login` says who we are at a host.
    pub(crate) fn new(
        hosts: Vec<Host>,
        reference: &Reference,
        silence: Duration,
        login: impl Fn(&Host) -> Login,
    ) -> Result<Self, Error> {
        // An installed provider, by whoever, is what TLS needs; losing the race to install ours is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let endpoints = hosts
            .into_iter()
            .map(|host| {
                let login = login(&host);
                Endpoint::new(host, reference, silence, login)
            })
            .collect::<Result<_, _>>()?;
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

    /// Opens a blob for streaming, from the byte `offset` on.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, Error> {
        let mut turns = self.turns(|host| host.pulls);
        while let Some(endpoint) = turns.next().await {
            match endpoint.blob(digest, offset, &self.shown).await {
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
    /// Bytes we have already, which a host sends all the same that knows no ranges.
    superfluous: u64,
    context: Context,
}

impl BlobStream {
    /// The next chunk, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            let mut chunk =
                match self.response.chunk().await.map_err(|e| self.context.network(e.without_url())) {
                    Ok(chunk) => chunk?,
                    Err(error) => return Some(Err(error)),
                };
            let skipped = usize::try_from(self.superfluous).unwrap_or(usize::MAX).min(chunk.len());
            self.superfluous -= skipped as u64;
            chunk.advance(skipped);
            if !chunk.is_empty() {
                return Some(Ok(chunk));
            }
        }
    }
}

/// One request.
#[derive(Clone, Copy)]
struct Ask<'a> {
    path: &'a str,
    accept: &'a str,
    offset: u64,
}

impl Endpoint {
    fn new(host: Host, reference: &Reference, silence: Duration, login: Login) -> Result<Self, Error> {
        let context = Context::new(&host, &reference.to_string(), "set up the connection");
        let http = http_client(&host, silence).map_err(|e| context.network(e))?;
        let scheme = if host.is_https { "https" } else { "http" };
        let repository =
            crate::rewrite::apply(&host.rewrites, &reference.repository).map_err(|e| context.network(e))?;
        let prefix = host.path.strip_prefix("/v2/").map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let is_docker = reference.registry == "docker.io" && host.authority == "registry-1.docker.io";
        let is_elsewhere = host.authority != reference.registry && !is_docker;
        let granted = match &login {
            Login::Given(Some(Auth::Token(token))) => Credentials::Bearer(token.clone()),
            Login::Given(_) | Login::Keyring { .. } => Credentials::None,
        };
        Ok(Self {
            base: format!("{scheme}://{}{}", host.authority, host.path),
            scope: format!("{prefix}{repository}"),
            repository,
            namespace: is_elsewhere.then(|| reference.registry.clone()),
            login,
            granted: tokio::sync::Mutex::new(granted),
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
        let path = format!("manifests/{wanted}");
        let response = self.request(Ask { path: &path, accept: &accept, offset: 0 }, context).await?;
        read_bounded(response, MANIFEST_BYTES, context).await
    }

    async fn blob(&self, digest: &Digest, offset: u64, shown: &str) -> Result<BlobStream, Error> {
        let context = Context::new(&self.host, shown, &format!("fetch {digest}"));
        let path = format!("blobs/{digest}");
        let work = self.request(Ask { path: &path, accept: "*/*", offset }, &context);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|e| context.network(e))?;
        let response = answer?;
        let is_part = response.status().as_u16() == 206;
        if is_part && !begins_at(&response, offset) {
            return Err(context.network(format!("another part was sent than the one from byte {offset} on")));
        }
        Ok(BlobStream { response, superfluous: if is_part { 0 } else { offset }, context })
    }

    /// Sends a request and checks its status. What the host wants to be shown it gets once: a new token, or the password.
    async fn request(&self, ask: Ask<'_>, context: &Context) -> Result<reqwest::Response, Error> {
        let mut is_first = true;
        loop {
            let credentials = self.granted.lock().await.clone();
            let response = self.send(ask, &credentials, context).await?;
            let status = response.status().as_u16();
            if status == 200 || status == 206 && ask.offset > 0 {
                return Ok(response);
            }
            let headers = response.headers().get_all(reqwest::header::WWW_AUTHENTICATE);
            let challenge = select(headers.iter().filter_map(|header| header.to_str().ok()));
            let body = read_bounded(response, ERROR_BYTES, context).await.unwrap_or_default();
            let said = message_of(&body);
            if status != 401 || !is_first {
                return Err(context.status(status, &said));
            }
            is_first = false;
            // Several layers at once ask once.
            let mut granted = self.granted.lock().await;
            if *granted == credentials {
                let asker = Asker {
                    http: &self.http,
                    repository: &self.scope,
                    is_https: self.host.is_https,
                    said: &said,
                };
                let own = self.login.credentials().await?;
                *granted =
                    authorize(&asker, challenge.as_ref(), own.as_ref()).await.map_err(|e| match e {
                        Refusal::Network(source) => context.network(source),
                        Refusal::Denied(reason) => context.unauthorized(&reason),
                    })?;
            }
        }
    }

    async fn send(
        &self,
        ask: Ask<'_>,
        credentials: &Credentials,
        context: &Context,
    ) -> Result<reqwest::Response, Error> {
        let namespace = self.namespace.as_ref().map_or(String::new(), |ns| format!("?ns={ns}"));
        let url = format!("{}/{}/{}{namespace}", self.base, self.repository, ask.path);
        let mut request = self.http.get(&url).header("Accept", ask.accept);
        if ask.offset > 0 {
            request = request.header("Range", format!("bytes={}-", ask.offset));
        }
        credentials.apply(request).send().await.map_err(|e| context.network(e.without_url()))
    }
}

fn begins_at(response: &reqwest::Response, offset: u64) -> bool {
    let range = response.headers().get(reqwest::header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

async fn read_bounded(
    mut response: reqwest::Response,
    limit: u64,
    context: &Context,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| context.network(e.without_url()))? {
        bytes.extend_from_slice(&chunk);
        crate::content::check_small("manifest", &bytes, limit)?;
    }
    Ok(bytes)
}

fn http_client(
    host: &Host,
    silence: Duration,
) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = Vec::new();
    for pem in &host.ca {
        roots.extend(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in &host.headers.0 {
        let mut value = reqwest::header::HeaderValue::from_str(value)?;
        value.set_sensitive(true);
        headers.append(reqwest::header::HeaderName::try_from(name)?, value);
    }
    let mut client = reqwest::Client::builder()
        .danger_accept_invalid_certs(host.skip_verify)
        .tls_certs_merge(roots)
        .default_headers(headers)
        .connect_timeout(host.connect_timeout.unwrap_or(CONNECT_TIMEOUT))
        .read_timeout(silence)
        .user_agent(concat!("pintle/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = &host.client {
        client = client.identity(reqwest::Identity::from_pem(&pem.0)?);
    }
    Ok(client.build()?)
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
