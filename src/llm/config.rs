//! The configuration of `[model]`: the default provider, and how models are asked, whoever provides them.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::price::{self, Price};
use super::server::address;
use crate::retry::Policy;
use crate::transport::{Peer, TlsConfig};

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
    /// Models that take over, in this order, in runs of jobs that name none. Left out, the named successor of one that its
    /// provider does not have any more takes over, in all runs; an empty list has nobody take over.
    pub fallback: Option<Vec<String>>,
    /// A model that asks to come later than after so many seconds is left for one of `fallback`.
    pub fallback_after_seconds: u64,
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
    /// What models cost that `config/models.toml` does not know, or knows otherwise, by name, each in the form of `prices` there.
    pub prices: BTreeMap<String, Vec<Price>>,
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
            fallback: None,
            fallback_after_seconds: 10,
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
            prices: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Everything that is wrong with it, each as `key: problem`.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match address(&self.base_url, &self.api_key, self.allow_plaintext_keys) {
            Ok(base) => problems.extend(self.tls.problems(base.scheme() == "https")),
            Err(problem) => problems.push(format!("base_url: {problem}")),
        }
        if self.model.trim().is_empty() {
            problems.push("model: must not be empty".to_owned());
        }
        for (index, name) in self.fallback.iter().flatten().enumerate() {
            if name.trim().is_empty() {
                problems.push(format!("fallback[{index}]: must not be empty"));
            }
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
        for (name, prices) in &self.prices {
            problems.extend(price::problems(prices).iter().map(|problem| format!("prices: {name}: {problem}")));
            if prices.is_empty() {
                problems.push(format!("prices: {name}: there is none"));
            }
        }
        problems
    }

    /// The server; `None` where its address cannot be read.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer::of_url(&Url::parse(&self.base_url).ok()?))
    }
}
