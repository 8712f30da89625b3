//! What the failures of an MCP server mean for us: above all whether a call can have run.

use std::time::Duration;

use serde_json::{Map, Value};

use super::content;
use crate::agent::effect::Ran;
use crate::http::{self, HttpError, Response};
use crate::retry::RetryDecision;

/// Longest message kept of an answer, in characters: enough for a server's words on a wrong argument.
const MESSAGE_CHARACTERS: usize = 1_000;

/// Codes of JSON-RPC 2.0 and of MCP.
const PARSE_ERROR: i64 = -32700;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
const HEADER_MISMATCH: i64 = -32020;
const MISSING_CAPABILITY: i64 = -32021;
const UNSUPPORTED_VERSION: i64 = -32022;
/// Of revision 2025-11-25 alone.
const URL_ELICITATION: i64 = -32042;

/// What is known of a failure. The message is one line, bounded and free of secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct McpFailure {
    /// The server's words or the client's, with at most 1,000 characters.
    pub message: String,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
}

/// Why a server did not do what was asked. Each variant is something else to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// No connection came about, or the caller held the call back; nothing was sent.
    #[error("{}", .0.message)]
    NotSent(McpFailure),
    /// What goes before the call failed, and the call itself was not sent.
    #[error("the call was not sent: {0}")]
    Unprepared(Box<McpError>),
    /// Our credentials are refused.
    #[error("the server refuses the credentials: {}", .0.message)]
    Unauthorized(McpFailure),
    /// Too many requests; this one did not run.
    #[error("rate limit: {}", failure.message)]
    RateLimited {
        /// How long to wait, where the server says so.
        retry_after: Option<Duration>,
        /// Status and the server's words.
        failure: McpFailure,
    },
    /// The server does not know the session (any more); the request did not run.
    #[error("the server does not know the session any more")]
    SessionLost,
    /// The server speaks other revisions, of which these are known.
    #[error("the server speaks other revisions of the protocol: {}", .0.join(", "))]
    OtherRevision(Vec<String>),
    /// The headers do not fit the body for the server: its tools have changed. Nothing ran.
    #[error("the headers do not fit: {}", .0.message)]
    HeadersDiffer(McpFailure),
    /// The arguments are not accepted, or there is no such tool; nothing ran. An answer for the model.
    #[error("the arguments are not accepted: {}", .0.message)]
    InvalidArguments(McpFailure),
    /// The server wants something of a person, of a model or of a file system that nobody gives it here. An answer for the
    /// model.
    #[error("the tool did not finish: {}", .0.message)]
    WantsMore(McpFailure),
    /// The tool ran and says that it failed. An answer for the model.
    #[error("the tool failed: {}", .0.message)]
    ToolFailed(McpFailure),
    /// The server failed in the middle: what was done is not known.
    #[error("the server failed: {}", .0.message)]
    ServerFailed(McpFailure),
    /// The server, or what stands before it, is down.
    #[error("the server is not available: {}", failure.message)]
    Unavailable {
        /// How long to wait, where the server says so.
        retry_after: Option<Duration>,
        /// Status and the server's words.
        failure: McpFailure,
    },
    /// No answer in time.
    #[error("{}", .0.message)]
    TimedOut(McpFailure),
    /// The connection, or the stream of events, broke before the answer was there.
    #[error("{}", .0.message)]
    Broken(McpFailure),
    /// The answer cannot be understood.
    #[error("not an answer of an MCP server: {}", .0.message)]
    BadAnswer(McpFailure),
    /// Refused for another reason, which a repeat does not change.
    #[error("refused: {}", failure.message)]
    Refused {
        /// Whether the refusal proves that nothing ran.
        ran: Ran,
        /// Status and the server's words.
        failure: McpFailure,
    },
}

