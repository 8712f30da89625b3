//! The model edge: one client, two forms of the wire, and a table of what each model wants.
//!
//! A call is one attempt. Repeating, waiting and writing down are the caller's; [`LlmError::retry`] says what is worth it.

mod chat_completions;
mod error;
mod profile;
mod request;
mod responses;
mod strict;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::Date;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

pub use self::error::LlmError;
use self::error::{Failure, classify};
pub use self::profile::{Api, Profile, Profiles, SystemRole, TokenField};
pub use self::request::{ModelRequest, RenderedTools};
use crate::agent::message::ModelReply;
use crate::http::{self, HttpError, Method, Request, Response};
use crate::key::digest;
use crate::pattern::fits;
use crate::retry::Policy;
use crate::transport::{Peer, TlsConfig};

/// `prompt_cache_key` and `safety_identifier` are at most so long (OpenAPI document, 2026-08-21).
const LONGEST_IDENTIFIER: usize = 64;

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

/// Which model, where, and how it is asked.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address under which `/chat/completions` or `/responses` is found.
    pub base_url: String,
    /// The key, sent as a bearer token; empty for servers that want none.
    #[schemars(with = "String")]
    pub api_key: SecretString,
    /// Whether the key may go to another machine over `http`.
    pub allow_plaintext_keys: bool,
    /// Whom the server is trusted by, and who we are to it.
    pub tls: TlsConfig,
    /// The model of jobs that name none.
    pub model: String,
    /// Models that jobs may name, as patterns in which `*` stands for anything; any where there is none.
    pub allow: BTreeSet<String>,
    /// The form of the wire.
    pub api: ApiChoice,
    /// Longest time for one attempt, in seconds. Reasoning models think for minutes.
    pub timeout_seconds: u64,
    /// How failed attempts are repeated, by the caller.
    pub retry: Policy,
    /// Most output tokens of one answer; left out, the model's own limit.
    pub max_output_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2, sent to models that take one.
    pub temperature: Option<f64>,
    /// Whether a model may want several calls at once, sent to models that take the parameter; left out, it may.
    pub parallel_tool_calls: Option<bool>,
}

/// The form of the wire, as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiChoice {
    /// As the model's profile says.
    #[default]
    Auto,
    /// Chat completions whatever the model, for servers that know nothing else.
    ChatCompletions,
    /// The Responses API whatever the model.
    Responses,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key: SecretString::default(),
            allow_plaintext_keys: false,
            tls: TlsConfig::default(),
            model: "gpt-4o".to_owned(),
            allow: BTreeSet::new(),
            api: ApiChoice::Auto,
            timeout_seconds: 300,
            retry: Policy {
                attempts: 4,
                initial_milliseconds: 1_000,
                // Longer waits than a moment give the place to another run.
                max_milliseconds: 2_000,
                max_retry_after_milliseconds: 2_000,
            },
            max_output_tokens: None,
            temperature: None,
            parallel_tool_calls: None,
        }
    }
}

impl Config {
    /// Everything that is wrong with it, each as `key: problem`.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match base(self) {
            Ok(base) => problems.extend(self.tls.problems(base.scheme() == "https")),
            Err(problem) => problems.push(format!("base_url: {problem}")),
        }
        if self.model.trim().is_empty() {
            problems.push("model: must not be empty".to_owned());
        }
        if self.timeout_seconds == 0 {
            problems.push("timeout_seconds: must be at least 1".to_owned());
        }
        if self.max_output_tokens == Some(0) {
            problems.push("max_output_tokens: must be at least 1".to_owned());
        }
        if self.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
            problems.push("temperature: must be between 0 and 2".to_owned());
        }
        problems
    }

    /// The server; `None` where its address cannot be read.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer::of_url(&Url::parse(&self.base_url).ok()?))
    }
}

/// A model that the server knows, as it tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// The day on which the provider takes it away, where the server says so.
    pub shutdown: Option<Date>,
}

