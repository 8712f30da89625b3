//! Our access token: fetched once for all who need it, replaced before it ends.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{CredentialsNews, Error, Operation, Scalekit, object};
use crate::http::{Method, Request};

/// Assumed where the answer does not say how long a token is good; Scalekit's live about a day.
const UNSAID_SECONDS: u64 = 300;

/// The token in use. Its lock is held while a new one is fetched, so there is never a second fetch beside it.
#[derive(Debug, Default)]
pub(super) struct AccessTokens(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    generation: u64,
    /// When the last fetch failed, and how.
    failed: Option<(Instant, Error)>,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: SecretString,
    /// Tells this token from its successors.
    pub(super) generation: u64,
    renew_at: Timestamp,
}

impl Scalekit {
    /// The token in use, or a new one where there is none, it is near its end, or it is the one that was `refused`.
    /// Whoever waited while a fetch failed gets that failure, and does not fetch again.
    pub(super) async fn token(&self, refused: Option<u64>) -> Result<Token, Error> {
        let asked = Instant::now();
        let mut state = self.tokens.0.lock().await;
        if let Some(token) = &state.token
            && Some(token.generation) != refused
            && self.clock.now() < token.renew_at
        {
            return Ok(token.clone());
        }
        if let Some((at, error)) = &state.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        match self.fetch_token(state.generation + 1).await {
            Ok(token) => {
                state.generation = token.generation;
                state.token = Some(token.clone());
                Ok(token)
            }
            Err(error) => {
                if matches!(error, Error::Credentials(_)) {
                    self.tell(CredentialsNews::Refused);
                }
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Fetches a new token whatever there is. The old one stays where none is to be had.
    pub(super) async fn renew_token(&self) -> Result<(), Error> {
        let present = self.tokens.0.lock().await.token.as_ref().map(|token| token.generation);
        self.token(present).await.map(drop)
    }

    async fn fetch_token(&self, generation: u64) -> Result<Token, Error> {
        let url = self.url("/oauth/token", &[]);
        let request = Request::new(Method::Post, url, self.control_timeout()).form(&[
            ("grant_type", "client_credentials"),
            ("client_id", &self.config.client_id),
            ("client_secret", self.config.client_secret.expose_secret()),
        ]);
        let asked = self.clock.now();
        let answer = self.repeated(Operation::Token, || self.exchange(Operation::Token, request.clone())).await;
        let response = answer.map_err(without_token)?;
        // The answer is never shown, not even an excerpt: what cannot be read may still hold a token.
        let unreadable = || {
            let response = crate::http::Response { body: bytes::Bytes::new(), ..response.clone() };
            without_token(Error::bad_answer(&response, "no token in the token endpoint's answer"))
        };
        let answer = object(&response).map_err(|_| unreadable())?;
        let secret = answer.get("access_token").and_then(Value::as_str).filter(|text| is_header_safe(text));
        let secret = secret.ok_or_else(unreadable)?.to_owned().into();
        let good_for = answer.get("expires_in").and_then(seconds).unwrap_or(UNSAID_SECONDS);
        // A token that lives shorter than the margin must still be used for a while.
        let margin = self.config.token_renew_before_seconds.min(good_for / 2);
        let renew_in = SignedDuration::try_from(Duration::from_secs(good_for - margin)).unwrap_or(SignedDuration::MAX);
        let renew_at = asked.saturating_add(renew_in).unwrap_or(Timestamp::MAX);
        Ok(Token { secret, generation, renew_at })
    }
}

/// The call that wanted a token was not sent, whatever became of the request for the token.
fn without_token(error: Error) -> Error {
    match error {
        Error::Credentials(_) | Error::RateLimited { .. } => error,
        other => Error::NoToken(other.details().clone()),
    }
}

fn is_header_safe(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|seconds| *seconds > 0)
}
