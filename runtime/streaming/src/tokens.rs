//! Requests that wait for their client, each under a random token that is good once and not for long. Time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::limits;

/// Why no token is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("{} streaming requests wait for their clients; try again in a minute", limits::TOKENS)]
    Full,
    #[error("the kernel gives no random bytes")]
    NoRandomness,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tokens<R> {
    life: Duration,
    waiting: HashMap<String, (Instant, R)>,
}

impl<R> Tokens<R> {
    pub(crate) fn new(life: Duration) -> Tokens<R> {
        Tokens { life, waiting: HashMap::new() }
    }

    /// Keeps `request` and gives the token for it: 128 random bits.
    pub(crate) fn issue(&mut self, now: Instant, request: R) -> Result<String, TokenError> {
        self.forget_expired(now);
        if self.waiting.len() >= limits::TOKENS {
            return Err(TokenError::Full);
        }
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|_| TokenError::NoRandomness)?;
        let token = URL_SAFE_NO_PAD.encode(bits);
        self.waiting.insert(token.clone(), (now + self.life, request));
        Ok(token)
    }

    /// The request of a token, if `fits` says so. The token is good no longer.
    pub(crate) fn redeem(&mut self, now: Instant, token: &str, fits: impl Fn(&R) -> bool) -> Option<R> {
        self.forget_expired(now);
        if !self.waiting.get(token).is_some_and(|(_, request)| fits(request)) {
            return None;
        }
        self.waiting.remove(token).map(|(_, request)| request)
    }

    fn forget_expired(&mut self, now: Instant) {
        self.waiting.retain(|_, (end, _)| *end > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once() {
        let (mut tokens, now) = (Tokens::new(limits::TOKEN_LIFE), Instant::now());
        let token = tokens.issue(now, 7).unwrap();
        assert_eq!(token.len(), 22);
        assert_eq!(tokens.redeem(now, &token, |request| *request == 8), None);
        assert_eq!(tokens.redeem(now, &token, |request| *request == 7), Some(7));
        assert_eq!(tokens.redeem(now, &token, |_| true), None);
    }

    #[test]
    fn a_token_expires() {
        let (mut tokens, now) = (Tokens::new(limits::TOKEN_LIFE), Instant::now());
        let token = tokens.issue(now, ()).unwrap();
        assert_eq!(tokens.redeem(now + limits::TOKEN_LIFE, &token, |()| true), None);
        assert!(tokens.waiting.is_empty());
    }

    #[test]
    fn tokens_are_bounded_and_expired_ones_do_not_count() {
        let (mut tokens, now) = (Tokens::new(limits::TOKEN_LIFE), Instant::now());
        for number in 0..limits::TOKENS {
            tokens.issue(now, number).unwrap();
        }
        assert_eq!(tokens.issue(now, 0), Err(TokenError::Full));
        tokens.issue(now + limits::TOKEN_LIFE, 0).unwrap();
        assert_eq!(tokens.waiting.len(), 1);
    }
}
