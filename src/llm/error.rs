//! Why a model call failed, in terms of what the caller can do about it.

use std::time::Duration;

use serde_json::Value;

use crate::agent::models::{CONTEXT_TOO_LONG, MODEL_GONE, QUOTA_EXHAUSTED, RATE_LIMITED};
use crate::http::{excerpt, redacted};
use crate::retry::RetryDecision;

/// Codes of the quota family: only a person with a credit card can help (protocol: error codes page, 2026-11-22).
const QUOTA_CODES: [&str; 9] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "billing_hard_limit_reached",
    "billing_not_active",
    "enforced_spend_limit_reached",
    "billing_error",
];
/// The same said in words alone, as an invalid request (Anthropic).
const QUOTA_WORDS: [&str; 2] = ["credit balance is too low", "api usage limits. you will regain access"];
const FILTER_CODES: [&str; 3] = ["content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"];
const BUSY_CODES: [&str; 4] = ["slow_down", "server_is_overloaded", "rate_limit_exceeded", "overloaded_error"];
/// A good key that may not use this one model: gateways say it with a 401 (LiteLLM, `proxy/_types.py`).
const MODEL_CODES: [&str; 3] = ["key_model_access_denied", "team_model_access_denied", "model_not_found"];
/// The model is not there, or not any more: OpenAI's code, and those of Azure, Groq and others for models taken away.
const GONE_CODES: [&str; 6] = [
    "model_not_found",
    "model_deprecated",
    "model_decommissioned",
    "DeploymentNotFound",
    "ModelNotFound",
    "DeprecatedModel",
];
/// Longest reason of a server that goes into an error, in characters.
const LONGEST_REASON: usize = 300;

