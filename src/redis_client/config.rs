//! How Redis is reached, as plain data.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// How Redis is reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS with the system's roots, or
    /// `unix:///path`.
    pub url: SecretString,
    /// Stands before every key, so that several deployments can share one Redis.
    pub key_prefix: String,
    /// Longest wait for a connection, TLS and authentication included.
    pub connection_timeout_milliseconds: u64,
    /// Longest wait for an answer. Journals are read in one answer, so it must have room for a few megabytes.
    pub response_timeout_milliseconds: u64,
    /// After so many failures of the connection in a row Redis is skipped for a while.
    pub breaker_failures: u32,
    /// How long it is skipped before one call tries again.
    pub breaker_open_milliseconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            key_prefix: "agentkit:".to_owned(),
            connection_timeout_milliseconds: 250,
            response_timeout_milliseconds: 400,
            breaker_failures: 5,
            breaker_open_milliseconds: 5000,
        }
    }
}

impl Config {
    /// Everything that is wrong, as `field: problem`; the address itself is never repeated.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if redis::Client::open(self.url.expose_secret()).is_err() {
            problems
                .push("url: not an address of a redis server (`redis://host:port`, `rediss://` for tls)".to_owned());
        }
        let positive = [
            ("connection_timeout_milliseconds", self.connection_timeout_milliseconds),
            ("response_timeout_milliseconds", self.response_timeout_milliseconds),
            ("breaker_failures", self.breaker_failures.into()),
            ("breaker_open_milliseconds", self.breaker_open_milliseconds),
        ];
        problems.extend(
            positive.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name}: must be at least 1")),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_the_configuration_is_named_and_no_address_repeated() {
        assert_eq!(Config::default().problems(), Vec::<String>::new());
        let config = Config {
            url: "http://user:hunter2@host".into(),
            response_timeout_milliseconds: 0,
            breaker_failures: 0,
            ..Config::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        let client = super::super::RedisClient::new(&config);
        assert!(!format!("{problems:?} {config:?} {client:?}").contains("hunter2"));
        assert!(toml::from_str::<Config>("urll = \"redis://x\"").is_err());
    }
}
