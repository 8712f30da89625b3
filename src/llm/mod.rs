//! The model edge: providers, the forms of the wire that they speak, and a table of what each model wants.
//!
//! A model's name says who provides it: `PROVIDER/NAME` is a model of `[providers.PROVIDER]`, any other name one of `[model]`,
//! slashes and all. A call is one attempt. Repeating, waiting and writing down are the caller's; [`LlmError::retry`] says what
//! is worth it.

mod cache_control;
mod chat_completions;
mod config;
mod error;
mod messages;
mod price;
mod profile;
mod provider;
mod request;
mod responses;
mod server;
mod strict;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::Date;
use serde_json::Value;

pub use self::config::{ApiChoice, Config};
pub use self::error::LlmError;
pub use self::price::{Price, TokenPrice};
pub use self::profile::{Api, OutputSchema, Profile, Profiles, SystemRole, TokenField};
pub use self::provider::{DEFAULT_PROVIDER, ProviderApi, ProviderConfig, Providers};
pub use self::request::{ModelRequest, RenderedTools};
use self::server::{ModelServer, address, failure};
use crate::agent::message::ModelReply;
use crate::http::{self, Method};
use crate::key::digest;
use crate::money::Amount;
use crate::pattern::fits;

/// `prompt_cache_key` and `safety_identifier` are at most so long (OpenAPI document, 2026-08-21).
const LONGEST_IDENTIFIER: usize = 64;

/// Room for an answer where nobody says how long it may be: the most that the gpt-4o generation gives.
const USUAL_OUTPUT_TOKENS: u64 = 16_384;

/// A model that the server knows, as it tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    /// The day on which the provider takes it away, where the server says so.
    pub shutdown: Option<Date>,
}

/// Asks models, each at its provider.
#[derive(Debug, Clone)]
pub struct Llm {
    config: Config,
    profiles: Profiles,
    default: ModelServer,
    named: BTreeMap<String, ModelServer>,
}

/// Who provides a model, and what it is called there.
struct Route<'m> {
    provider: &'m str,
    server: &'m ModelServer,
    model: &'m str,
}

impl Llm {
    /// Asks the server that `config` names. The error says what is wrong with its address.
    pub fn new(config: Config, profiles: Profiles, http: http::Client) -> Result<Self, String> {
        let base = address(&config.base_url, &config.api_key, config.allow_plaintext_keys)?;
        let api = match config.api {
            ApiChoice::Auto => None,
            ApiChoice::ChatCompletions => Some(Api::ChatCompletions),
            ApiChoice::Responses => Some(Api::Responses),
        };
        let default = ModelServer::new(base, config.api_key.clone(), api, http);
        Ok(Self { config, profiles, default, named: BTreeMap::new() })
    }

    /// Asks the provider `name` for its models too. The error says what is wrong with it, as `key: problem`.
    pub fn with_provider(mut self, name: &str, config: &ProviderConfig, http: http::Client) -> Result<Self, String> {
        self.named.insert(name.to_owned(), config.server(http)?);
        Ok(self)
    }

    /// The configuration: the default model, and how the caller shall repeat.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Who provides `model`: a name of `[providers]`, or [`DEFAULT_PROVIDER`].
    pub fn provider<'m>(&'m self, model: &'m str) -> &'m str {
        self.route(model).provider
    }

