//! What a registry host wants to be shown: nothing, a password, or a token that another server gives for it.
//!
//! In: the host's address, credentials. Out: [`Credentials`] for its requests. A token is asked for where the host's
//! `WWW-Authenticate` header says, as the distribution specification has it. Every answer is bounded. It keeps nothing.

use std::fmt;

use serde::Deserialize;

use crate::Auth;
use crate::limits::TOKEN_BYTES;

/// What goes along with requests.
#[derive(Clone)]
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

impl From<Option<&Auth>> for Credentials {
    fn from(auth: Option<&Auth>) -> Self {
        match auth {
            None => Self::None,
            Some(Auth::Basic { username, password }) => {
                Self::Basic { username: username.clone(), password: password.clone() }
            }
            Some(Auth::Token(token)) => Self::Bearer(token.clone()),
        }
    }
}

/// Why there are no credentials.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The exchange itself failed.
    Network(Box<dyn std::error::Error + Send + Sync>),
    /// The token server does not want to.
    Denied(String),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Network(error.into())
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

/// Asks the host at `base` (`https://host/v2/`) what it wants, and the token server it names for a token to pull.
pub(crate) async fn authorize(
    http: &reqwest::Client,
    base: &str,
    repository: &str,
    own: &Credentials,
) -> Result<Credentials, Refusal> {
    if matches!(own, Credentials::Bearer(_)) {
        return Ok(own.clone());
    }
    let response = http.get(base).send().await?;
    let headers = response.headers().get_all(reqwest::header::WWW_AUTHENTICATE);
    let challenge = headers.iter().filter_map(|h| h.to_str().ok()).find_map(Challenge::parse);
    let Some(challenge) = challenge else { return Ok(own.clone()) };
    let mut url = reqwest::Url::parse(&challenge.realm)?;
    url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
    if let Some(service) = &challenge.service {
        url.query_pairs_mut().append_pair("service", service);
    }
    let response = own.apply(http.get(url)).send().await?;
    let status = response.status();
    let body = read_bounded(response, TOKEN_BYTES).await?;
    if !status.is_success() {
        return Err(Refusal::Denied(String::from_utf8_lossy(&body).into_owned()));
    }
    let token: Token = serde_json::from_slice(&body).map_err(|e| format!("the token is malformed: {e}"))?;
    Ok(Credentials::Bearer(token.token))
}

/// Reads an answer that must be small.
async fn read_bounded(mut response: reqwest::Response, limit: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(Refusal::Denied(format!("the token server answers more than {limit} bytes")));
        }
    }
    Ok(bytes)
}

/// `Bearer realm="…",service="…"`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        while let Some((key, after)) = rest.split_once('=') {
            let (value, next) = parse_value(after)?;
            match key.trim_matches([' ', ',', '\t']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            rest = next;
        }
        Some(Self { realm: realm?, service })
    }
}

/// A quoted string or a word, and what follows it.
fn parse_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let (mut value, mut is_escaped) = (String::new(), false);
    for (i, c) in quoted.char_indices() {
        match c {
            '\\' if !is_escaped => is_escaped = true,
            '"' if !is_escaped => return Some((value, &quoted[i + 1..])),
            other => {
                value.push(other);
                is_escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_names_realm_and_service() {
        let challenge = |realm: &str, service: Option<&str>| {
            Some(Challenge { realm: realm.into(), service: service.map(Into::into) })
        };
        let parse = Challenge::parse;
        assert_eq!(parse(r#"Bearer realm="https://a/t",service="s""#), challenge("https://a/t", Some("s")));
        assert_eq!(parse(r#"bearer service=s, realm="a\"b", error="x=y""#), challenge("a\"b", Some("s")));
        assert_eq!(parse(r#"Bearer realm="https://a/?b=c""#), challenge("https://a/?b=c", None));
        for none in ["Basic realm=\"x\"", "Bearer", "Bearer realm=\"open", "Bearer service=\"s\"", "", " "] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
