//! Meets a registry host's challenge with what we have: a password, or a token that another server gives for it.
//!
//! In: a challenge, our own credentials. Out: [`Credentials`] for the host's requests. A token is asked for where the challenge
//! says: with an identity token by OAuth2's POST, else by GET, as the distribution specification has it. Every answer is
//! bounded, and no secret is part of an error. It keeps nothing.

use std::fmt;

use crate::Auth;
use crate::challenge::{Challenge, message_of, scope, token_of};
use crate::limits::TOKEN_BYTES;

/// What goes along with requests.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    None,
    Basic { username: String, password: String },
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Basic { .. } => "Basic(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

impl Credentials {
    pub(crate) fn apply(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::None => request,
            Self::Basic { username, password } => request.basic_auth(username, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// Why there are no credentials.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The exchange itself failed.
    Network(Box<dyn std::error::Error + Send + Sync>),
    /// What we have is not enough.
    Denied(String),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Network(error.into())
    }
}

/// A host that wants to be shown something.
pub(crate) struct Asker<'a> {
    pub(crate) http: &'a reqwest::Client,
    pub(crate) repository: &'a str,
    /// Whether the host itself is reached over TLS; then secrets go nowhere without it.
    pub(crate) is_https: bool,
    /// What it said besides.
    pub(crate) said: &'a str,
}

/// Credentials that meet the challenge.
pub(crate) async fn authorize(
    asker: &Asker<'_>,
    challenge: Option<&Challenge>,
    own: Option<&Auth>,
) -> Result<Credentials, Refusal> {
    let denied = |reason: &str| Err(Refusal::Denied(format!("{reason}{}", said(asker.said))));
    match (challenge, own) {
        (_, Some(Auth::Token(_))) => denied("the registry token was refused"),
        (Some(Challenge::Bearer { realm, service, scope: offered }), own) => {
            let scope = scope(offered.as_deref(), asker.repository);
            fetch_token(asker, &TokenServer { realm, service: service.as_deref(), scope }, own).await
        }
        (Some(Challenge::Basic) | None, Some(Auth::Basic { username, password })) => {
            Ok(Credentials::Basic { username: username.clone(), password: password.clone() })
        }
        (Some(Challenge::Basic), Some(Auth::Identity(_))) => {
            denied("it wants a user name and a password, and has no use for an identity token")
        }
        (Some(Challenge::Basic), None) => denied("it wants a user name and a password"),
        (None, Some(Auth::Identity(_)) | None) => denied("it does not say what it wants"),
    }
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

struct TokenServer<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: String,
}

async fn fetch_token(
    asker: &Asker<'_>,
    server: &TokenServer<'_>,
    own: Option<&Auth>,
) -> Result<Credentials, Refusal> {
    let url = reqwest::Url::parse(server.realm)?;
    if asker.is_https && url.scheme() != "https" && own.is_some() {
        let reason = "its token server is reached over plain http, where credentials must not go";
        return Err(Refusal::Denied(reason.into()));
    }
    let mut fields = vec![("scope", server.scope.as_str())];
    fields.extend(server.service.map(|service| ("service", service)));
    let request = match own {
        Some(Auth::Identity(token)) => {
            let oauth = [("grant_type", "refresh_token"), ("client_id", "pintle"), ("refresh_token", token)];
            fields.extend(oauth);
            let body = form(&fields);
            let kind = "application/x-www-form-urlencoded";
            asker.http.post(url).header("Content-Type", kind).body(body)
        }
        Some(Auth::Basic { username, password }) => {
            asker.http.get(with_query(url, &fields)).basic_auth(username, Some(password))
        }
        Some(Auth::Token(_)) | None => asker.http.get(with_query(url, &fields)),
    };
    let response = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status();
    let body = read_bounded(response, TOKEN_BYTES).await?;
    if status.is_server_error() || status.as_u16() == 429 {
        return Err(format!("the token server answered {status}: {}", message_of(&body)).into());
    }
    if !status.is_success() {
        return Err(Refusal::Denied(format!(
            "the token server answered {status}{}",
            said(&message_of(&body))
        )));
    }
    Ok(Credentials::Bearer(token_of(&body)?))
}

fn with_query(mut url: reqwest::Url, fields: &[(&str, &str)]) -> reqwest::Url {
    url.query_pairs_mut().extend_pairs(fields);
    url
}

/// The fields as a form's body.
fn form(fields: &[(&str, &str)]) -> String {
    let encoded = reqwest::Url::parse("http://form/").map(|url| with_query(url, fields));
    encoded.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// Reads an answer that must be small.
async fn read_bounded(mut response: reqwest::Response, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(Refusal::Denied(format!("the token server answers more than {limit} bytes")));
        }
    }
    Ok(bytes)
}
