//! What Scalekit's failures mean for us.
//!
//! The HTTP status decides the class; `error_code` of the body only tells the provider's failures (`TOOL_ERROR`) from
//! Scalekit's own, as a wrapped failure can carry any code (Java SDK, `ErrorMapper`).

use std::time::Duration;

use super::Operation;
use super::details::{Body, Details};
use crate::agent::effect::Ran;
use crate::http::{self, HttpError, Response};
use crate::retry::RetryDecision;

/// Whom a rate limit stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitScope {
    /// Every call to this Scalekit environment.
    Environment,
    /// Calls with this account only; the limit is the provider's.
    Account,
}

/// Why Scalekit did not do what was asked. Each variant is something else to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Our client id or secret is refused, or a fresh token was: the operator must act.
    #[error("Scalekit refuses our credentials: {}", .0.message)]
    Credentials(Details),
    /// No access token could be had, though it was tried again; the call itself was not sent.
    #[error("no access token: {}", .0.message)]
    NoToken(Details),
    /// The provider no longer accepts the user's authorization: read the account, ask the user.
    #[error("the user's authorization is not accepted ({code}): {}", details.message)]
    AuthorizationLost {
        /// Who says so: Scalekit's `error_code`, or the provider's word.
        code: String,
        /// Status, ids and the peer's words.
        details: Details,
    },
    /// The user or the connection has no right to this; the account can be active. An answer for the model.
    #[error("not permitted: {}", .0.message)]
    Forbidden(Details),
    /// The account is not ACTIVE: read it, ask the user.
    #[error("the connected account is not active: {}", .0.message)]
    AccountNotActive(Details),
    /// The user has no account for this connection: a magic link makes one, unless the connection does not exist.
    #[error("no connected account: {}", .0.message)]
    AccountUnknown(Details),
    /// No connection of this name (names are case-sensitive): the operator must act.
    #[error("no such connection: {}", .0.message)]
    ConnectionNotFound(Details),
    /// The connection is switched off: the operator must act.
    #[error("the connection is disabled: {}", .0.message)]
    ConnectionDisabled(Details),
    /// No tool of this name any more: read the tools again.
    #[error("no such tool: {}", .0.message)]
    UnknownTool(Details),
    /// The arguments are not accepted; nothing ran. An answer for the model.
    #[error("the arguments are not accepted: {}", .0.message)]
    InvalidArguments(Details),
    /// Too many calls; this one did not run.
    #[error("rate limit: {}", details.message)]
    RateLimited {
        /// Whom it stops.
        scope: RateLimitScope,
        /// How long to wait, where the peer says so.
        retry_after: Option<Duration>,
        /// Status, ids and the peer's words.
        details: Details,
    },
    /// The provider said no. An answer for the model.
    #[error("the tool failed: {}", .0.message)]
    ToolFailed(Details),
    /// The provider failed in the middle: what was done is not known.
    #[error("the provider failed: {}", .0.message)]
    ProviderFailed(Details),
    /// Scalekit, or what stands before it, is down.
    #[error("Scalekit is not available: {}", details.message)]
    Unavailable {
        /// How long to wait, where the peer says so.
        retry_after: Option<Duration>,
        /// Status, ids and the peer's words; without a status nobody answered.
        details: Details,
    },
    /// No connection came about, or the caller held the call back; nothing was sent.
    #[error("{}", .0.message)]
    NotSent(Details),
    /// No answer in time.
    #[error("{}", .0.message)]
    TimedOut(Details),
    /// The connection broke before the answer was whole.
    #[error("{}", .0.message)]
    Broken(Details),
    /// The answer cannot be understood.
    #[error("not an answer of Scalekit: {}", .0.message)]
    BadAnswer(Details),
    /// Refused for another reason, which a repeat does not change: a wrong request or configuration.
    #[error("refused: {}", details.message)]
    Refused {
        /// Whether the refusal proves that nothing ran.
        ran: Ran,
        /// Status, ids and the peer's words.
        details: Details,
    },
}

