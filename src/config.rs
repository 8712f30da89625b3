//! The configuration: layered, checked whole before anything connects, each part owned by the component that it is for.

mod origin;
mod problems;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::config::{Environment, File, FileFormat};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use self::origin::{OWN, choices, nearest, with_suggestion, without_values};
use crate::agent::links::AnswerRules;
use crate::approval::ApprovalConfig;
use crate::audit::AuditConfig;
use crate::budget::BudgetConfig;
use crate::http_server::config::HttpConfig;
use crate::job::ConnectionName;
use crate::journal::JournalConfig;
use crate::mcp::McpConfig;
use crate::producers::ProducersConfig;
use crate::telemetry::LogConfig;
use crate::telemetry::otlp::TelemetryConfig;
use crate::worker::config::WorkerConfig;
use crate::worker::fairness::{FairnessConfig, SharedBy};
use crate::worker::resources::poster::ReplyUrlConfig;
use crate::worker::resources::tool_catalog;
use crate::worker::resources::tool_source::ConnectionConfig;
use crate::worker::rules::Defaults;
use crate::{http, llm, queue, redis_client, scalekit};

/// `config/default.toml`: every key with its default and its meaning.
pub(crate) const DEFAULTS: &str = include_str!("../config/default.toml");

const SECTIONS: [&str; 24] = [
    "worker",
    "fairness",
    "job",
    "authorization",
    "approval",
    "producers",
    "answer",
    "tools",
    "digests",
    "amqp",
    "redis",
    "journal",
    "audit",
    "scalekit",
    "connections",
    "mcp",
    "model",
    "providers",
    "budget",
    "http_client",
    "http",
    "reply_url",
    "log",
    "telemetry",
];

/// Variables that other programs use for the same thing, and the key that each sets. The later of two wins.
const WELL_KNOWN: [(&str, &str); 13] = [
    ("AMQP_URL", "amqp.url"),
    ("REDIS_URL", "redis.url"),
    ("SCALEKIT_ENV_URL", "scalekit.environment_url"),
    ("SCALEKIT_ENVIRONMENT_URL", "scalekit.environment_url"),
    ("SCALEKIT_CLIENT_ID", "scalekit.client_id"),
    ("SCALEKIT_CLIENT_SECRET", "scalekit.client_secret"),
    ("SCALEKIT_WEBHOOK_SECRET", "scalekit.webhook_secret"),
    ("OPENAI_API_KEY", "model.api_key"),
    ("OPENAI_BASE_URL", "model.base_url"),
    ("ANTHROPIC_API_KEY", "providers.anthropic.api_key"),
    ("RUST_LOG", "log.filter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "telemetry.protocol"),
];

/// Everything that can be configured, each section as its component declares it; see `config/default.toml`.
#[derive(Debug, Clone, schemars::JsonSchema)]
#[expect(missing_docs, reason = "the sections are explained in config/default.toml")]
pub struct Config {
    pub worker: WorkerConfig,
    pub fairness: FairnessConfig,
    pub job: Defaults,
    pub authorization: AuthorizationConfig,
    pub approval: ApprovalConfig,
    pub producers: ProducersConfig,
    pub answer: AnswerRules,
    pub tools: tool_catalog::Config,
    pub digests: DigestsConfig,
    pub amqp: queue::amqp::Config,
    pub redis: redis_client::Config,
    pub journal: JournalConfig,
    pub audit: AuditConfig,
    pub scalekit: scalekit::Config,
    pub connections: BTreeMap<ConnectionName, ConnectionConfig>,
    pub mcp: BTreeMap<String, McpConfig>,
    pub model: llm::Config,
    pub providers: llm::Providers,
    pub budget: BudgetConfig,
    pub http_client: http::Config,
    pub http: HttpConfig,
    pub reply_url: ReplyUrlConfig,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
}

/// Waiting for users; see `config/default.toml`.
#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationConfig {
    pub poll_seconds: u64,
    pub poll_seconds_at_most: u64,
    pub relink_disconnected: bool,
}

/// Scheduled jobs; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DigestsConfig {
    pub enabled: bool,
    pub dir: PathBuf,
    pub lease_seconds: u64,
}

/// Everything that is wrong with a configuration, one line each: `section.key: problem`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct BadConfig(pub Vec<String>);

/// Where the layers come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config FILE`; must exist.
    pub file: Option<PathBuf>,
    /// Read if it exists: `config/local.toml`.
    pub local: Option<PathBuf>,
    /// The environment, `.env` included, which the process's own variables override.
    pub environment: BTreeMap<String, String>,
    /// The variables that `.env` alone sets.
    pub dotenv: BTreeSet<String>,
}

