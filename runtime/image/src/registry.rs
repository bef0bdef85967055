//! Requests to the registry hosts of one pull.
//!
//! In: hosts in order, credentials. Out: manifests (bounded) and blob streams, from the first host that has them. `oci-client`
//! does authentication and blobs; manifests are fetched here with its token, because it reads them without a bound. Digests of
//! manifests are checked here, those of blobs where they are stored.

use futures_util::StreamExt;
use oci_client::client::{
    Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol, SizedStream,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference as OciReference, RegistryOperation};

use std::time::Duration;

use crate::digest::{Digest, shorten};
use crate::hosts::Host;
use crate::limits::MANIFEST_BYTES;
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
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
    client: Client,
    http: reqwest::Client,
    image: OciReference,
    auth: RegistryAuth,
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
    stream: SizedStream,
    context: Context,
}

impl BlobStream {
    /// The next chunk, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<tokio_util::bytes::Bytes, Error>> {
        let chunk = self.stream.next().await?;
        Some(chunk.map_err(|e| self.context.stream_error(e)))
    }
}

impl Endpoint {
    fn new(host: Host, reference: &Reference, auth: Option<&Auth>) -> Result<Self, Error> {
        let context = Context::new(&host, &reference.to_string(), "set up the connection");
        let certificates = |c: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: c.clone() };
        let config = ClientConfig {
            protocol: if host.is_https { ClientProtocol::Https } else { ClientProtocol::Http },
            accept_invalid_certificates: host.skip_verify,
            extra_root_certificates: host.ca.iter().map(certificates).collect(),
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("pintle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| context.error(e))?;
        let http = http_client(&host).map_err(|e| context.network(e))?;
        let repository = format!("{}{}", host.prefix, reference.repository);
        let mut image =
            OciReference::with_tag(reference.registry.clone(), repository.clone(), "latest".into());
        if host.is_mirror {
            image.set_mirror_registry(host.authority.clone());
        } else {
            image = OciReference::with_tag(host.authority.clone(), repository, "latest".into());
        }
        let auth = match auth {
            Some(Auth::Basic { username, password }) if !host.is_mirror => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            Some(Auth::Token(token)) if !host.is_mirror => RegistryAuth::Bearer(token.clone()),
            Some(_) | None => RegistryAuth::Anonymous,
        };
        Ok(Self { host, client, http, image, auth })
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
        let token = self
            .client
            .auth(&self.image, &self.auth, RegistryOperation::Pull)
            .await
            .map_err(|e| context.error(e))?;
        let scheme = if self.host.is_https { "https" } else { "http" };
        let (authority, repository) = (&self.host.authority, self.image.repository());
        let namespace = self.image.namespace().map_or(String::new(), |ns| format!("?ns={ns}"));
        let url = format!("{scheme}://{authority}/v2/{repository}/manifests/{wanted}{namespace}");
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        let request = self.http.get(url).header("Accept", accept);
        let request = match (&self.auth, token) {
            (_, Some(token)) => request.bearer_auth(token),
            (RegistryAuth::Basic(user, password), None) => request.basic_auth(user, Some(password)),
            (RegistryAuth::Bearer(token), None) => request.bearer_auth(token),
            (RegistryAuth::Anonymous, None) => request,
        };
        let response = request.send().await.map_err(|e| context.network(e))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| context.network(e))?);
            crate::content::check_small("manifest", &bytes, MANIFEST_BYTES)?;
        }
        if status == 200 { Ok(bytes) } else { Err(context.status(status, &String::from_utf8_lossy(&bytes))) }
    }

    async fn blob(&self, digest: &Digest, shown: &str) -> Result<BlobStream, Error> {
        let context = Context::new(&self.host, shown, &format!("fetch {digest}"));
        let name = digest.to_string();
        self.client.store_auth_if_needed(self.image.resolve_registry(), &self.auth).await;
        let work = self.client.pull_blob_stream(&self.image, name.as_str());
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, work).await.map_err(|e| context.network(e))?;
        Ok(BlobStream { stream: answer.map_err(|e| context.error(e))?, context })
    }
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

    fn stream_error(&self, error: std::io::Error) -> Error {
        match error.get_ref() {
            Some(e) if e.is::<oci_client::errors::DigestError>() => {
                Error::corrupt(format!("what {} sent", self.host), error.to_string())
            }
            Some(_) | None => self.network(error),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of a foreign enum is one case: the exchange failed"
    )]
    fn error(&self, error: OciDistributionError) -> Error {
        use OciDistributionError as E;
        match error {
            E::UnauthorizedError { .. } => self.unauthorized("the registry wants other credentials"),
            E::AuthenticationFailure(reason) => self.unauthorized(&reason),
            E::ImageManifestNotFoundError(_) => self.status(404, ""),
            E::ServerError { code, message, .. } => self.status(code, &message),
            E::RegistryError { envelope, .. } => {
                let status = match envelope.errors.first().map(|e| &e.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => 401,
                    Some(
                        OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound,
                    ) => 404,
                    Some(OciErrorCode::Toomanyrequests) => 429,
                    Some(_) | None => 400,
                };
                self.status(status, &envelope.to_string())
            }
            E::DigestError(e) => Error::corrupt(format!("what {} sent", self.host), e.to_string()),
            other => self.network(other),
        }
    }
}