impl Error {
    /// Whether a call that runs no tool is repeated in place (Scalekit's Java SDK: UNAVAILABLE only).
    pub fn retry(&self) -> RetryDecision {
        match self {
            Self::NotSent(_) | Self::Broken(_) => RetryDecision::Again,
            Self::Unavailable { retry_after, details } if matches!(details.status, Some(502 | 503)) => {
                again(*retry_after)
            }
            _ => RetryDecision::Stop,
        }
    }

    /// Whether running a tool again can help. Whether it may run again is for [`crate::agent::effect::in_doubt`] to say.
    pub fn retry_tool(&self) -> RetryDecision {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => again(*retry_after),
            Self::NotSent(_) | Self::TimedOut(_) | Self::Broken(_) | Self::ProviderFailed(_) => RetryDecision::Again,
            _ => RetryDecision::Stop,
        }
    }

    /// Whether the tool can have run. Lost authorization counts as proof that it did not: a provider asks who calls
    /// before it does anything, and a parked run must be able to go on at the same call.
    pub fn ran(&self) -> Ran {
        match self {
            Self::Credentials(_)
            | Self::NoToken(_)
            | Self::AuthorizationLost { .. }
            | Self::AccountNotActive(_)
            | Self::AccountUnknown(_)
            | Self::ConnectionNotFound(_)
            | Self::ConnectionDisabled(_)
            | Self::UnknownTool(_)
            | Self::InvalidArguments(_)
            | Self::RateLimited { .. }
            | Self::NotSent(_) => Ran::No,
            Self::Refused { ran, .. } => *ran,
            Self::Forbidden(_)
            | Self::ToolFailed(_)
            | Self::ProviderFailed(_)
            | Self::Unavailable { .. }
            | Self::TimedOut(_)
            | Self::Broken(_)
            | Self::BadAnswer(_) => Ran::Perhaps,
        }
    }

    /// Whether this is the tool's definite answer, to be given to the model: the call failed, nothing is in doubt. To
    /// be asked before [`Error::ran`], which only says whether the same call may be sent again.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::ToolFailed(_) | Self::InvalidArguments(_) | Self::UnknownTool(_))
    }

    /// Whether the user's account must be read again, as the user may have to authorize.
    pub fn auth_lost(&self) -> bool {
        matches!(self, Self::AuthorizationLost { .. } | Self::AccountNotActive(_) | Self::AccountUnknown(_))
    }

    /// Whether the user has no right to this; whose account is lost may be told so as well.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }

    /// Whether a call that runs no tool was refused for good: the same request would be refused again.
    pub fn is_final(&self) -> bool {
        let Self::Refused { details, .. } = self else { return self.is_answer() };
        !matches!(details.status, Some(408 | 409 | 425 | 499))
    }

    /// How long the peer asks to wait: every rate limit, and an outage that says so. A limit without a time is given a
    /// minute's half, as Scalekit counts requests by the minute.
    pub fn come_back_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(Duration::from_secs(30))),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A short stable name, for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "credentials",
            Self::NoToken(_) => "no_token",
            Self::AuthorizationLost { .. } => "authorization_lost",
            Self::Forbidden(_) => "forbidden",
            Self::AccountNotActive(_) => "account_not_active",
            Self::AccountUnknown(_) => "account_unknown",
            Self::ConnectionNotFound(_) => "connection_not_found",
            Self::ConnectionDisabled(_) => "connection_disabled",
            Self::UnknownTool(_) => "unknown_tool",
            Self::InvalidArguments(_) => "invalid_arguments",
            Self::RateLimited { .. } => "rate_limited",
            Self::ToolFailed(_) => "tool_failed",
            Self::ProviderFailed(_) => "provider_failed",
            Self::Unavailable { .. } => "unavailable",
            Self::NotSent(_) => "not_sent",
            Self::TimedOut(_) => "timed_out",
            Self::Broken(_) => "broken",
            Self::BadAnswer(_) => "bad_answer",
            Self::Refused { .. } => "refused",
        }
    }

    /// The error without the words of Scalekit or the provider, which may name users and what they have: for log lines.
    /// Where nobody answered, the words are our own.
    pub fn outline(&self) -> String {
        match self.details().status {
            Some(status) => format!("{} (status {status})", self.code()),
            None => self.to_string(),
        }
    }

    /// Status, ids and the peer's words, whatever kind of failure it is.
    pub fn details(&self) -> &Details {
        match self {
            Self::Credentials(details)
            | Self::NoToken(details)
            | Self::Forbidden(details)
            | Self::AccountNotActive(details)
            | Self::AccountUnknown(details)
            | Self::ConnectionNotFound(details)
            | Self::ConnectionDisabled(details)
            | Self::UnknownTool(details)
            | Self::InvalidArguments(details)
            | Self::ToolFailed(details)
            | Self::ProviderFailed(details)
            | Self::NotSent(details)
            | Self::TimedOut(details)
            | Self::Broken(details)
            | Self::BadAnswer(details)
            | Self::AuthorizationLost { details, .. }
            | Self::RateLimited { details, .. }
            | Self::Unavailable { details, .. }
            | Self::Refused { details, .. } => details,
        }
    }

    pub(super) fn from_http(error: &HttpError) -> Self {
        let details = Details { message: error.to_string(), ..Details::default() };
        match error {
            HttpError::NotSent { .. } => Self::NotSent(details),
            HttpError::TimedOut { .. } => Self::TimedOut(details),
            HttpError::Broken { .. } => Self::Broken(details),
            HttpError::BodyTooLarge { status, .. } => Self::BadAnswer(Details { status: Some(*status), ..details }),
            HttpError::Invalid(_) => Self::Refused { ran: Ran::No, details },
        }
    }

    /// The meaning of an answer whose status is not 2xx.
    pub(super) fn from_response(operation: Operation, response: &Response) -> Self {
        let body = Body::read(response);
        let Body { code, details, .. } = &body;
        let (code, details) = (code.as_deref(), details.clone());
        match response.status {
            429 => {
                let scope = if body.tool_error { RateLimitScope::Account } else { RateLimitScope::Environment };
                Self::RateLimited { scope, retry_after: response.retry_after, details }
            }
            400..500 if operation == Operation::Token => Self::Credentials(details),
            401 => match code {
                None | Some("UNAUTHENTICATED") if !body.tool_error => Self::Credentials(details),
                _ => Self::AuthorizationLost { code: code.unwrap_or("TOOL_ERROR").to_owned(), details },
            },
            403 if code == Some("CONNECTION_NOT_ENABLED") => Self::ConnectionDisabled(details),
            403 if body.tool_error => Self::Forbidden(details),
            400 if body.tool_error && body.failed_before_the_call() => Self::InvalidArguments(details),
            400..500 if body.tool_error => Self::ToolFailed(details),
            500..600 if body.tool_error => Self::ProviderFailed(details),
            400 if operation == Operation::Execute && body.json => Self::refused_run(code, details),
            // No account of the user's is active; other refusals of a token speak of none.
            400 if operation == Operation::SessionToken && details.message.to_ascii_lowercase().contains("account") => {
                Self::AccountNotActive(details)
            }
            404 if !body.json => Self::BadAnswer(details),
            404 => match operation {
                Operation::MagicLink | Operation::ListAccounts | Operation::SessionToken => {
                    Self::ConnectionNotFound(details)
                }
                _ => Self::AccountUnknown(details),
            },
            400 | 403 => Self::Refused { ran: Ran::No, details },
            400..500 => Self::Refused { ran: Ran::Perhaps, details },
            500..600 => Self::Unavailable { retry_after: response.retry_after, details },
            _ => Self::BadAnswer(details),
        }
    }

    /// A 400 of Scalekit itself on running a tool.
    fn refused_run(code: Option<&str>, details: Details) -> Self {
        let message = details.message.to_ascii_lowercase();
        if code == Some("RESOURCE_NOT_FOUND") {
            Self::UnknownTool(details)
        } else if message.contains("not active") {
            Self::AccountNotActive(details)
        } else if message.contains("connected account") || message.contains("connected_account") {
            // None or several were matched: the request names the wrong one, the model cannot help it.
            Self::Refused { ran: Ran::No, details }
        } else {
            Self::InvalidArguments(details)
        }
    }

    /// A 2xx whose body is not what it must be.
    pub(super) fn bad_answer(response: &Response, problem: &str) -> Self {
        let message = format!("{problem}: {}", http::excerpt(&response.body));
        Self::BadAnswer(Details { message, ..Details::of(response) })
    }

    /// A list that does not end.
    pub(super) fn endless_list(operation: Operation, pages: u32) -> Self {
        let message = format!("{} has more than {pages} pages", operation.as_str());
        Self::BadAnswer(Details { message, ..Details::default() })
    }
}