impl McpError {
    /// Whether a request that runs no tool is repeated in place.
    pub(super) fn retry(&self) -> RetryDecision {
        match self {
            Self::NotSent(_) | Self::Broken(_) | Self::SessionLost => RetryDecision::Again,
            Self::Unavailable { retry_after, failure } if matches!(failure.status, Some(502 | 503)) => {
                again(*retry_after)
            }
            _ => RetryDecision::Stop,
        }
    }

    /// Whether running a tool again can help. Whether it may run again is for [`crate::agent::effect::in_doubt`] to say.
    pub fn retry_tool(&self) -> RetryDecision {
        match self {
            Self::Unprepared(error) => error.retry_tool(),
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => again(*retry_after),
            Self::NotSent(_)
            | Self::TimedOut(_)
            | Self::Broken(_)
            | Self::ServerFailed(_)
            | Self::SessionLost
            | Self::HeadersDiffer(_) => RetryDecision::Again,
            _ => RetryDecision::Stop,
        }
    }

    /// Whether the tool can have run. A stream that broke, a time that passed and an answer that cannot be read prove nothing,
    /// whatever the protocol lets a client do then.
    pub fn ran(&self) -> Ran {
        match self {
            Self::NotSent(_)
            | Self::Unprepared(_)
            | Self::Unauthorized(_)
            | Self::RateLimited { .. }
            | Self::SessionLost
            | Self::OtherRevision(_)
            | Self::HeadersDiffer(_)
            | Self::InvalidArguments(_) => Ran::No,
            Self::Refused { ran, .. } => *ran,
            Self::WantsMore(_)
            | Self::ToolFailed(_)
            | Self::ServerFailed(_)
            | Self::Unavailable { .. }
            | Self::TimedOut(_)
            | Self::Broken(_)
            | Self::BadAnswer(_) => Ran::Perhaps,
        }
    }