    /// The providers that are asked for anything: those with a key of ours, and whoever serves jobs that name no model.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        let all = [(DEFAULT_PROVIDER, &self.default)].into_iter();
        let all = all.chain(self.named.iter().map(|(name, server)| (name.as_str(), server)));
        let own = self.provider(&self.config.model);
        all.filter(move |(name, server)| server.has_key() || *name == own).map(|(name, _)| name)
    }

    /// Whether `provider` is shown a key.
    pub fn has_key(&self, provider: &str) -> bool {
        self.named.get(provider).unwrap_or(&self.default).has_key()
    }

    /// The profile that `model` is spoken to with: the table's, over the API that its provider serves.
    pub fn profile(&self, model: &str) -> Profile {
        let Route { server, model, .. } = self.route(model);
        let profile = self.profiles.lookup(model);
        match server.api {
            Some(api) => profile.over(api),
            None => profile,
        }
    }

    /// Who runs the server of `model`, in the words of OpenTelemetry's conventions (`gen_ai.provider.name`).
    pub fn operator(&self, model: &str) -> &'static str {
        self.route(model).server.operator()
    }

    /// Name and port of the server of `model`.
    pub fn server(&self, model: &str) -> (Option<String>, Option<u16>) {
        self.route(model).server.host()
    }

    /// Whether a job may name the model: one that the operator allows, or the one of jobs that name none.
    pub fn allows(&self, model: &str) -> bool {
        let Config { model: own, allow, .. } = &self.config;
        model == own || allow.is_empty() || allow.iter().any(|pattern| fits(pattern, model))
    }

    /// What the model is called in metrics. Jobs may name any, so there are few names: the configured ones, those of the
    /// table of models, and `other`; behind the name of a provider that is not the default one.
    pub fn metric_name<'m>(&'m self, model: &'m str) -> Cow<'m, str> {
        let Config { model: own, allow, fallback, .. } = &self.config;
        let takes_over = || self.successor(own).is_some_and(|successor| successor == model);
        let is_configured =
            model == own || allow.contains(model) || fallback.iter().flatten().any(|name| name == model);
        if is_configured || fallback.is_none() && takes_over() {
            return model.into();
        }
        let Route { provider, model, .. } = self.route(model);
        let known = self.profiles.known_as(model).map_or("other", |name| name.trim_end_matches(['*', '-', '.']));
        if provider == DEFAULT_PROVIDER { known.into() } else { format!("{provider}/{known}").into() }
    }

    /// What a request to `model` costs on `day` whose input has so many tokens, where that is known. What the operator says
    /// counts more than the table.
    pub fn price(&self, model: &str, day: Date, input_tokens: u64) -> Option<&Price> {
        match self.config.prices.get(model) {
            Some(own) => price::price_on(own, day, input_tokens),
            None => self.profiles.price(self.route(model).model, day, input_tokens),
        }
    }

    /// The most that `request` may cost on `day`, where a price is known: its input as it is estimated, and the longest answer.
    pub fn most(&self, request: &ModelRequest<'_>, day: Date) -> Option<Amount> {
        let profile = self.profile(request.model);
        let input = request.estimated_tokens().min(profile.context_window);
        let output = request.max_output_tokens.or(self.config.max_output_tokens).map_or(profile.max_output, u64::from);
        Some(self.price(request.model, day, input)?.at_most(input, output))
    }

    /// How many tokens a request to `model` may have, so that there is room for its answer.
    pub fn input_room(&self, model: &str) -> u64 {
        let window = self.profile(model).context_window;
        let answer = match self.config.max_output_tokens {
            Some(most) => u64::from(most).min(window / 2),
            None => USUAL_OUTPUT_TOKENS.min(window / 4),
        };
        window - answer
    }

    /// What to tell the operator of a model that leaves its provider within 90 days or has left: names the successor, and says
    /// what becomes of jobs.
    pub fn shutdown_warning(&self, model: &str, today: Date) -> Option<String> {
        let warning = self.profiles.shutdown_warning(model, today)?;
        Some(format!("{warning}; {}", self.without(model)))
    }

    /// What becomes of jobs once their model is gone, in words for the operator.
    pub fn without(&self, model: &str) -> String {
        match (&self.config.fallback, self.successor(model)) {
            (Some(fallback), _) => {
                let others: Vec<&str> = fallback.iter().map(String::as_str).filter(|other| *other != model).collect();
                match others.as_slice() {
                    [] => "once it is gone its jobs fail, as `model.fallback` names no other".to_owned(),
                    others => format!("once it is gone jobs that name no model go on with {}", others.join(", then ")),
                }
            }
            (None, Some(successor)) => format!("once it is gone its jobs go on with {successor}, and say so"),
            (None, None) => "once it is gone its jobs fail, unless `model.fallback` names another".to_owned(),
        }
    }

    /// The models that take over from the configured one: those of `fallback`, or its successor.
    pub fn substitutes(&self) -> Vec<String> {
        let Config { model, fallback, .. } = &self.config;
        fallback.clone().unwrap_or_else(|| self.successor(model).into_iter().collect())
    }

    /// The model that the provider of `model` names instead, under the same provider's name where it has one.
    pub fn successor(&self, model: &str) -> Option<String> {
        self.profiles.successor(model)
    }

    /// Asks once.
    pub async fn complete(&self, request: &ModelRequest<'_>) -> Result<ModelReply, LlmError> {
        let profile = self.profile(request.model);
        let asked = request.model;
        let Route { server, model, .. } = self.route(asked);
        let request = &ModelRequest { model, ..*request };
        let (path, body) = match profile.api {
            Api::ChatCompletions => {
                (chat_completions::PATH, chat_completions::render(request, &profile, &self.config)?)
            }
            Api::Responses => (responses::PATH, responses::render(request, &profile, &self.config)?),
            Api::Messages => (messages::PATH, messages::render(request, asked, &profile, &self.config)?),
        };
        let response = server.send(Method::Post, path.split('/'), Some(body), self.timeout()).await?;
        let reply = match profile.api {
            _ if response.status != 200 => Err(failure(&response)),
            Api::ChatCompletions => chat_completions::parse(&response.body, request.messages, model),
            Api::Responses => responses::parse(&response.body, request.messages),
            Api::Messages => messages::parse(&response.body, request.messages, asked),
        };
        match reply {
            Ok(reply) => Ok(ModelReply { request_id: response.request_id, ..reply }),
            Err(error) => Err(error.with_request_id(response.request_id)),
        }
    }

    /// Asks the provider for `model` (`GET /models/{name}`); `None` where it does not know it. Compatible servers do not
    /// all have this address: for them `None` proves nothing.
    pub async fn find_model(&self, model: &str) -> Result<Option<KnownModel>, LlmError> {
        let Route { server, model, .. } = self.route(model);
        let path = server.models().iter().copied().chain([model]);
        let response = server.send(Method::Get, path, None, self.timeout()).await?;
        if response.status == 404 {
            return Ok(None);
        }
        if response.status != 200 {
            return Err(failure(&response));
        }
        let Ok(answer @ Value::Object(_)) = serde_json::from_slice(&response.body) else {
            let error = LlmError::bad_answer("not a model", &response.body);
            return Err(error.with_request_id(response.request_id));
        };
        let shutdown = answer.get("shutdown_date").and_then(Value::as_str).and_then(|date| date.parse().ok());
        Ok(Some(KnownModel { shutdown }))
    }

    /// Shows `provider` its key by the one request that costs nothing: for the model of jobs that name none, or for the list of
    /// its models. A model that it does not know is no error.
    pub async fn show_key(&self, provider: &str) -> Result<(), LlmError> {
        if self.provider(&self.config.model) == provider {
            return self.find_model(&self.config.model).await.map(drop);
        }
        let server = self.named.get(provider).unwrap_or(&self.default);
        let response = server.send(Method::Get, server.models().iter().copied(), None, self.timeout()).await?;
        if matches!(response.status, 200 | 404) { Ok(()) } else { Err(failure(&response)) }
    }

    /// A name whose beginning is no provider is one of the default provider's, which may be a router whose names have slashes.
    fn route<'m>(&'m self, model: &'m str) -> Route<'m> {
        let named = model.split_once('/').and_then(|(provider, model)| {
            let server = self.named.get(provider).filter(|_| !model.is_empty())?;
            Some(Route { provider, server, model })
        });
        named.unwrap_or(Route { provider: DEFAULT_PROVIDER, server: &self.default, model })
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeout_seconds)
    }
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
            r#"{"base_url": "ftp://x", "model": " ", "fallback": ["a", ""], "timeout_seconds": 0, "max_output_tokens": 0, "temperature": 3.0,
                "retry": {"attempts": 1, "initial_milliseconds": 0, "max_milliseconds": 0,
                          "max_retry_after_milliseconds": 0}}"#,
        )
        .unwrap();
        let problems = config.problems();
        for key in ["base_url", "model", "fallback[1]", "timeout_seconds", "max_output_tokens", "temperature"] {
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
    fn the_operator_is_told_what_becomes_of_jobs_once_their_model_is_gone() {
        let told = |config: &str| {
            let http = http::Client::new(&http::Config::default(), std::sync::Arc::new(crate::clock::SystemClock));
            let config = serde_json::from_str(config).unwrap();
            let llm = Llm::new(config, Profiles::built_in(), http.unwrap()).unwrap();
            (llm.without(&llm.config().model), llm.substitutes())
        };
        let (words, substitutes) = told("{}");
        assert!(words.contains("go on with gpt-6-luna") && substitutes == ["gpt-6-luna"], "{words}");
        let (words, substitutes) = told(r#"{"fallback": ["a", "gpt-4o", "b"]}"#);
        assert!(words.contains("go on with a, then b") && substitutes.len() == 3, "{words}");
        let (words, substitutes) = told(r#"{"fallback": []}"#);
        assert!(words.contains("its jobs fail") && substitutes.is_empty(), "{words}");
        let (words, substitutes) = told(r#"{"model": "llama3"}"#);
        assert!(words.contains("unless `model.fallback`") && substitutes.is_empty(), "{words}");
    }

    #[test]
    fn a_request_leaves_room_for_its_answer() {
        let room = |config: &str, model: &str| {
            let http = http::Client::new(&http::Config::default(), std::sync::Arc::new(crate::clock::SystemClock));
            let config = serde_json::from_str(config).unwrap();
            Llm::new(config, Profiles::built_in(), http.unwrap()).unwrap().input_room(model)
        };
        assert_eq!(room("{}", "gpt-4o"), 128_000 - 16_384);
        assert_eq!(room("{}", "unknown"), 32_768 * 3 / 4);
        assert_eq!(room(r#"{"max_output_tokens": 1000}"#, "unknown"), 31_768);
        assert_eq!(room(r#"{"max_output_tokens": 4000000}"#, "unknown"), 16_384);
    }

    #[test]
    fn the_operators_prices_count_more_than_the_table_and_are_checked() {
        let config: Config = serde_json::from_str(
            r#"{"prices": {"gpt-4o": [{"input": 1, "output": 2}], "house": [{"from": "2026-12-01", "input": 3, "output": 4}],
                "none": [], "twice": [{"input": 1, "output": 2}, {"input": 1, "output": 2}]}}"#,
        )
        .unwrap();
        let problems = config.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("prices: none: ") && problems[1].starts_with("prices: twice: "),
            "{problems:?}"
        );
        let http = http::Client::new(&http::Config::default(), std::sync::Arc::new(crate::clock::SystemClock)).unwrap();
        let llm = Llm::new(config, Profiles::built_in(), http).unwrap();
        let day = jiff::civil::date(2026, 11, 30);
        let cost = |model| Some(llm.price(model, day, 10)?.at_most(1000, 0).to_string());
        assert_eq!(cost("gpt-4o").as_deref(), Some("0.001 USD"));
        assert_eq!(cost("gpt-4o-2024-08-06").as_deref(), Some("0.0025 USD"));
        assert_eq!((cost("house"), cost("else")), (None, None));
    }

    #[test]
    fn the_key_is_never_shown() {
        let config: Config = serde_json::from_str(r#"{"api_key": "sk-hidden"}"#).unwrap();
        assert!(!format!("{config:?}").contains("sk-hidden"));
    }

    #[test]
    fn a_name_reaches_its_provider_and_any_other_the_default_one() {
        let clock = std::sync::Arc::new(crate::clock::ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let http = http::Client::new(&http::Config::default(), clock).unwrap();
        let router = ProviderConfig {
            api: Some(ProviderApi::ChatCompletions),
            base_url: "https://generativelanguage.googleapis.com/v1beta/openai/".to_owned(),
            ..ProviderConfig::default()
        };
        let config = Config { api_key: "k".to_owned().into(), ..Config::default() };
        let llm = Llm::new(config, Profiles::built_in(), http.clone()).unwrap();
        let llm = llm.with_provider("gemini", &router, http.clone()).unwrap();
        for (name, provider, at_provider) in [
            ("gpt-4o", "default", "gpt-4o"),
            ("meta-llama/llama-3", "default", "meta-llama/llama-3"),
            ("gemini/gemini-3-pro", "gemini", "gemini-3-pro"),
            ("gemini/openai/gpt-6-luna", "gemini", "openai/gpt-6-luna"),
            ("gemini/", "default", "gemini/"),
            ("gemini", "default", "gemini"),
            ("", "default", ""),
        ] {
            let route = llm.route(name);
            assert_eq!((route.provider, route.model), (provider, at_provider), "{name}");
        }
        assert_eq!(llm.profile("gemini/gpt-6-luna").api, Api::ChatCompletions, "the provider's API");
        assert_eq!(llm.profile("openai/gpt-6-luna").api, Api::Responses, "the model's");
        assert_eq!((llm.operator("gpt-4o"), llm.operator("gemini/x")), ("openai", "gcp.gemini"));
        let named = |name| llm.metric_name(name).into_owned();
        assert_eq!(named("gemini/gpt-6-luna"), "gemini/gpt-6-luna");
        assert_eq!(
            (named("gemini/house-model"), named("house-model")),
            ("gemini/other".to_owned(), "other".to_owned())
        );
        assert_eq!(llm.providers().collect::<Vec<_>>(), ["default"], "the other has no key");
        let config = Config { model: "gemini/gemini-3-pro".to_owned(), ..Config::default() };
        let llm = Llm::new(config, Profiles::built_in(), http.clone()).unwrap();
        let llm = llm.with_provider("gemini", &router, http).unwrap();
        assert_eq!(llm.providers().collect::<Vec<_>>(), ["gemini"], "no key is needed where nobody is asked");
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