/// Asks models.
#[derive(Debug, Clone)]
pub struct Llm {
    config: Config,
    base: Url,
    profiles: Profiles,
    http: http::Client,
}

impl Llm {
    /// A client of the server that `config` names. The error says what is wrong with its address.
    pub fn new(config: Config, profiles: Profiles, http: http::Client) -> Result<Self, String> {
        let base = base(&config)?;
        Ok(Self { config, base, profiles, http })
    }

    /// The configuration: the default model, and how the caller shall repeat.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The profile that `model` is spoken to with: the table's, over the API that is configured.
    pub fn profile(&self, model: &str) -> Profile {
        let profile = self.profiles.lookup(model);
        match self.config.api {
            ApiChoice::Auto => profile,
            ApiChoice::ChatCompletions => profile.over(Api::ChatCompletions),
            ApiChoice::Responses => profile.over(Api::Responses),
        }
    }

    /// Who the provider is, in the words of OpenTelemetry's conventions. A server that is none of the known ones counts as one of
    /// the API that it speaks.
    pub fn provider(&self) -> &'static str {
        let host = self.base.host_str().unwrap_or_default();
        let known = PROVIDERS
            .iter()
            .find(|(domain, _)| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        known.map_or("openai", |(_, name)| name)
    }

    /// Name and port of the server.
    pub fn server(&self) -> (Option<String>, Option<u16>) {
        (self.base.host_str().map(str::to_owned), self.base.port_or_known_default())
    }

    /// Whether a job may name the model: one that the operator allows, or the one of jobs that name none.
    pub fn allows(&self, model: &str) -> bool {
        let Config { model: own, allow, .. } = &self.config;
        model == own || allow.is_empty() || allow.iter().any(|pattern| fits(pattern, model))
    }

    /// What the model is called in metrics. Jobs may name any, so there are few names: the configured ones, those of the
    /// table of models, and `other`.
    pub fn metric_name<'m>(&'m self, model: &'m str) -> &'m str {
        let Config { model: own, allow, .. } = &self.config;
        if model == own || allow.contains(model) {
            return model;
        }
        self.profiles.known_as(model).map_or("other", |name| name.trim_end_matches(['*', '-', '.']))
    }

    /// What to tell the operator of a model that leaves its provider within 90 days or has left; names the successor.
    pub fn shutdown_warning(&self, model: &str, today: Date) -> Option<String> {
        self.profiles.shutdown_warning(model, today)
    }

    /// Asks once.
    pub async fn complete(&self, request: &ModelRequest<'_>) -> Result<ModelReply, LlmError> {
        let profile = self.profile(request.model);
        let (path, body) = match profile.api {
            Api::ChatCompletions => {
                (chat_completions::PATH, chat_completions::render(request, &profile, &self.config)?)
            }
            Api::Responses => (responses::PATH, responses::render(request, &profile, &self.config)?),
        };
        let response = self.send(Method::Post, path.split('/'), Some(body)).await?;
        let reply = match profile.api {
            _ if response.status != 200 => Err(failure(&response)),
            Api::ChatCompletions => chat_completions::parse(&response.body, request.messages),
            Api::Responses => responses::parse(&response.body, request.messages),
        };
        match reply {
            Ok(reply) => Ok(ModelReply { request_id: response.request_id, ..reply }),
            Err(error) => Err(error.with_request_id(response.request_id)),
        }
    }

    /// Asks the server for `model` (`GET /models/{name}`); `None` where it does not know it. Compatible servers do not
    /// all have this address: for them `None` proves nothing.
    pub async fn find_model(&self, model: &str) -> Result<Option<KnownModel>, LlmError> {
        let response = self.send(Method::Get, ["models", model].into_iter(), None).await?;
        if response.status == 404 {
            return Ok(None);
        }
        if response.status != 200 {
            return Err(failure(&response).with_request_id(response.request_id));
        }
        let Ok(answer @ Value::Object(_)) = serde_json::from_slice(&response.body) else {
            let error = LlmError::bad_answer("not a model", &response.body);
            return Err(error.with_request_id(response.request_id));
        };
        let shutdown = answer.get("shutdown_date").and_then(Value::as_str).and_then(|date| date.parse().ok());
        Ok(Some(KnownModel { shutdown }))
    }

