//! Which protocol a client asks for, and the answer to it. Pure.
//!
//! In: the head of an HTTP/1.1 request. Out: the protocol agreed upon and the head of the answer (101), or a refusal.

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// SPDY's name in `Upgrade`.
pub(crate) const SPDY: &str = "SPDY/3.1";
/// The protocols a SPDY client offers, and the one that was chosen.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// How bytes are framed after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Spdy,
    WebSocket,
}

/// What was agreed upon.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) transport: Transport,
    /// One of those that were offered to it; the WebSocket client that names none gets the oldest.
    pub(crate) protocol: &'static str,
    pub(crate) answer: Response<()>,
}

/// Why there will be no stream.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("unable to upgrade: the request asks neither for SPDY/3.1 nor for websocket")]
    NoUpgrade,
    #[error("unable to upgrade: X-Stream-Protocol-Version is required")]
    NoProtocol,
    #[error("unable to upgrade: none of the protocols {offered:?} is spoken here, but {spoken:?}")]
    NoCommonProtocol { offered: Vec<String>, spoken: &'static [&'static str] },
    #[error("unable to upgrade: WebSocket needs Sec-WebSocket-Key and version 13")]
    BadWebSocket,
}

/// What is spoken for one kind of request: SPDY's protocols and WebSocket's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spoken {
    pub(crate) spdy: &'static [&'static str],
    pub(crate) websocket: &'static [&'static str],
    /// For WebSocket clients that name none.
    pub(crate) unnamed: Option<&'static str>,
}

/// Agrees on a protocol with the client whose request has `headers`.
pub(crate) fn negotiate(headers: &HeaderMap, spoken: Spoken) -> Result<Agreed, Refusal> {
    let wants = |name: &str| {
        values(headers, &CONNECTION).iter().any(|value| value.eq_ignore_ascii_case("upgrade"))
            && values(headers, &UPGRADE).iter().any(|value| value.eq_ignore_ascii_case(name))
    };
    if wants("websocket") {
        websocket(headers, spoken)
    } else if wants(SPDY) {
        spdy(headers, spoken.spdy)
    } else {
        Err(Refusal::NoUpgrade)
    }
}

fn spdy(headers: &HeaderMap, spoken: &'static [&'static str]) -> Result<Agreed, Refusal> {
    let offered = values(headers, &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(Refusal::NoProtocol);
    }
    let Some(protocol) = choose(&offered, spoken) else {
        return Err(Refusal::NoCommonProtocol { offered, spoken });
    };
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(Agreed { transport: Transport::Spdy, protocol, answer })
}

fn websocket(headers: &HeaderMap, spoken: Spoken) -> Result<Agreed, Refusal> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::BadWebSocket)?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::BadWebSocket);
    }
    let offered = values(headers, &SEC_WEBSOCKET_PROTOCOL);
    let named = choose(&offered, spoken.websocket);
    let protocol = match (named, spoken.unnamed) {
        (Some(protocol), _) => protocol,
        (None, Some(protocol)) if offered.is_empty() => protocol,
        (None, _) => return Err(Refusal::NoCommonProtocol { offered, spoken: spoken.websocket }),
    };
    let mut answer = switching("websocket");
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Refusal::BadWebSocket)?;
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if named.is_some() {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(Agreed { transport: Transport::WebSocket, protocol, answer })
}

fn switching(upgrade: &'static str) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(upgrade));
    answer
}

/// The client's first choice that is spoken.
fn choose(offered: &[String], spoken: &[&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|offer| spoken.iter().copied().find(|name| name == offer))
}

fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let words = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

impl Refusal {
    /// The status of the answer, as the kubelet's.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::NoCommonProtocol { .. } => StatusCode::FORBIDDEN,
            Refusal::NoUpgrade | Refusal::NoProtocol | Refusal::BadWebSocket => StatusCode::BAD_REQUEST,
        }
    }

    /// The headers of the answer: what would have been spoken.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Refusal::NoCommonProtocol { spoken, .. } => {
                spoken.iter().map(|name| (ACCEPTED_PROTOCOLS, HeaderValue::from_static(name))).collect()
            }
            Refusal::NoUpgrade | Refusal::NoProtocol | Refusal::BadWebSocket => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOKEN: Spoken = Spoken { spdy: &["v4", "v3"], websocket: &["w5", "w4"], unnamed: Some("w4") };

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_clients_first_choice_that_is_spoken_is_taken() {
        let lines = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "spdy/3.1"),
            ("x-stream-protocol-version", "v9"),
            ("x-stream-protocol-version", "v3, v4"),
        ];
        let agreed = negotiate(&head(&lines), SPOKEN).unwrap();
        assert_eq!((agreed.transport, agreed.protocol), (Transport::Spdy, "v3"));
        assert_eq!(agreed.answer.headers()["x-stream-protocol-version"], "v3");
        assert_eq!(agreed.answer.headers()["upgrade"], "SPDY/3.1");
    }

    #[test]
    fn a_websocket_client_that_names_no_protocol_gets_the_oldest() {
        let mut lines = vec![
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let agreed = negotiate(&head(&lines), SPOKEN).unwrap();
        assert_eq!(agreed.protocol, "w4");
        assert_eq!(agreed.answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!agreed.answer.headers().contains_key("sec-websocket-protocol"));
        lines.push(("sec-websocket-protocol", "w4, w5"));
        let agreed = negotiate(&head(&lines), SPOKEN).unwrap();
        assert_eq!(agreed.answer.headers()["sec-websocket-protocol"], "w4");
    }

    #[test]
    fn what_cannot_be_agreed_upon_is_refused_with_the_kubelets_status() {
        let spdy = [("connection", "upgrade"), ("upgrade", "SPDY/3.1")];
        let refused = |lines: &[(&'static str, &'static str)]| negotiate(&head(lines), SPOKEN).unwrap_err();
        assert_eq!(refused(&[]), Refusal::NoUpgrade);
        assert_eq!(refused(&[("upgrade", "SPDY/3.1")]).status(), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&spdy), Refusal::NoProtocol);
        let mut unknown = spdy.to_vec();
        unknown.push(("x-stream-protocol-version", "v9"));
        let refusal = refused(&unknown);
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert_eq!(refusal.headers().len(), 2);
        assert_eq!(refused(&[("connection", "upgrade"), ("upgrade", "websocket")]), Refusal::BadWebSocket);
    }
}