impl Sources {
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    /// The process's own: its environment, `.env` and `config/local.toml` of the working directory.
    pub fn of_process(file: Option<PathBuf>) -> Result<Self, BadConfig> {
        let (mut environment, mut dotenv) = (BTreeMap::new(), BTreeSet::new());
        if Path::new(".env").exists() {
            let lines = dotenvy::from_path_iter(".env").map_err(|error| BadConfig(vec![format!(".env: {error}")]))?;
            for line in lines {
                // The error would repeat the line, and the line may be a secret.
                let (name, value) =
                    line.map_err(|_| BadConfig(vec![".env: a line is not of the form NAME=value".into()]))?;
                dotenv.insert(name.clone());
                environment.insert(name, value);
            }
        }
        let own = std::env::vars_os();
        for (name, value) in own.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        {
            dotenv.remove(&name);
            environment.insert(name, value);
        }
        Ok(Self { file, local: Some(PathBuf::from("config/local.toml")), environment, dotenv })
    }

    /// A variable, unless it is empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl Config {
    /// Reads and checks all layers. Credentials are not demanded here: see
    /// [`Config::run_problems`].
    pub fn load(sources: &Sources) -> Result<Self, BadConfig> {
        let layers = layers(sources)?;
        let mut problems = Vec::new();
        if let Ok(table) = layers.cache.clone().into_table() {
            let unknown = table.keys().filter(|name| !SECTIONS.contains(&name.as_str()));
            problems.extend(unknown.map(|name| sources.with_origin(no_section(name))));
        }
        let mut config = Self::from_sections(&layers, sources, &mut problems);
        if let Some(config) = &mut config {
            config.amqp.lanes = config.fairness.key != SharedBy::None;
            problems.extend(config.read_producers(sources).err().into_iter().flatten());
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(BadConfig(problems)),
        }
    }

    /// Reads the file of producers, where there is one.
    fn read_producers(&mut self, sources: &Sources) -> Result<(), Vec<String>> {
        if !self.producers.read(sources.file.as_ref().or(sources.local.as_ref()))? {
            return Ok(());
        }
        let user = self.amqp.user();
        let several = user.as_ref().err().map(|error| format!("amqp.url: {error}; with producers it is one"));
        let unknown = self.producers.all.tokens().filter(|name| !self.http.tokens.contains_key(*name));
        let unknown = unknown.map(|name| format!("producers: tokens: there is no http.tokens.{name}"));
        let problems: Vec<String> = several.into_iter().chain(unknown).collect();
        self.amqp.stated_user = user.ok();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn from_sections(layers: &::config::Config, sources: &Sources, problems: &mut Vec<String>) -> Option<Self> {
        let layers = &Layers { table: layers, sources };
        let worker = section(layers, "worker", problems);
        let fairness = section(layers, "fairness", problems);
        let job = section(layers, "job", problems);
        let authorization = section(layers, "authorization", problems);
        let approval = section(layers, "approval", problems);
        let producers = section(layers, "producers", problems);
        let answer = section(layers, "answer", problems);
        let tools = section(layers, "tools", problems);
        let digests = section(layers, "digests", problems);
        let amqp = section(layers, "amqp", problems);
        let redis = section(layers, "redis", problems);
        let journal = section(layers, "journal", problems);
        let audit = section(layers, "audit", problems);
        let scalekit = section(layers, "scalekit", problems);
        let connections = section(layers, "connections", problems);
        let mcp = section(layers, "mcp", problems);
        let model = section(layers, "model", problems);
        let providers = section(layers, "providers", problems).map(llm::Providers::completed);
        let budget = section(layers, "budget", problems);
        let http_client = section(layers, "http_client", problems);
        let http = section(layers, "http", problems);
        let reply_url = section(layers, "reply_url", problems);
        let log = section(layers, "log", problems);
        let telemetry = section(layers, "telemetry", problems);
        Some(Self {
            worker: worker?,
            fairness: fairness?,
            job: job?,
            authorization: authorization?,
            approval: approval?,
            producers: producers?,
            answer: answer?,
            tools: tools?,
            digests: digests?,
            amqp: amqp?,
            redis: redis?,
            journal: journal?,
            audit: audit?,
            scalekit: scalekit?,
            connections: connections?,
            mcp: mcp?,
            model: model?,
            providers: providers?,
            budget: budget?,
            http_client: http_client?,
            http: http?,
            reply_url: reply_url?,
            log: log?,
            telemetry: telemetry?,
        })
    }

    /// The defaults alone.
    pub fn built_in() -> Self {
        Self::load(&Sources::default()).expect("config/default.toml is complete: a test loads it")
    }
}

fn layers(sources: &Sources) -> Result<::config::Config, BadConfig> {
    let environment = with_files(&sources.environment)?;
    let files = sources.local.iter().filter(|path| path.exists()).chain(&sources.file);
    let problems: Vec<String> = files.filter_map(|path| file_problem(path)).collect();
    if !problems.is_empty() {
        return Err(BadConfig(problems));
    }
    let mut builder = ::config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(local) = &sources.local {
        builder = builder.add_source(File::from(local.as_path()).format(FileFormat::Toml).required(false));
    }
    if let Some(file) = &sources.file {
        builder = builder.add_source(File::from(file.as_path()).format(FileFormat::Toml).required(true));
    }
    for (name, key) in WELL_KNOWN {
        if let Some(value) = environment.get(name).filter(|value| !value.is_empty()) {
            builder = builder.set_override(key, value.clone()).map_err(|error| BadConfig(vec![error.to_string()]))?;
        }
    }
    let own = environment.into_iter().filter(|(name, _)| name.starts_with(OWN)).collect();
    let own = Environment::with_prefix("AGENTKIT_WORKER")
        .prefix_separator("__")
        .separator("__")
        .ignore_empty(true)
        .source(Some(own));
    // Overrides beat every source, so our own variables are folded in as overrides too: they come last.
    let own = ::config::Source::collect(&own).map_err(|error| BadConfig(vec![error.to_string()]))?;
    for (key, value) in own {
        builder = builder.set_override(key, value).map_err(|error| BadConfig(vec![error.to_string()]))?;
    }
    builder.build().map_err(|error| BadConfig(vec![error.to_string()]))
}

/// Why a file is no TOML. The library's own words would repeat the line, and the line may hold a secret.
fn file_problem(path: &Path) -> Option<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    let error = toml::from_str::<toml::Table>(&text).err()?;
    let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
    Some(format!("{}: line {line}: {}", path.display(), error.message()))
}

