//! Log lines: one for each notable event, as text for people or as JSON for machines.

mod fields;
mod filter;
pub(crate) mod otlp;

use std::io::IsTerminal;
use std::sync::Arc;

use secrecy::SecretString;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use self::fields::{Fields, pseudonym};
use crate::audit::NameOf;

/// What is logged, and how; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// Which lines: `info`, `agentkit_worker=debug,info`, …
    pub filter: String,
    /// How users are named in lines above `debug`.
    pub identifiers: Identifiers,
    /// What pseudonyms are made with. Without it whoever guesses an identifier can tell that the guess is right.
    #[schemars(with = "String")]
    pub pseudonym_key: SecretString,
}

/// How users are named in lines above `debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identifiers {
    /// Not at all: in lines at `debug` only.
    Debug,
    /// By a name that is always the same for one user, and says nothing of them.
    Pseudonym,
    /// As they are.
    Plain,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    /// One JSON object a line.
    Json,
}

/// How users are named in the audit record: as in the log, and where that leaves them out by their pseudonyms.
pub(crate) fn name_of(config: &LogConfig) -> NameOf {
    let (how, key) = (config.identifiers, config.pseudonym_key.clone());
    Arc::new(move |identifier| match how {
        Identifiers::Plain => identifier.to_owned(),
        Identifiers::Debug | Identifiers::Pseudonym => pseudonym(identifier, &key),
    })
}

/// Starts logging to standard error. Colour only on a terminal, and not where the user wants none (`NO_COLOR`,
/// <https://no-color.org>).
pub(crate) fn start(config: &LogConfig, no_colour: bool) -> Result<(), String> {
    // lapin reports what the supervisor reports better, and shows frames with credentials at trace; redis reports every
    // attempt to reach a node of a cluster that is gone.
    let filter = filter::problem(&config.filter).map_or_else(
        || {
            EnvFilter::try_new(format!("{},lapin=off,amq_protocol=off,redis=off", config.filter))
                .map_err(|error| error.to_string())
        },
        Err,
    );
    let filter = filter.map_err(|problem| format!("log.filter (RUST_LOG): {problem}; {}", filter::ALLOWED))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(!no_colour && std::io::stderr().is_terminal());
    let started = match config.format {
        LogFormat::Text => builder.with_target(false).fmt_fields(Fields::new(config)).try_init(),
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_span_list(false);
            builder.fmt_fields(Fields::new(config)).try_init()
        }
    };
    started.map_err(|error| error.to_string())
}
