//! How connections are made and bounded.

use secrecy::SecretString;
use serde::Deserialize;

/// How connections are made and bounded.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Longest time for name lookup, TCP and TLS together, in milliseconds. Keep it below every call's own timeout:
    /// only then a peer that cannot be reached is told apart from one that does not answer.
    pub connect_timeout_milliseconds: u64,
    /// How long an idle connection is kept, in milliseconds. Load balancers close after 60 s (AWS) or 75 s (nginx); a
    /// request on a connection that is just being closed breaks, so ours must be gone first.
    pub pool_idle_milliseconds: u64,
    /// Largest answer in bytes, after decompression.
    pub max_body_bytes: usize,
    /// What all answers over 64 KiB that are read or looked through at the same time take together at most; the others wait.
    /// At least one of the largest has room.
    pub large_bodies_bytes: usize,
    /// Proxy for all hosts but loopback, `http://[user:password@]host:port`.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout_milliseconds: 5_000,
            pool_idle_milliseconds: 20_000,
            max_body_bytes: 16 << 20,
            large_bodies_bytes: 64 << 20,
            proxy: None,
        }
    }
}