fn again(retry_after: Option<Duration>) -> RetryDecision {
    retry_after.map_or(RetryDecision::Again, RetryDecision::AgainAfter)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::super::details::MESSAGE_CHARACTERS;
    use super::*;

    fn code(status: u16, body: impl Into<Bytes>) -> &'static str {
        let response = Response {
            status,
            retry_after: None,
            request_id: None,
            should_retry: None,
            content_type: None,
            session_id: None,
            wants_authentication: false,
            body: body.into(),
            room: None,
        };
        let error = Error::from_response(Operation::Execute, &response);
        assert!((1..=MESSAGE_CHARACTERS).contains(&error.details().message.chars().count()));
        error.code()
    }

    fn provider_failure() -> Value {
        json!({"code": 8, "message": "m", "details": [{
            "@type": "ErrorInfo",
            "error_code": "TOOL_ERROR",
            "tool_error_info": {"execution_id": "e", "tool_error_message": "m", "tool_error_code": "X"},
            "validation_error_info": {"field_violations": [{"field": "f", "description": "d"}]},
            "request_info": {"request_id": "r"}
        }]})
    }

    #[test]
    fn a_body_cut_off_anywhere_still_has_the_class_of_its_status() {
        let whole = provider_failure().to_string();
        for end in 0..whole.len() {
            let cut = || Bytes::copy_from_slice(&whole.as_bytes()[..end]);
            assert_eq!(code(429, cut()), "rate_limited");
            assert_eq!(code(503, cut()), "unavailable");
            assert_eq!(code(400, cut()), "refused");
            assert_eq!(code(401, cut()), "credentials");
        }
        assert_eq!(code(401, whole), "authorization_lost");
    }

    #[test]
    fn odd_values_in_any_field_do_no_harm() {
        for pointer in [
            "/code",
            "/message",
            "/details",
            "/details/0",
            "/details/0/error_code",
            "/details/0/tool_error_info",
            "/details/0/tool_error_info/tool_error_message",
            "/details/0/validation_error_info/field_violations",
            "/details/0/validation_error_info/field_violations/0",
            "/details/0/request_info",
        ] {
            for odd in
                [Value::Null, json!(true), json!(-1), json!(""), json!([[]]), json!({}), json!("x".repeat(1 << 20))]
            {
                let mut body = provider_failure();
                *body.pointer_mut(pointer).unwrap() = odd;
                assert_eq!(code(429, body.to_string()), "rate_limited", "{pointer}");
            }
        }
    }

    #[test]
    fn hostile_bodies_are_survived() {
        for body in [
            "",
            "null",
            "[]",
            "\"text\"",
            "{}",
            "\u{0}",
            &"[".repeat(100_000),
            &"{\"details\":".repeat(100_000),
            &"\u{1b}[31m".repeat(1 << 20),
        ] {
            assert_eq!(code(503, body.to_owned()), "unavailable");
        }
        assert_eq!(code(503, &b"\xff\xfe\x00"[..]), "unavailable");
    }
}