/// A model call that gave no answer. No variant carries a prompt, a key or what the model said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlmError {
    /// The request breaks a rule that every server checks; it was not sent. A bug of the caller.
    #[error("the request was not sent: {0}")]
    Invalid(String),
    /// No byte of the request left: nothing was spent.
    #[error("the model's server cannot be reached: {0}")]
    NotSent(String),
    /// No complete answer in time. Tokens may have been spent.
    #[error("the model gave no answer in time")]
    TimedOut,
    /// The connection broke before the answer was complete. Tokens may have been spent.
    #[error("the connection to the model's server broke: {0}")]
    Interrupted(String),
    /// The server has a passing problem (5xx, 408, 409).
    #[error("the model's server is unavailable (status {status})")]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// Too many requests or tokens for now.
    #[error("the model's server asks to slow down")]
    RateLimited {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// The account has no money or budget left. Every further call would fail the same way.
    #[error("the model account's quota is used up ({code})")]
    QuotaExhausted {
        /// The server's code.
        code: String,
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// The server will never take this request (400, 403, 404, 422 …).
    #[error("the model's server rejected the request (status {status}{}): {message}", detail(.code.as_deref(), .param.as_deref()))]
    Rejected {
        /// The HTTP status; 200 where a failure came in a successful answer.
        status: u16,
        /// The server's code.
        code: Option<String>,
        /// The parameter at fault.
        param: Option<String>,
        /// The server's words, shortened.
        message: String,
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// The server does not have the model, or not any more (404, 410). Other requests to it fail the same way.
    #[error("the model's server does not have the model (status {status}{}): {message}", detail(.code.as_deref(), None))]
    ModelGone {
        /// The HTTP status; 200 where a failure came in a successful answer.
        status: u16,
        /// The server's code.
        code: Option<String>,
        /// The server's words, shortened.
        message: String,
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// The conversation does not fit the model's context window, or is larger than what the account may send in a minute.
    #[error("the conversation is longer than the model takes")]
    ContextTooLong {
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// A filter of the provider refused the input.
    #[error("the provider's content filter refused the request")]
    ContentFiltered {
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// The key is wrong, revoked or missing (401).
    #[error("the model's server refused the api key")]
    Credentials {
        /// The server's id of the request.
        request_id: Option<String>,
    },
    /// A successful status, but not the answer of a model: a proxy's page, a body cut off, no choices.
    #[error("the model's server gave a malformed answer: {excerpt}")]
    BadAnswer {
        /// What is wrong with it, and the beginning of a body that is not JSON.
        excerpt: String,
        /// The server's id of the request.
        request_id: Option<String>,
    },
}

impl LlmError {
    /// What the failure means for a retry. A call of a model changes nothing in the world, so doubt is no hindrance.
    pub fn retry(&self) -> RetryDecision {
        match self {
            Self::NotSent(_) | Self::TimedOut | Self::Interrupted(_) | Self::BadAnswer { .. } => RetryDecision::Again,
            Self::Unavailable { retry_after, .. } | Self::RateLimited { retry_after, .. } => {
                retry_after.map_or(RetryDecision::Again, RetryDecision::AgainAfter)
            }
            Self::Invalid(_)
            | Self::QuotaExhausted { .. }
            | Self::Rejected { .. }
            | Self::ModelGone { .. }
            | Self::ContextTooLong { .. }
            | Self::ContentFiltered { .. }
            | Self::Credentials { .. } => RetryDecision::Stop,
        }
    }

    /// A short stable name, for metrics, logs and replies.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::NotSent(_) => "not_sent",
            Self::TimedOut => "timed_out",
            Self::Interrupted(_) => "interrupted",
            Self::Unavailable { .. } => "unavailable",
            Self::RateLimited { .. } => RATE_LIMITED,
            Self::QuotaExhausted { .. } => QUOTA_EXHAUSTED,
            Self::Rejected { .. } => "rejected",
            Self::ModelGone { .. } => MODEL_GONE,
            Self::ContextTooLong { .. } => CONTEXT_TOO_LONG,
            Self::ContentFiltered { .. } => "content_filtered",
            Self::Credentials { .. } => "credentials",
            Self::BadAnswer { .. } => "bad_answer",
        }
    }

    /// The error without the server's own words, which may repeat what a user wrote: for log lines.
    pub fn outline(&self) -> String {
        match self {
            Self::Rejected { status, .. } => format!("the model's server rejected the request (status {status})"),
            Self::ModelGone { status, .. } => format!("the model's server does not have the model (status {status})"),
            Self::BadAnswer { .. } => "the model's server gave a malformed answer".to_owned(),
            Self::QuotaExhausted { .. } => "the model account's quota is used up".to_owned(),
            error => error.to_string(),
        }
    }

    /// The server's id of the request, where it answered and gave one.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Invalid(_) | Self::NotSent(_) | Self::TimedOut | Self::Interrupted(_) => None,
            Self::Unavailable { request_id, .. }
            | Self::RateLimited { request_id, .. }
            | Self::QuotaExhausted { request_id, .. }
            | Self::Rejected { request_id, .. }
            | Self::ModelGone { request_id, .. }
            | Self::ContextTooLong { request_id }
            | Self::ContentFiltered { request_id }
            | Self::Credentials { request_id }
            | Self::BadAnswer { request_id, .. } => request_id.as_deref(),
        }
    }

    /// A malformed answer. Text that begins like JSON may hold what the model said, so it is not repeated.
    pub(super) fn bad_answer(problem: &str, body: &[u8]) -> Self {
        let looks_like_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'[' | b'"') | None);
        let excerpt = if looks_like_json { problem.to_owned() } else { format!("{problem}: {}", excerpt(body)) };
        Self::BadAnswer { excerpt, request_id: None }
    }

    pub(super) fn with_request_id(mut self, id: Option<String>) -> Self {
        match &mut self {
            Self::Invalid(_) | Self::NotSent(_) | Self::TimedOut | Self::Interrupted(_) => {}
            Self::Unavailable { request_id, .. }
            | Self::RateLimited { request_id, .. }
            | Self::QuotaExhausted { request_id, .. }
            | Self::Rejected { request_id, .. }
            | Self::ModelGone { request_id, .. }
            | Self::ContextTooLong { request_id }
            | Self::ContentFiltered { request_id }
            | Self::Credentials { request_id }
            | Self::BadAnswer { request_id, .. } => *request_id = id,
        }
        self
    }
}

fn detail(code: Option<&str>, param: Option<&str>) -> String {
    let code = code.map(|code| format!(", {code}"));
    let param = param.map(|param| format!(", parameter {param}"));
    code.into_iter().chain(param).collect()
}

