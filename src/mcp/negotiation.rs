//! Speaking to a server in its own era, and finding out which that is.

use tracing::debug;

use super::answer::Finished;
use super::post::Post;
use super::session::is_legacy;
use super::{Caller, Endpoint, Era, McpError, McpFailure};

impl Endpoint {
    /// Sends a request in the server's own era, and finds that out by one that is harmless. It is sent again, once, where that
    /// was the problem, or the session's end: then it did not run. `may_leave` is asked right before anything is sent.
    pub(super) async fn ask<F>(
        &self,
        caller: Caller<'_>,
        post: &Post<'_>,
        may_leave: &impl Fn() -> F,
    ) -> Result<Finished, McpError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let error = match self.ask_once(caller, post, may_leave).await {
            Ok(finished) => return Ok(finished),
            Err(error) => error,
        };
        if !self.is_corrected(caller, post, &error).await? {
            return Err(error);
        }
        debug!(method = post.method, why = error.code(), "the request is sent again to the MCP server");
        self.ask_once(caller, post, may_leave).await
    }

    async fn ask_once<F>(
        &self,
        caller: Caller<'_>,
        post: &Post<'_>,
        may_leave: &impl Fn() -> F,
    ) -> Result<Finished, McpError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let session = match self.era() {
            Some(Era::Legacy) => Some(Box::pin(self.session(caller)).await.map_err(|error| {
                // It may be another server by now.
                if error.is_misfit() {
                    self.learn_era(None);
                }
                error.before_the_call()
            })?),
            Some(Era::Modern) | None => None,
        };
        may_leave().await.map_err(|why| McpError::NotSent(McpFailure { message: why, status: None }))?;
        match self.post(caller, post, session.as_deref()).await {
            Ok((finished, _)) => {
                self.learn_era(Some(if session.is_some() { Era::Legacy } else { Era::Modern }));
                Ok(finished)
            }
            Err(error) => {
                if let (McpError::SessionLost, Some(session)) = (&error, &session) {
                    self.forget_session(caller, session).await;
                }
                Err(error)
            }
        }
    }

    /// Whether what was wrong is put right now, and the request, which did not run, may be sent again.
    async fn is_corrected(&self, caller: Caller<'_>, post: &Post<'_>, error: &McpError) -> Result<bool, McpError> {
        let is_worth_a_try = match (self.era(), error) {
            (_, McpError::SessionLost) => return Ok(true),
            // It is of the modern era by now, or none at all.
            (None, McpError::Unprepared(_)) => return Ok(post.is_harmless()),
            (Some(Era::Legacy), McpError::Refused { .. } | McpError::OtherRevision(_)) => {
                self.learn_era(None);
                return Ok(post.is_harmless());
            }
            (None | Some(Era::Modern), McpError::OtherRevision(known)) => known.iter().any(|known| is_legacy(known)),
            (None | Some(Era::Modern), error) if post.is_harmless() => may_be_legacy(error),
            (Some(Era::Modern), McpError::Refused { .. }) => {
                self.learn_era(None);
                false
            }
            _ => false,
        };
        if !is_worth_a_try {
            return Ok(false);
        }
        match Box::pin(self.session(caller)).await {
            Ok(_) => {
                self.learn_era(Some(Era::Legacy));
                Ok(true)
            }
            // No server of the legacy era either: the first words say more.
            Err(McpError::Refused { .. } | McpError::BadAnswer(_) | McpError::OtherRevision(_)) => Ok(false),
            Err(other) => Err(other.before_the_call()),
        }
    }
}

/// Whether a server that does not know the modern era may answer so to its requests.
fn may_be_legacy(error: &McpError) -> bool {
    match error {
        McpError::Refused { .. }
        | McpError::InvalidArguments(_)
        | McpError::ToolFailed(_)
        | McpError::ServerFailed(_)
        | McpError::BadAnswer(_) => true,
        McpError::Unavailable { failure, .. } => matches!(failure.status, Some(500 | 501)),
        _ => false,
    }
}
