//! One provider's server: its address and key, and the requests that it gets.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::error::{Failure, LlmError, classify};
use super::messages;
use super::profile::Api;
use crate::http::{self, HttpError, Method, Request, Response};
use crate::transport::Peer;

/// Providers by the domains of their servers (OpenTelemetry's GenAI conventions, `gen_ai.provider.name`).
const PROVIDERS: [(&str, &str); 9] = [
    ("anthropic.com", "anthropic"),
    ("openai.azure.com", "azure.ai.openai"),
    ("amazonaws.com", "aws.bedrock"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("deepseek.com", "deepseek"),
    ("groq.com", "groq"),
    ("mistral.ai", "mistral_ai"),
    ("x.ai", "x_ai"),
    ("moonshot.ai", "moonshot_ai"),
];

/// A server of models.
#[derive(Debug, Clone)]
pub(super) struct ModelServer {
    base: Url,
    key: SecretString,
    /// The form of the wire whatever the model; `None` leaves it to the model's profile.
    pub(super) api: Option<Api>,
    http: http::Client,
}

impl ModelServer {
    /// The server at `base`, an address that [`address`] took.
    pub(super) fn new(base: Url, key: SecretString, api: Option<Api>, http: http::Client) -> Self {
        Self { base, key, api, http }
    }

    /// Whether it is shown a key.
    pub(super) fn has_key(&self) -> bool {
        !self.key.expose_secret().is_empty()
    }

    /// Who runs it, in the words of OpenTelemetry's conventions. A server that is none of the known ones counts as one of the
    /// API that it speaks.
    pub(super) fn operator(&self) -> &'static str {
        let host = self.base.host_str().unwrap_or_default();
        let known = PROVIDERS
            .iter()
            .find(|(domain, _)| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        let spoken = if self.api == Some(Api::Messages) { "anthropic" } else { "openai" };
        known.map_or(spoken, |(_, name)| name)
    }

    /// Where its models are listed.
    pub(super) fn models(&self) -> &'static [&'static str] {
        if self.api == Some(Api::Messages) { &["v1", "models"] } else { &["models"] }
    }

    /// Its name and port.
    pub(super) fn host(&self) -> (Option<String>, Option<u16>) {
        (self.base.host_str().map(str::to_owned), self.base.port_or_known_default())
    }

    /// Sends one request, for `path` under the base address.
    pub(super) async fn send(
        &self,
        method: Method,
        path: impl Iterator<Item = &str>,
        body: Option<http::Body>,
        timeout: Duration,
    ) -> Result<Response, LlmError> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("`address` took http addresses only").pop_if_empty().extend(path);
        let mut request = Request::new(method, url, timeout);
        if self.has_key() {
            request = request.bearer(&self.key);
        }
        if self.api == Some(Api::Messages) {
            let (name, version) = messages::VERSION;
            request = request.header(name, version);
            if self.has_key() {
                // Some compatible servers look at the one, some at the other.
                request = request.secret_header("x-api-key", &self.key);
            }
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.http.send(request).await.map_err(transport)
    }
}

/// Reads the address of a server that is shown `key`. The error says what is wrong with it.
pub(super) fn address(text: &str, key: &SecretString, allow_plaintext_keys: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user and password; the key has a place of its own".to_owned());
    }
    let keyless = key.expose_secret().is_empty();
    match Peer::of_url(&url).key_problem(keyless || allow_plaintext_keys) {
        Some(problem) => Err(problem),
        None => Ok(url),
    }
}

/// What an answer of another status than 200 means.
pub(super) fn failure(response: &Response) -> LlmError {
    let Response { status, should_retry, retry_after, .. } = *response;
    // Bodies that are no JSON (a proxy's page) are taken for the reason in words.
    let body = serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&response.body).into_owned()));
    classify(Failure { status, should_retry, retry_after }, &body).with_request_id(response.request_id.clone())
}

fn transport(error: HttpError) -> LlmError {
    match error {
        HttpError::NotSent { .. } => LlmError::NotSent(error.to_string()),
        HttpError::TimedOut { .. } => LlmError::TimedOut,
        HttpError::Broken { .. } => LlmError::Interrupted(error.to_string()),
        HttpError::BodyTooLarge { .. } => LlmError::BadAnswer { excerpt: error.to_string(), request_id: None },
        HttpError::Invalid(problem) => LlmError::Invalid(problem),
    }
}