    /// Whether this is the tool's definite answer, to be given to the model: the call failed, nothing is in doubt. To be asked
    /// before [`McpError::ran`], which only says whether the same call may be sent again.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::ToolFailed(_) | Self::InvalidArguments(_) | Self::WantsMore(_))
    }

    /// How long the server asks to wait: every rate limit, and an outage that says so.
    pub fn come_back_after(&self) -> Option<Duration> {
        match self {
            Self::Unprepared(error) => error.come_back_after(),
            Self::RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(Duration::from_secs(30))),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the operator must see to it: to the address, the headers, or the server.
    pub fn is_misfit(&self) -> bool {
        match self {
            Self::Unprepared(error) => error.is_misfit(),
            error => matches!(error, Self::Unauthorized(_) | Self::OtherRevision(_) | Self::Refused { .. }),
        }
    }

    /// A short stable name, for metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::Unprepared(error) => error.code(),
            Self::Unauthorized(_) => "unauthorized",
            Self::RateLimited { .. } => "rate_limited",
            Self::SessionLost => "session_lost",
            Self::OtherRevision(_) => "other_revision",
            Self::HeadersDiffer(_) => "headers_differ",
            Self::InvalidArguments(_) => "invalid_arguments",
            Self::WantsMore(_) => "wants_more",
            Self::ToolFailed(_) => "tool_failed",
            Self::ServerFailed(_) => "server_failed",
            Self::Unavailable { .. } => "unavailable",
            Self::TimedOut(_) => "timed_out",
            Self::Broken(_) => "broken",
            Self::BadAnswer(_) => "bad_answer",
            Self::Refused { .. } => "refused",
        }
    }

    /// The error without the server's words, which may name users and what they have: for log lines. Where nobody answered,
    /// the words are our own.
    pub fn outline(&self) -> String {
        match self.status() {
            Some(status) => format!("{} (status {status})", self.code()),
            None => self.to_string(),
        }
    }

    fn status(&self) -> Option<u16> {
        match self {
            Self::SessionLost | Self::OtherRevision(_) => None,
            Self::Unprepared(error) => error.status(),
            Self::NotSent(failure)
            | Self::Unauthorized(failure)
            | Self::HeadersDiffer(failure)
            | Self::InvalidArguments(failure)
            | Self::WantsMore(failure)
            | Self::ToolFailed(failure)
            | Self::ServerFailed(failure)
            | Self::TimedOut(failure)
            | Self::Broken(failure)
            | Self::BadAnswer(failure)
            | Self::RateLimited { failure, .. }
            | Self::Unavailable { failure, .. }
            | Self::Refused { failure, .. } => failure.status,
        }
    }

    /// The request that was to go before a call failed.
    pub(super) fn before_the_call(self) -> Self {
        match self {
            error @ (Self::NotSent(_) | Self::Unprepared(_) | Self::Unauthorized(_) | Self::RateLimited { .. }) => {
                error
            }
            error => Self::Unprepared(Box::new(error)),
        }
    }

    pub(super) fn from_http(error: &HttpError) -> Self {
        let failure = McpFailure { message: error.to_string(), status: None };
        match error {
            HttpError::NotSent { .. } => Self::NotSent(failure),
            HttpError::TimedOut { .. } => Self::TimedOut(failure),
            HttpError::Broken { .. } => Self::Broken(failure),
            HttpError::BodyTooLarge { status, .. } => Self::BadAnswer(McpFailure { status: Some(*status), ..failure }),
            HttpError::Invalid(_) => Self::Refused { ran: Ran::No, failure },
        }
    }

    /// The meaning of an answer whose status is not 2xx; `error` is its JSON-RPC error, where it has one.
    pub(super) fn from_status(response: &Response, error: Option<&Map<String, Value>>, in_session: bool) -> Self {
        let words = error.and_then(|error| error.get("message")?.as_str());
        let message = words.map_or_else(|| http::excerpt(&response.body), redacted);
        let message = if message.is_empty() { format!("status {}", response.status) } else { message };
        let failure = McpFailure { message, status: Some(response.status) };
        match response.status {
            401 => Self::Unauthorized(failure),
            403 if response.wants_authentication => Self::Unauthorized(failure),
            429 => Self::RateLimited { retry_after: response.retry_after, failure },
            // Before its error is looked at: a server that does not know the session has run nothing in it.
            404 if in_session => Self::SessionLost,
            400 | 404 => match error.map(|error| (code(error), error)) {
                Some((INTERNAL_ERROR, _)) => Self::Refused { ran: Ran::No, failure },
                Some((code, error)) => Self::from_code(code, error, failure)
                    .unwrap_or_else(|failure| Self::Refused { ran: Ran::Perhaps, failure }),
                None => Self::Refused { ran: Ran::Perhaps, failure },
            },
            400..500 => Self::Refused { ran: Ran::Perhaps, failure },
            500..600 => Self::Unavailable { retry_after: response.retry_after, failure },
            _ => Self::BadAnswer(failure),
        }
    }

    /// The meaning of a JSON-RPC error that came with status 200.
    pub(super) fn from_error(error: &Map<String, Value>, status: u16) -> Self {
        let message = redacted(error.get("message").and_then(Value::as_str).unwrap_or("the server gave no reason"));
        let failure = McpFailure { message, status: Some(status) };
        match code(error) {
            INTERNAL_ERROR => Self::ServerFailed(failure),
            code => Self::from_code(code, error, failure).unwrap_or_else(Self::ToolFailed),
        }
    }

    /// What the codes of the protocol itself mean: nothing ran.
    fn from_code(code: i64, error: &Map<String, Value>, failure: McpFailure) -> Result<Self, McpFailure> {
        Ok(match code {
            INVALID_PARAMS => Self::InvalidArguments(failure),
            HEADER_MISMATCH => Self::HeadersDiffer(failure),
            MISSING_CAPABILITY => Self::WantsMore(McpFailure {
                message: format!("the server wants of its client what this one has not: {}", failure.message),
                ..failure
            }),
            URL_ELICITATION => Self::WantsMore(McpFailure { message: visit(error, &failure.message), ..failure }),
            UNSUPPORTED_VERSION => Self::OtherRevision(supported(error)),
            PARSE_ERROR | -32699..=-32600 | -32029..=-32020 => Self::Refused { ran: Ran::No, failure },
            _ => return Err(failure),
        })
    }

    /// A tool that ran and failed, in its own words.
    pub(super) fn tool_failed(parts: &[Value], status: u16) -> Self {
        let message = redacted(&content::text_of(parts));
        let message = if message.is_empty() { "it gave no reason".to_owned() } else { message };
        Self::ToolFailed(McpFailure { message, status: Some(status) })
    }

    /// A call that goes on only once somebody has answered these.
    pub(super) fn wants_input(requests: Option<&Value>, status: u16) -> Self {
        let wanted = requests.and_then(Value::as_object).into_iter().flatten();
        let mut wanted: Vec<&str> = wanted.filter_map(|(_, request)| request.get("method")?.as_str()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted = redacted(&wanted.join(", "));
        let message =
            format!("the server asks for more before it goes on ({wanted}), and there is nobody here to answer");
        Self::WantsMore(McpFailure { message, status: Some(status) })
    }

    /// The stream of events came to its end, and the answer was not in it.
    pub(super) fn stream_ended(status: u16) -> Self {
        let message = "the stream of events ended without an answer".to_owned();
        Self::Broken(McpFailure { message, status: Some(status) })
    }

    pub(super) fn bad_answer(response: &Response, problem: &str) -> Self {
        Self::bad_result(response.status, &format!("{problem}: {}", http::excerpt(&response.body)))
    }

    /// An answer in whose result something is wrong.
    pub(super) fn bad_result(status: u16, problem: &str) -> Self {
        Self::BadAnswer(McpFailure { message: problem.to_owned(), status: Some(status) })
    }
}

