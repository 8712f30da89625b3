//! What runs are let in by at Scalekit's MCP servers: one token for each run, user and connection, which may not write where
//! the run may not.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio::sync::Mutex;

use crate::clock::SharedClock;
use crate::job::{ConnectionName, Identifier};
use crate::key::Key;
use crate::mcp::Caller;
use crate::scalekit::{Error, Scalekit};

/// How long before its end a token is replaced: longer than a call takes.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// Assumed where it is not said how long one is good.
const UNSAID: SignedDuration = SignedDuration::from_mins(10);
/// Tokens that are kept at most, and for how long after their last use.
const IN_MEMORY: u64 = 20_000;
const IDLE: Duration = Duration::from_mins(30);

/// For whom tools are listed and run.
#[derive(Debug, Clone, Copy)]
pub struct ToolUser<'a> {
    /// Whose account runs them.
    pub identifier: &'a Identifier,
    /// The run's own name; rights are given for one run. Empty where there is none.
    pub run: &'a str,
    /// Whether the run may not change anything.
    pub reads_only: bool,
}

/// A token in use.
#[derive(Debug, Clone)]
pub(super) struct RunToken {
    secret: SecretString,
    /// The session that is held with it, where the server keeps any: another's token may not use it.
    session: Arc<str>,
    renew_at: Timestamp,
    /// Tells it from its successors.
    pub(super) generation: u64,
}

impl RunToken {
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller { session: &self.session, bearer: Some(&self.secret) }
    }
}

/// The tokens of the runs under way.
pub(super) struct SessionTokens {
    scalekit: Arc<Scalekit>,
    clock: SharedClock,
    /// Each locked while it is fetched: the run's other calls wait for it.
    tokens: moka::future::Cache<Key, Arc<Mutex<Option<RunToken>>>>,
}

impl SessionTokens {
    pub(super) fn new(scalekit: Arc<Scalekit>, clock: SharedClock) -> Self {
        let tokens = moka::future::Cache::builder().max_capacity(IN_MEMORY).time_to_idle(IDLE).build();
        Self { scalekit, clock, tokens }
    }

    /// The run's token for this connection; a new one where there is none, it is near its end, or it is the one of the
    /// generation that was `refused`.
    pub(super) async fn get(
        &self,
        user: ToolUser<'_>,
        connection: &ConnectionName,
        refused: Option<u64>,
    ) -> Result<RunToken, Error> {
        let access = if user.reads_only { "read" } else { "full" };
        let key = Key::new(&[user.run, user.identifier.as_str(), connection.as_str(), access]);
        let place = self.tokens.get_with(key.clone(), async { Arc::default() }).await;
        let mut place = place.lock().await;
        let now = self.clock.now();
        if let Some(token) = &*place
            && Some(token.generation) != refused
            && now < token.renew_at
        {
            return Ok(token.clone());
        }
        let generation = place.as_ref().map_or(1, |token| token.generation + 1);
        let fetched = self.scalekit.session_token(user.identifier, connection, user.reads_only).await?;
        let ends_at = fetched.expires_at.unwrap_or_else(|| later(now, UNSAID + RENEW_BEFORE));
        // One that lives shorter than the margin must still be used for a while.
        let half = later(now, now.duration_until(ends_at) / 2);
        let renew_at = later(ends_at, -RENEW_BEFORE).max(half);
        let session = format!("{}:{generation}", key.as_str()).into();
        let token = RunToken { secret: fetched.secret, session, renew_at, generation };
        *place = Some(token.clone());
        Ok(token)
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}