/// What a server says besides the body when it does not give an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) status: u16,
    /// `x-should-retry`: the server's own word on a retry, above what the status says.
    pub(super) should_retry: Option<bool>,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that came in an answer of status 200.
    pub(super) const WITHIN_SUCCESS: Self = Self { status: 200, should_retry: None, retry_after: None };
}

/// The error of a failed call whose body is `{"error": {message, type, param, code}}`, or one of the forms that
/// compatible servers give instead: `{"error": "…"}`, `{"message": "…"}`, `{"detail": …}`, or no JSON at all.
pub(super) fn classify(failure: Failure, body: &Value) -> LlmError {
    // Gemini puts its error into a list.
    let body = body.get(0).filter(|first| first.get("error").is_some()).unwrap_or(body);
    let error = body.get("error").filter(|error| !error.is_null()).unwrap_or(body);
    let code = text_of(error.get("code"));
    let kind = text_of(error.get("type"));
    let inner_code = text_of(error.get("innererror").and_then(|inner| inner.get("code")));
    let detail_code = text_of(error.get("details").and_then(|details| details.get("error_code")));
    let codes = [code.as_deref(), kind.as_deref(), inner_code.as_deref(), detail_code.as_deref()];
    let is_one_of = |known: &[&str]| codes.iter().flatten().copied().find(|code| known.contains(code));
    let message = [error.get("message"), error.get("detail"), Some(error)]
        .into_iter()
        .find_map(text_of)
        .unwrap_or_else(|| "no reason given".to_owned());

    // Gateways report an upstream's status as the code of an answer of status 200.
    let upstream = code.as_deref().and_then(|code| code.parse().ok()).filter(|code| (400..600).contains(code));
    let status = upstream.filter(|_| failure.status == 200).unwrap_or(failure.status);

    if let Some(code) = is_one_of(&QUOTA_CODES) {
        return LlmError::QuotaExhausted { code: code.to_owned(), request_id: None };
    }
    let lower = message.to_ascii_lowercase();
    if QUOTA_WORDS.iter().any(|words| lower.contains(words)) && matches!(status, 400..=403 | 429) {
        return LlmError::QuotaExhausted { code: "spend_limit".to_owned(), request_id: None };
    }
    if status == 402 {
        return LlmError::QuotaExhausted { code: "payment_required".to_owned(), request_id: None };
    }
    let one_model = is_one_of(&MODEL_CODES).is_some();
    let wrong_key = is_one_of(&["invalid_api_key"]).is_some() || status == 400 && lower.contains("api key not valid");
    if status == 401 && !one_model || wrong_key {
        return LlmError::Credentials { request_id: None };
    }
    if is_one_of(&FILTER_CODES).is_some() {
        return LlmError::ContentFiltered { request_id: None };
    }
    if is_one_of(&["context_length_exceeded", "request_too_large"]).is_some() || tells_of_context(status, &message) {
        return LlmError::ContextTooLong { request_id: None };
    }
    if matches!(status, 400 | 404 | 410) && is_one_of(&GONE_CODES).is_some() || tells_of_no_model(status, &message) {
        let message = redacted(&message, LONGEST_REASON);
        return LlmError::ModelGone { status, code, message, request_id: None };
    }
    let busy = status == 429 || is_one_of(&BUSY_CODES).is_some();
    let passing =
        busy || matches!(status, 408 | 409 | 500..) || status == 200 && is_one_of(&["server_error"]).is_some();
    if !failure.should_retry.unwrap_or(passing) {
        return LlmError::Rejected {
            status,
            param: text_of(error.get("param")),
            code,
            message: redacted(&message, LONGEST_REASON),
            request_id: None,
        };
    }
    let retry_after = failure.retry_after.or_else(|| retry_delay(error));
    if busy {
        return LlmError::RateLimited { retry_after, request_id: None };
    }
    LlmError::Unavailable { status, retry_after, request_id: None }
}