fn code(error: &Map<String, Value>) -> i64 {
    error.get("code").and_then(Value::as_i64).unwrap_or_default()
}

fn supported(error: &Map<String, Value>) -> Vec<String> {
    let all = error.get("data").and_then(|data| data.get("supported")?.as_array());
    all.into_iter().flatten().filter_map(Value::as_str).take(20).map(|revision| http::redacted(revision, 40)).collect()
}

/// Where a person would have to go, which only its host says: the address may give rights.
fn visit(error: &Map<String, Value>, message: &str) -> String {
    let asked = error.get("data").and_then(|data| data.get("elicitations")?.as_array());
    let hosts = asked.into_iter().flatten().filter_map(|asked| url::Url::parse(asked.get("url")?.as_str()?).ok());
    let hosts: Vec<String> = hosts.filter_map(|url| Some(url.host_str()?.to_owned())).take(3).collect();
    let at = if hosts.is_empty() { String::new() } else { format!(" at {}", hosts.join(", ")) };
    format!("a person would have to authorize{at} first, and there is nobody here to do it: {message}")
}

fn redacted(text: &str) -> String {
    http::redacted(text, MESSAGE_CHARACTERS)
}

fn again(retry_after: Option<Duration>) -> RetryDecision {
    retry_after.map_or(RetryDecision::Again, RetryDecision::AgainAfter)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            retry_after: None,
            request_id: None,
            should_retry: None,
            content_type: None,
            session_id: None,
            wants_authentication: false,
            body: Bytes::copy_from_slice(body.as_bytes()),
            room: None,
        }
    }

    fn of_status(status: u16, error: Option<Value>, in_session: bool) -> McpError {
        let error = error.map(|error| error.as_object().unwrap().clone());
        McpError::from_status(&response(status, "words"), error.as_ref(), in_session)
    }

    #[test]
    fn only_what_is_proven_counts_as_not_run() {
        let error = |code: i64| Some(json!({"code": code, "message": "no"}));
        for (status, error, in_session, name, ran) in [
            (401, None, false, "unauthorized", Ran::No),
            (401, error(-32000), true, "unauthorized", Ran::No),
            (403, None, false, "refused", Ran::Perhaps),
            (404, None, true, "session_lost", Ran::No),
            (404, error(-32001), true, "session_lost", Ran::No),
            (404, None, false, "refused", Ran::Perhaps),
            (404, error(-32601), false, "refused", Ran::No),
            (400, error(-32600), false, "refused", Ran::No),
            (400, error(-32603), false, "refused", Ran::No),
            (400, error(-32602), false, "invalid_arguments", Ran::No),
            (400, error(-32700), false, "refused", Ran::No),
            (400, error(-32020), false, "headers_differ", Ran::No),
            (400, error(-32021), false, "wants_more", Ran::Perhaps),
            (400, error(-32022), false, "other_revision", Ran::No),
            (400, error(-32000), true, "refused", Ran::Perhaps),
            (400, None, false, "refused", Ran::Perhaps),
            (400, Some(json!({"message": 5})), false, "refused", Ran::Perhaps),
            (409, error(-32600), false, "refused", Ran::Perhaps),
            (429, None, false, "rate_limited", Ran::No),
            (500, error(-32600), false, "unavailable", Ran::Perhaps),
            (503, None, false, "unavailable", Ran::Perhaps),
            (302, None, false, "bad_answer", Ran::Perhaps),
        ] {
            let told = of_status(status, error.clone(), in_session);
            assert_eq!((told.code(), told.ran()), (name, ran), "{status} {error:?}");
        }
    }

    #[test]
    fn an_error_in_an_answer_says_whether_the_tool_can_have_run() {
        for (error, name, ran) in [
            (json!({"code": -32602, "message": "Unknown tool: x"}), "invalid_arguments", Ran::No),
            (json!({"code": -32601, "message": "no"}), "refused", Ran::No),
            (json!({"code": -32603, "message": "boom"}), "server_failed", Ran::Perhaps),
            (json!({"code": -32000, "message": "no such page"}), "tool_failed", Ran::Perhaps),
            (json!({"code": 7, "message": "no"}), "tool_failed", Ran::Perhaps),
            (json!({}), "tool_failed", Ran::Perhaps),
            (json!({"code": "-32602", "message": 5}), "tool_failed", Ran::Perhaps),
        ] {
            let told = McpError::from_error(error.as_object().unwrap(), 200);
            assert_eq!((told.code(), told.ran()), (name, ran), "{error}");
        }
    }

    #[test]
    fn what_a_person_would_have_to_do_is_said_without_the_link() {
        let error = json!({"code": -32042, "message": "authorize", "data": {"elicitations": [
            {"mode": "url", "url": "https://login.example.com/oauth?state=s3cret", "elicitationId": "e"}, {"url": 5}, 7
        ]}});
        let told = of_status(400, Some(error), false).to_string();
        assert!(told.contains("login.example.com") && told.contains("nobody here"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        let requests =
            json!({"a": {"method": "elicitation/create"}, "b": {"method": "sampling/createMessage"}, "c": 5});
        let told = McpError::wants_input(Some(&requests), 200).to_string();
        assert!(told.contains("elicitation/create, sampling/createMessage"), "{told}");
    }

    #[test]
    fn words_are_bounded_and_what_was_not_sent_is_never_in_doubt() {
        let long = json!({"code": -32000, "message": "x ".repeat(5_000)});
        let told = McpError::from_error(long.as_object().unwrap(), 200);
        assert!(told.to_string().chars().count() < MESSAGE_CHARACTERS + 50);
        for error in [
            McpError::TimedOut(McpFailure::default()),
            McpError::Unavailable { retry_after: None, failure: McpFailure::default() },
            McpError::BadAnswer(McpFailure::default()),
        ] {
            let before = error.clone().before_the_call();
            assert_eq!((error.ran(), before.ran(), before.is_answer()), (Ran::Perhaps, Ran::No, false));
            assert_eq!((before.code(), before.retry_tool()), (error.code(), error.retry_tool()));
        }
    }
}