/// `NAME_FILE` stands for `NAME` with the file's content, where `NAME` itself is not set.
fn with_files(environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, BadConfig> {
    let mut all = environment.clone();
    let mut problems = Vec::new();
    for (name, path) in environment {
        // Certificates stay in their files.
        let Some(base) = name.strip_suffix("_FILE").filter(|_| !name.contains("__TLS__")) else { continue };
        if base.ends_with('_') {
            // A key of the name `file`, as in AGENTKIT_WORKER__AUDIT__FILE.
            continue;
        }
        let ours = base.starts_with(OWN) || WELL_KNOWN.iter().any(|(known, _)| *known == base);
        if !ours || environment.contains_key(base) {
            continue;
        }
        all.remove(name);
        match std::fs::read_to_string(path) {
            Ok(content) => drop(all.insert(base.to_owned(), content.trim().to_owned())),
            Err(error) => problems.push(format!("{name}: the file cannot be read: {error}")),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(BadConfig(problems)) }
}

fn no_section(name: &str) -> String {
    let meant = nearest(name, SECTIONS).map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
    format!("{name}: there is no such section{meant}; there are {}", SECTIONS.join(", "))
}

/// What was read, and from where.
struct Layers<'a> {
    table: &'a ::config::Config,
    sources: &'a Sources,
}

/// Reads one section. Taken out of the table by hand: `Config::get` would name the section in an error, not the key.
fn section<T: DeserializeOwned + JsonSchema>(layers: &Layers<'_>, name: &str, problems: &mut Vec<String>) -> Option<T> {
    let value = layers.table.cache.clone().into_table().ok()?.remove(name)?;
    let told = |error: &::config::ConfigError, key: &str| {
        let text = with_suggestion(&choices::<T>(format!("{name}{}", without_values(error))));
        // An unknown key is complained about in the name of what it stands in.
        match text.starts_with(key) {
            true => layers.sources.with_origin(text),
            false => layers.sources.origin(key).map_or_else(|| text.clone(), |origin| format!("{text} (in {origin})")),
        }
    };
    let error = match T::deserialize(value.clone()) {
        Ok(section) => return Some(section),
        Err(error) => told(&error, name),
    };
    // That is the first problem only: each key is tried alone, over the defaults.
    let tried = |(key, value): (String, ::config::Value)| {
        let defaults = ::config::Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml)).build();
        let mut table = defaults.and_then(|defaults| defaults.get_table(name)).ok()?;
        let path = format!("{name}.{key}");
        table.insert(key, value);
        T::deserialize(::config::Value::from(table)).err().map(|error| told(&error, &path))
    };
    let mut found: Vec<String> = value.into_table().ok()?.into_iter().filter_map(tried).collect();
    found.sort();
    problems.extend(if found.is_empty() { vec![error] } else { found });
    None
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::approval::Writes;

    fn load(variables: &[(&str, &str)]) -> Result<Config, BadConfig> {
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&Sources { environment, ..Sources::default() })
    }

    #[test]
    fn the_defaults_are_complete_and_agree_with_the_code() {
        let config = Config::built_in();
        assert_eq!(config.model.model, llm::Config::default().model);
        assert_eq!(config.scalekit.tool_retry, scalekit::Config::default().tool_retry);
        assert_eq!(config.job.limits.steps, Defaults::default().limits.steps);
        assert_eq!(config.amqp.prefix, queue::amqp::Config::default().prefix);
        assert_eq!(config.redis.key_prefix, redis_client::Config::default().key_prefix);
        assert!(config.tools.deny.contains("gmail_create_delegate"));
        let (approval, known) = (&config.approval, ApprovalConfig::default());
        assert_eq!((approval.writes, approval.wait_seconds), (Writes::Untrusted, known.wait_seconds));
        assert_eq!((approval.on_expiry, approval.edit), (known.on_expiry, known.edit));
    }

    #[test]
    fn the_variables_of_the_original_script_count() {
        let config = load(&[
            ("SCALEKIT_ENV_URL", "https://acme.scalekit.dev"),
            ("SCALEKIT_CLIENT_ID", "skc_1"),
            ("SCALEKIT_CLIENT_SECRET", "00123"),
            ("SCALEKIT_WEBHOOK_SECRET", "whsec_c2VjcmV0"),
            ("OPENAI_API_KEY", "1e5"),
            ("ANTHROPIC_API_KEY", "123"),
        ])
        .unwrap();
        assert_eq!(config.scalekit.environment_url, "https://acme.scalekit.dev");
        assert_eq!(config.scalekit.client_secret.expose_secret(), "00123");
        assert_eq!(config.scalekit.webhook_secret.expose_secret(), "whsec_c2VjcmV0");
        assert_eq!(config.model.api_key.expose_secret(), "1e5");
        assert_eq!(config.providers.0["anthropic"].api_key.expose_secret(), "123");
        assert_eq!(config.run_problems(), Vec::<String>::new());
    }

    #[test]
    fn our_own_variables_come_last() {
        let config = load(&[
            ("AGENTKIT_WORKER__AMQP__URL", "amqp://own"),
            ("AMQP_URL", "amqp://known"),
            ("AGENTKIT_WORKER__WORKER__TRANSIENT__ATTEMPTS", "3"),
        ])
        .unwrap();
        assert_eq!(config.amqp.url.expose_secret(), "amqp://own");
        assert_eq!(config.worker.transient.attempts, 3);
    }

    #[test]
    fn a_typo_and_a_wrong_type_are_all_named_and_no_value_is_shown() {
        let error = load(&[
            ("AGENTKIT_WORKER__HTTP__BINDD", "x"),
            ("AGENTKIT_WORKER__WORKER__CONCURRENCY", "hunter2"),
            ("AGENTKIT_WORKER__WORKER__STRIKES", "hunter2"),
            ("AGENTKIT_WORKER__WORKER__GRACES", "hunter2"),
            ("AGENTKIT_WORKER__NONSENSE__KEY", "x"),
        ])
        .unwrap_err();
        let text = error.to_string();
        for part in ["bindd", "worker.concurrency", "worker.strikes", "graces", "nonsense: there is no such section"] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let path = file.path().to_str().unwrap();
        let config = load(&[("OPENAI_API_KEY_FILE", path), ("AGENTKIT_WORKER__REDIS__URL_FILE", path)]).unwrap();
        assert_eq!(config.model.api_key.expose_secret(), "s3cret");
        assert_eq!(config.redis.url.expose_secret(), "s3cret");
        assert!(
            load(&[("OPENAI_API_KEY_FILE", "/does/not/exist")])
                .unwrap_err()
                .to_string()
                .contains("OPENAI_API_KEY_FILE")
        );
        assert!(!format!("{config:?}").contains("s3cret"));
        let config = load(&[("AGENTKIT_WORKER__AUDIT__FILE", "audit.jsonl")]).unwrap();
        assert_eq!(config.audit.file, Path::new("audit.jsonl"), "a path, not what is in the file");
    }

    #[test]
    fn every_missing_credential_is_named() {
        let problems = Config::built_in().run_problems().join("\n");
        for part in ["scalekit.environment_url", "scalekit.client_id", "scalekit.client_secret"] {
            assert!(problems.contains(part), "{part} is missing in {problems}");
        }
    }
}