/// How long to wait, as Gemini says it: `"retryDelay": "34.5s"` among the details.
fn retry_delay(error: &Value) -> Option<Duration> {
    let delays = error.get("details")?.as_array()?.iter().filter_map(|detail| detail.get("retryDelay")?.as_str());
    let mut seconds = delays.filter_map(|delay| delay.strip_suffix('s')?.parse::<f64>().ok());
    seconds.find_map(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// Compatible servers tell of a full context in words only. A single request above the limit of tokens per minute is a 429
/// like any other but for its words, and no wait helps it.
fn tells_of_context(status: u16, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let words: &[&str] = match status {
        400 | 413 | 422 => &[
            "maximum context length",
            "context window",
            "context length",
            "prompt is too long",
            "exceed context limit",
            "request too large",
        ],
        429 => &["request too large"],
        _ => &[],
    };
    words.iter().any(|words| message.contains(words))
}

/// Compatible servers tell of a model that they do not have in words only, and Anthropic by a code that is one of anything not
/// found. A page that is not there at all has other words.
fn tells_of_no_model(status: u16, message: &str) -> bool {
    const WORDS: [&str; 7] =
        ["not found", "does not exist", "not exist", "no longer", "deprecated", "decommissioned", "retired"];
    let message = message.to_ascii_lowercase();
    let speaks_of_models = message.contains("model") || message.contains("deployment");
    let is_absent = message.starts_with("model:") || WORDS.iter().any(|words| message.contains(words));
    matches!(status, 404 | 410) && speaks_of_models && is_absent
}

fn text_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failed(status: u16, body: &Value) -> LlmError {
        classify(Failure { status, should_retry: None, retry_after: None }, body)
    }

    #[test]
    fn a_key_that_may_not_use_one_model_is_not_refused_as_such() {
        let of = |status, code: &str| failed(status, &json!({"error": {"message": "no", "type": code, "code": "401"}}));
        for code in MODEL_CODES {
            assert!(matches!(of(401, code), LlmError::Rejected { status: 401, .. }), "{code}");
        }
        for (status, code) in [(401, "auth_error"), (403, "invalid_api_key"), (401, "")] {
            assert!(matches!(of(status, code), LlmError::Credentials { .. }), "{status} {code}");
        }
    }

    #[test]
    fn the_quota_family_is_never_retried() {
        for code in QUOTA_CODES {
            let error =
                failed(429, &json!({"error": {"message": "no money", "type": "insufficient_quota", "code": code}}));
            assert!(matches!(&error, LlmError::QuotaExhausted { code: found, .. } if found == code), "{error:?}");
            assert_eq!(error.retry(), RetryDecision::Stop);
        }
        let eager = Failure { status: 429, should_retry: Some(true), retry_after: Some(Duration::from_secs(1)) };
        let error = classify(eager, &json!({"error": {"type": "insufficient_quota"}}));
        assert_eq!(error.retry(), RetryDecision::Stop);
        assert!(matches!(failed(402, &json!({})), LlmError::QuotaExhausted { .. }));
    }

    #[test]
    fn a_busy_server_is_told_apart_from_a_broken_one() {
        let slow = json!({"error": {"code": "slow_down"}});
        let overloaded = json!({"error": {"code": "server_is_overloaded"}});
        assert!(matches!(failed(429, &json!("nonsense")), LlmError::RateLimited { .. }));
        assert!(matches!(failed(503, &slow), LlmError::RateLimited { .. }));
        assert!(matches!(failed(503, &overloaded), LlmError::RateLimited { .. }));
        for status in [408, 409, 500, 502, 503, 504, 529, 599] {
            assert!(matches!(failed(status, &json!({})), LlmError::Unavailable { .. }), "{status}");
        }
    }

    #[test]
    fn requests_that_can_never_pass_are_not_retried() {
        for status in [400, 403, 404, 405, 413, 422, 300] {
            let error = failed(status, &json!({"error": {"message": "no", "param": "tools", "code": "x"}}));
            assert!(matches!(&error, LlmError::Rejected { param: Some(param), .. } if param == "tools"), "{error:?}");
            assert_eq!(error.retry(), RetryDecision::Stop, "{status}");
            let words = format!("the model's server rejected the request (status {status}, x, parameter tools): no");
            assert_eq!(error.to_string(), words);
        }
        assert!(matches!(failed(401, &json!({})), LlmError::Credentials { .. }));
    }

    #[test]
    fn a_model_that_is_gone_is_told_from_a_wrong_address_and_from_a_key_that_may_not_use_it() {
        // As OpenAI, Azure, Anthropic, Ollama, vLLM and Groq say it.
        let of_openai = json!({"error": {"message": "The model `gpt-4-0314` has been deprecated, learn more here: \
            https://platform.openai.com/docs/deprecations", "type": "invalid_request_error", "param": null,
            "code": "model_not_found"}});
        let bodies = [
            (404, of_openai.clone()),
            (
                404,
                json!({"error": {"message": "The model `gpt-4o` does not exist or you do not have access to it.",
                "type": "invalid_request_error", "param": null, "code": "model_not_found"}}),
            ),
            (404, json!({"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}})),
            (404, json!({"type": "error", "error": {"type": "not_found_error", "message": "model: claude-2.1"}})),
            (404, json!({"error": "model \"llama3\" not found, try pulling it first"})),
            (
                404,
                json!({"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError",
                "code": 404}),
            ),
            (410, json!({"error": {"message": "This model was retired.", "code": null}})),
            (
                400,
                json!({"error": {"message": "The model `mixtral` has been decommissioned and is no longer supported.",
                "type": "invalid_request_error", "code": "model_decommissioned"}}),
            ),
        ];
        for (status, body) in bodies {
            let error = failed(status, &body);
            assert!(matches!(error, LlmError::ModelGone { .. }), "{body}: {error:?}");
            assert_eq!((error.retry(), error.code()), (RetryDecision::Stop, "model_gone"));
            assert!(!error.outline().contains("gpt"), "{}", error.outline());
        }
        let others = [
            (403, of_openai.clone()),
            (401, of_openai),
            (404, json!("<html><h1>404 Not Found</h1></html>")),
            (
                404,
                json!({"error": {"message": "Unknown request URL: POST /v2/chat/completions.", "code": "unknown_url"}}),
            ),
            (404, json!({})),
            (400, json!({"error": {"message": "The model `x` does not exist", "code": "invalid_value"}})),
        ];
        for (status, body) in others {
            assert!(matches!(failed(status, &body), LlmError::Rejected { .. }), "{status} {body}");
        }
    }

    #[test]
    fn anthropics_errors_are_known_by_their_types() {
        let of = |status, kind: &str, message: &str, code: Option<&str>| {
            let details = code.map(|code| json!({ "error_code": code }));
            failed(
                status,
                &json!({"type": "error", "request_id": "req_1",
                "error": {"type": kind, "message": message, "details": details}}),
            )
        };
        let quota = |error: LlmError| matches!(error, LlmError::QuotaExhausted { .. });
        assert!(quota(of(429, "rate_limit_error", "no", Some("enforced_spend_limit_reached"))));
        assert!(quota(of(402, "billing_error", "no", None)) && quota(of(403, "billing_error", "no", None)));
        let low = "Your credit balance is too low to access the Anthropic API.";
        assert!(quota(of(400, "invalid_request_error", low, None)));
        let spent = "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01";
        assert!(quota(of(400, "invalid_request_error", spent, None)));
        assert!(!quota(of(500, "api_error", low, None)), "a passing fault");
        assert!(matches!(of(429, "rate_limit_error", "no", None), LlmError::RateLimited { .. }));
        assert!(matches!(of(529, "overloaded_error", "no", None), LlmError::RateLimited { .. }));
        assert!(matches!(of(401, "authentication_error", "no", None), LlmError::Credentials { .. }));
        assert!(matches!(of(500, "api_error", "no", None), LlmError::Unavailable { .. }));
        assert!(matches!(of(409, "conflict_error", "no", None), LlmError::Unavailable { .. }));
        assert!(matches!(of(413, "request_too_large", "no", None), LlmError::ContextTooLong { .. }));
        for words in [
            "prompt is too long: 1000001 tokens > 1000000 maximum",
            "input length and `max_tokens` exceed context limit: 190000 + 21333 > 200000",
        ] {
            assert!(matches!(of(400, "invalid_request_error", words, None), LlmError::ContextTooLong { .. }));
        }
        for (status, kind) in [(400, "invalid_request_error"), (403, "permission_error"), (404, "not_found_error")] {
            assert!(matches!(of(status, kind, "no", None), LlmError::Rejected { .. }), "{kind}");
        }
        let within =
            classify(Failure::WITHIN_SUCCESS, &json!({"type": "error", "error": {"type": "overloaded_error"}}));
        assert!(matches!(within, LlmError::RateLimited { .. }));
    }

    #[test]
    fn geminis_errors_are_found_in_their_list() {
        let of = |status: u16, message: &str, details: Value| {
            failed(status, &json!([{"error": {"code": status, "message": message, "status": "X", "details": details}}]))
        };
        let key = of(400, "API key not valid. Please pass a valid API key.", json!([{"reason": "API_KEY_INVALID"}]));
        assert!(matches!(key, LlmError::Credentials { .. }));
        let busy = of(429, "You exceeded your current quota", json!([{"retryDelay": 7}, {"retryDelay": "34.5s"}]));
        assert_eq!(busy.retry(), RetryDecision::AgainAfter(Duration::from_millis(34_500)));
        for delay in ["34", "-1s", "NaNs", "1e400s", "s"] {
            assert_eq!(of(429, "no", json!([{ "retryDelay": delay }])).retry(), RetryDecision::Again, "{delay}");
        }
        let LlmError::Rejected { message, .. } = of(400, "bad tools", json!([])) else { panic!() };
        assert_eq!(message, "bad tools");
    }

    #[test]
    fn the_servers_own_word_on_a_retry_wins() {
        let no = Failure { status: 500, should_retry: Some(false), retry_after: None };
        assert_eq!(classify(no, &json!({})).retry(), RetryDecision::Stop);
        let yes = Failure { status: 400, should_retry: Some(true), retry_after: Some(Duration::from_secs(3)) };
        assert_eq!(classify(yes, &json!({})).retry(), RetryDecision::AgainAfter(Duration::from_secs(3)));
    }

    #[test]
    fn a_full_context_and_a_filter_are_known_by_code_or_words() {
        let code = json!({"error": {"code": "context_length_exceeded"}});
        let words =
            json!({"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400});
        let minute = json!({"error": {"code": "rate_limit_exceeded", "message":
            "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 54321."}});
        assert!(matches!(failed(429, &minute), LlmError::ContextTooLong { .. }));
        assert!(matches!(failed(400, &code), LlmError::ContextTooLong { .. }));
        assert!(matches!(failed(400, &words), LlmError::ContextTooLong { .. }));
        let azure =
            json!({"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}});
        let inner = json!({"error": {"code": null, "innererror": {"code": "ResponsibleAIPolicyViolation"}}});
        assert!(matches!(failed(400, &azure), LlmError::ContentFiltered { .. }));
        assert!(matches!(failed(400, &inner), LlmError::ContentFiltered { .. }));
    }

    #[test]
    fn a_reason_is_found_in_every_form_that_servers_give_and_cut_short() {
        let long = "x\n".repeat(5000);
        for body in [json!({"error": long}), json!({"detail": long}), json!({"message": long}), json!(long)] {
            let LlmError::Rejected { message, .. } = failed(400, &body) else { panic!("{body}") };
            assert!(message.starts_with("x x x") && message.chars().count() <= LONGEST_REASON, "{message}");
        }
        for body in [json!(null), json!([]), json!({"error": {"message": {"a": 1}}}), json!({"error": null})] {
            let LlmError::Rejected { message, .. } = failed(400, &body) else { panic!() };
            assert_eq!(message, "no reason given");
        }
    }

    #[test]
    fn a_malformed_answer_does_not_repeat_what_the_model_said() {
        let cut = LlmError::bad_answer("cut off", br#" {"choices":[{"message":{"content":"the secret"#);
        assert!(!cut.to_string().contains("secret"), "{cut}");
        let page = LlmError::bad_answer("not JSON", b"<html>\n<h1>Bad gateway</h1>");
        assert!(page.to_string().contains("<h1>Bad gateway</h1>"), "{page}");
    }
}