    async fn send(
        &self,
        method: Method,
        path: impl Iterator<Item = &str>,
        body: Option<http::Body>,
    ) -> Result<Response, LlmError> {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("`base` took http addresses only").pop_if_empty().extend(path);
        let mut request = Request::new(method, url, Duration::from_secs(self.config.timeout_seconds));
        if !self.config.api_key.expose_secret().is_empty() {
            request = request.bearer(self.config.api_key.clone());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.http.send(request).await.map_err(transport)
    }
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

fn failure(response: &Response) -> LlmError {
    let Response { status, should_retry, retry_after, .. } = *response;
    // Bodies that are no JSON (a proxy's page) are taken for the reason in words.
    let body = serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&response.body).into_owned()));
    classify(Failure { status, should_retry, retry_after }, &body)
}

fn base(config: &Config) -> Result<Url, String> {
    let url = Url::parse(&config.base_url).map_err(|error| format!("not an address: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user and password; the key has a place of its own".to_owned());
    }
    let keyless = config.api_key.expose_secret().is_empty();
    if let Some(problem) = Peer::of_url(&url).key_problem(keyless || config.allow_plaintext_keys) {
        return Err(problem);
    }
    Ok(url)
}

/// The key that keeps the requests of a run on the server that has its beginning cached.
fn cache_key(run_id: &str) -> Cow<'_, str> {
    if run_id.len() <= LONGEST_IDENTIFIER { run_id.into() } else { digest(run_id, LONGEST_IDENTIFIER / 2).into() }
}

/// A stable name of a user that does not name them: 64 hexadecimal digits.
fn safety_identifier(user: &str) -> String {
    digest(user, LONGEST_IDENTIFIER / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_is_sound_and_every_problem_of_another_is_named() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let config: Config = serde_json::from_str(
            r#"{"base_url": "ftp://x", "model": " ", "timeout_seconds": 0, "max_output_tokens": 0, "temperature": 3.0,
                "retry": {"attempts": 1, "initial_milliseconds": 0, "max_milliseconds": 0,
                          "max_retry_after_milliseconds": 0}}"#,
        )
        .unwrap();
        let problems = config.problems();
        for key in ["base_url", "model", "timeout_seconds", "max_output_tokens", "temperature"] {
            assert!(problems.iter().any(|problem| problem.starts_with(&format!("{key}: "))), "{key}: {problems:?}");
        }
        for address in ["", "api.openai.com/v1", "https://", "http://user:pass@localhost/v1", "mailto:x@example.com"] {
            let config = Config { base_url: address.to_owned(), ..Config::default() };
            assert_eq!(config.problems().len(), 1, "{address}");
        }
        assert!(serde_json::from_str::<Config>(r#"{"modle": "gpt-4o"}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"api": "telepathy"}"#).is_err());
    }

    #[test]
    fn the_key_is_never_shown() {
        let config: Config = serde_json::from_str(r#"{"api_key": "sk-hidden"}"#).unwrap();
        assert!(!format!("{config:?}").contains("sk-hidden"));
    }

    #[test]
    fn identifiers_fit_and_users_are_not_named() {
        assert_eq!(cache_key("order-4711"), "order-4711");
        assert_eq!(cache_key(&"x".repeat(65)).len(), LONGEST_IDENTIFIER);
        let hashed = safety_identifier("alice@example.com");
        assert_eq!(hashed.len(), LONGEST_IDENTIFIER);
        assert!(!hashed.contains("alice"));
    }
}
