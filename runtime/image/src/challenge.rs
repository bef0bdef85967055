//! What registries and token servers answer about authentication: challenges and tokens.
//!
//! In: `WWW-Authenticate` headers (RFC 9110, section 11), a token server's JSON. Out: the challenge to meet, the token. Pure.

use serde::Deserialize;

use crate::digest::shorten;

/// What a host wants to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user name and a password.
    Basic,
    /// A token that `realm` gives.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge to meet among those of the headers: the first for a token, else the first for a password.
pub(crate) fn select<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<_> = headers.flat_map(challenges).collect();
    let is_bearer = |c: &&Challenge| matches!(c, Challenge::Bearer { .. });
    all.iter().find(is_bearer).or(all.first()).cloned()
}

/// All challenges of one header that we know how to meet. What cannot be read ends the list.
fn challenges(header: &str) -> Vec<Challenge> {
    let (mut found, mut rest) = (Vec::new(), header);
    loop {
        rest = rest.trim_start_matches([' ', ',', '\t']);
        let Some((scheme, after)) = token(rest) else { return found };
        let mut fields = Fields::default();
        rest = fields.read(after);
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = fields.realm
        {
            found.push(Challenge::Bearer { realm, service: fields.service, scope: fields.scope });
        }
    }
}

#[derive(Default)]
struct Fields {
    realm: Option<String>,
    service: Option<String>,
    scope: Option<String>,
}

impl Fields {
    /// Takes `key=value` after `key=value`, and returns what follows the last.
    fn read<'a>(&mut self, mut rest: &'a str) -> &'a str {
        loop {
            let start = rest.trim_start_matches([' ', ',', '\t']);
            let Some((key, after)) = token(start) else { return start };
            let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else { return start };
            let Some((value, next)) = value(after.trim_start_matches([' ', '\t'])) else { return "" };
            match key.to_ascii_lowercase().as_str() {
                "realm" => self.realm = Some(value),
                "service" => self.service = Some(value),
                "scope" => self.scope = Some(value),
                _ => {}
            }
            rest = next;
        }
    }
}

/// A word, and what follows it.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | '=' | '"');
    let end = text.find(is_end).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A quoted string or a word, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
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

/// The scope to ask for: the host's word if it is about reading alone, else our own.
pub(crate) fn scope(offered: Option<&str>, repository: &str) -> String {
    let is_plain = |scope: &&str| {
        scope.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull")).is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
        })
    };
    offered.filter(is_plain).map_or_else(|| format!("repository:{repository}:pull"), str::to_owned)
}

/// The token of a token server's answer, which may have it under either name or both. The text is never part of an error.
pub(crate) fn token_of(answer: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        format!("the token is malformed: {:?} at line {line} column {column}", e.classify())
    })?;
    let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
    let is_sendable = token.bytes().all(|b| b.is_ascii_graphic());
    if token.is_empty() || !is_sendable {
        return Err("the token is malformed: it is empty or cannot be sent".into());
    }
    Ok(token)
}

/// A registry's own words on why not: the messages of its error document, or the text as it is.
pub(crate) fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Document {
        errors: Vec<OneError>,
    }
    #[derive(Deserialize)]
    struct OneError {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Document>(body) {
        Ok(document) if !document.errors.is_empty() => {
            let texts = document.errors.iter().take(5).map(|e| match (e.code.as_str(), e.message.as_str()) {
                (code, "") => code.to_lowercase(),
                ("", message) => message.to_owned(),
                (code, message) => format!("{}: {message}", code.to_lowercase()),
            });
            shorten(&texts.collect::<Vec<_>>().join("; "))
        }
        Ok(_) | Err(_) => shorten(String::from_utf8_lossy(body).trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_names_realm_service_and_scope() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) })
        };
        let parse = |header: &str| select([header].into_iter());
        assert_eq!(
            parse(r#"Bearer realm="https://a/t",service="s""#),
            bearer("https://a/t", Some("s"), None)
        );
        assert_eq!(parse(r#"bearer service=s, realm="a\"b", error="x=y""#), bearer("a\"b", Some("s"), None));
        assert_eq!(parse(r#"Bearer realm="https://a/?b=c""#), bearer("https://a/?b=c", None, None));
        assert_eq!(
            parse(r#"Basic realm="x", Bearer realm="r" , scope="a b""#),
            bearer("r", None, Some("a b"))
        );
        assert_eq!(parse("Negotiate, Basic"), Some(Challenge::Basic));
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for none in
            ["Bearer", "Bearer realm=\"open", "Bearer service=\"s\"", "", " ", "=", "Digest realm=\"x\""]
        {
            assert_eq!(parse(none), None, "{none}");
        }
        let two = select(["Basic realm=\"x\"", "Bearer realm=\"r\""].into_iter());
        assert_eq!(two, bearer("r", None, None));
    }

    #[test]
    fn a_scope_that_is_more_than_reading_is_not_asked_for() {
        assert_eq!(scope(Some("repository:x/y:pull"), "a"), "repository:x/y:pull");
        for more in
            [None, Some("repository:x:pull,push"), Some("registry:catalog:*"), Some("repository::pull")]
        {
            assert_eq!(scope(more, "a"), "repository:a:pull", "{more:?}");
        }
    }

    #[test]
    fn a_token_may_come_under_either_name_or_both() {
        for answer in [r#"{"token":"t"}"#, r#"{"access_token":"t"}"#, r#"{"token":"t","access_token":"u"}"#] {
            assert_eq!(token_of(answer.as_bytes()).unwrap(), "t");
        }
        for wrong in
            ["{}", r#"{"token":""}"#, r#"{"token":"secret\n"}"#, r#"{"token":"secret""#, r#"["secret"]"#]
        {
            let reason = token_of(wrong.as_bytes()).unwrap_err();
            assert!(reason.contains("malformed") && !reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn a_registrys_words_are_taken_from_its_document() {
        let document = br#"{"errors":[{"code":"DENIED","message":"no","detail":{}},{"code":"X"}]}"#;
        assert_eq!(message_of(document), "denied: no; x");
        assert_eq!(message_of(b" <html> "), "<html>");
    }
}
