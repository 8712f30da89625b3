//! Providers besides the default one: `[providers.NAME]`, each with an address, a key and an API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::profile::Api;
use super::server::{ModelServer, address};
use crate::http;
use crate::transport::{Peer, TlsConfig};

/// The provider that `[model]` configures, which serves every model that names no other.
pub const DEFAULT_PROVIDER: &str = "default";
/// The provider that needs a key alone, and where it is.
const ANTHROPIC: &str = "anthropic";
const ANTHROPIC_URL: &str = "https://api.anthropic.com";
/// Names that mean something else where a provider is named.
const RESERVED: [&str; 3] = [DEFAULT_PROVIDER, "model", "scalekit"];
/// A name stands in front of each of its models', in metrics and in logs.
const LONGEST_NAME: usize = 40;

/// All of `[providers]`, by name.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Providers(pub BTreeMap<String, ProviderConfig>);

/// One of `[providers]`: where it is, and how it is spoken to.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderConfig {
    /// The API that it serves.
    pub api: Option<ProviderApi>,
    /// The address under which `/chat/completions`, `/responses` or, of Anthropic's API, `/v1/messages` is found.
    pub base_url: String,
    /// The key; empty for servers that want none.
    #[schemars(with = "String")]
    pub api_key: SecretString,
    /// The key in a file, where `api_key` is empty.
    pub api_key_file: Option<PathBuf>,
    /// Whether the key may go to another machine over `http`.
    pub allow_plaintext_keys: bool,
    /// Whom the server is trusted by, and who we are to it.
    pub tls: TlsConfig,
}

/// The API of a provider, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderApi {
    /// Anthropic's Messages API, whatever the model.
    Anthropic,
    /// Chat completions or Responses, as the model's profile says.
    Openai,
    /// Chat completions whatever the model, for servers that know nothing else.
    ChatCompletions,
    /// The Responses API whatever the model.
    Responses,
}

impl ProviderApi {
    fn wire(self) -> Option<Api> {
        match self {
            Self::Anthropic => Some(Api::Messages),
            Self::Openai => None,
            Self::ChatCompletions => Some(Api::ChatCompletions),
            Self::Responses => Some(Api::Responses),
        }
    }
}

impl Providers {
    /// Everything that is wrong with them, each as `NAME.key: problem`.
    pub fn problems(&self) -> Vec<String> {
        let each = self.0.iter().flat_map(|(name, config)| {
            let problems = name_problem(name).into_iter().map(move |problem| format!("{name}: {problem}"));
            problems.chain(config.problems().into_iter().map(move |problem| format!("{name}.{problem}")))
        });
        each.collect()
    }

    /// The provider `anthropic` needs a key alone.
    #[must_use]
    pub fn completed(mut self) -> Self {
        if let Some(config) = self.0.get_mut(ANTHROPIC) {
            config.api = config.api.or(Some(ProviderApi::Anthropic));
            if config.base_url.is_empty() {
                ANTHROPIC_URL.clone_into(&mut config.base_url);
            }
        }
        self
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl ProviderConfig {
    /// The server; `None` where its address cannot be read.
    pub fn peer(&self) -> Option<Peer> {
        Some(Peer::of_url(&Url::parse(&self.base_url).ok()?))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.api.is_none() {
            problems.push("api: is missing".to_owned());
        }
        if self.base_url.is_empty() {
            problems.push("base_url: is missing".to_owned());
            return problems;
        }
        match self.key() {
            Ok(key) => match address(&self.base_url, &key, self.allow_plaintext_keys) {
                Ok(base) => problems.extend(self.tls.problems(base.scheme() == "https")),
                Err(problem) => problems.push(format!("base_url: {problem}")),
            },
            Err(problem) => problems.push(format!("api_key_file: {problem}")),
        }
        problems
    }

    fn key(&self) -> Result<SecretString, String> {
        match &self.api_key_file {
            Some(path) if self.api_key.expose_secret().is_empty() => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim().to_owned().into()),
                Err(error) => Err(format!("the file cannot be read: {error}")),
            },
            _ => Ok(self.api_key.clone()),
        }
    }

    /// The server that it describes. The error is its first problem, as `key: problem`.
    pub(super) fn server(&self, http: http::Client) -> Result<ModelServer, String> {
        let api = self.api.ok_or("api: is missing")?;
        let key = self.key().map_err(|problem| format!("api_key_file: {problem}"))?;
        let mut base = address(&self.base_url, &key, self.allow_plaintext_keys)
            .map_err(|problem| format!("base_url: {problem}"))?;
        if api == ProviderApi::Anthropic && base.path().trim_end_matches('/').ends_with("/v1") {
            // Written by habit: the path of each request begins with it.
            base.path_segments_mut().map_err(|()| "base_url: not an address")?.pop_if_empty().pop();
        }
        Ok(ModelServer::new(base, key, api.wire(), http))
    }
}

fn name_problem(name: &str) -> Option<&'static str> {
    if RESERVED.contains(&name) {
        return Some("this name is taken; [model] is the provider `default`");
    }
    let legal = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || matches!(one, '-' | '_');
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(legal);
    (!fits).then_some("a provider's name is 1 to 40 small letters, digits, - and _")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<String> {
        toml::from_str::<Providers>(toml).unwrap().problems()
    }

    #[test]
    fn what_the_documentation_shows_can_be_used() {
        let page = include_str!("../../config/README.md");
        let blocks = page.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
        let mut names = Vec::new();
        for block in blocks.filter(|block| block.contains("[providers.")) {
            let mut table: toml::Table = toml::from_str(block).unwrap();
            let providers: Providers = table.remove("providers").unwrap().try_into().unwrap();
            let mut providers = providers.completed();
            // A key of the documentation's reader is not there.
            providers.0.values_mut().for_each(|provider| provider.api_key_file = None);
            assert_eq!(providers.problems(), Vec::<String>::new());
            names.extend(providers.0.into_keys());
        }
        names.sort();
        assert_eq!(names, ["azure", "bedrock", "claude-on-bedrock", "gemini", "groq", "ollama", "vllm"]);
    }

    #[test]
    fn every_problem_of_a_provider_is_named_and_no_key_is_shown() {
        assert_eq!(problems(""), Vec::<String>::new());
        let good = "[ollama]\napi = \"openai\"\nbase_url = \"http://127.0.0.1:11434/v1\"";
        assert_eq!(problems(good), Vec::<String>::new());
        let anthropic: Providers = toml::from_str("[anthropic]\napi_key = \"k\"").unwrap();
        assert_eq!(anthropic.problems().len(), 2);
        assert_eq!(anthropic.completed().problems(), Vec::<String>::new());
        let bad = r#"
            [default]
            api = "openai"
            base_url = "https://x.example/v1"
            ["Mine/1"]
            [remote]
            api = "responses"
            base_url = "http://models.example/v1"
            api_key = "hunter2"
            [file]
            api = "openai"
            base_url = "https://x.example/v1"
            api_key_file = "/does/not/exist"
        "#;
        let found = problems(bad);
        for start in [
            "default: this name is taken",
            "Mine/1: a provider's name",
            "Mine/1.api: is missing",
            "Mine/1.base_url: is missing",
            "remote.base_url: the key would go to models.example:80 in plain text",
            "file.api_key_file: the file cannot be read",
        ] {
            assert!(found.iter().any(|problem| problem.starts_with(start)), "{start} is missing in {found:?}");
        }
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(!format!("{found:?}{:?}", toml::from_str::<Providers>(bad)).contains("hunter2"));
        assert!(toml::from_str::<Providers>("[a]\nkey = \"x\"").is_err());
    }
}
