//! Where the HTTP port listens, what it allows, and whom.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::tokens::{TokenConfig, Tokens};

/// The HTTP port; see `config/default.toml`.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// `address:port`; port 0 takes any that is free.
    pub bind: String,
    /// The same for what must be reached from outside, which then does not come to `bind`: webhooks and the pages of links.
    pub public_bind: Option<String>,
    /// Connections at the same time, at each address; more are closed as they come.
    pub max_connections: usize,
    /// So many at the same time may wait for what happens to jobs, each with a connection of its own.
    pub max_streams: usize,
    /// For a request's head, for its body with the answer, and for a connection that says nothing.
    pub timeout_seconds: u64,
    /// Who may ask for what; see `config/README.md`.
    #[serde(default)]
    pub tokens: BTreeMap<String, TokenConfig>,
}

impl HttpConfig {
    /// What is wrong with it, as `field: problem`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let bad = |bind: &str| !matches!(bind.rsplit_once(':').map(|(_, port)| port.parse::<u16>()), Some(Ok(_)));
        let binds = [("bind", Some(&self.bind)), ("public_bind", self.public_bind.as_ref())];
        let binds = binds.into_iter().filter(|(_, bind)| bind.is_some_and(|bind| bad(bind)));
        let mut problems: Vec<String> = binds.map(|(key, _)| format!("{key}: must be address:port")).collect();
        let positive = [
            ("max_connections", self.max_connections as u64),
            ("max_streams", self.max_streams as u64),
            ("timeout_seconds", self.timeout_seconds),
        ];
        let zeros = positive.iter().filter(|(_, value)| *value == 0);
        problems.extend(zeros.map(|(key, _)| format!("{key}: must be at least 1")));
        problems.extend(Tokens::new(&self.tokens).err());
        problems
    }
}
