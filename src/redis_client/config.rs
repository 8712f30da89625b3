//! How Redis is reached, as plain data.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Durability;
use crate::transport::{Peer, Protection, TlsConfig};

const NO_ADDRESS: &str = "not an address of a redis server (`redis://host:port`, `rediss://` for tls)";

/// How Redis is reached.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` for TLS, or `unix:///path`. Of a cluster some of its nodes, separated by commas; with `sentinel` the Sentinels.
    #[schemars(with = "String")]
    pub url: SecretString,
    /// Whom `rediss://` addresses are trusted by, and who we are to them. Read when a client is made.
    pub tls: TlsConfig,
    /// Whether this is a Redis Cluster: its nodes are found from any one of them, and each key where it lies.
    pub cluster: bool,
    /// The name of the master that the Sentinels in `url` are asked for; empty where there are none. User, password and TLS
    /// of `url` count for them and for the master, its database for the master.
    pub sentinel: String,
    /// What the journal of a run is to have survived before a tool call that is more than reading leaves.
    pub durability: Durability,
    /// Stands before every key, so that several deployments can share one Redis.
    pub key_prefix: String,
    /// Longest wait for a connection, TLS and authentication included.
    pub connection_timeout_milliseconds: u64,
    /// Longest wait for an answer: of a journal that is one page of 256 KB.
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
            tls: TlsConfig::default(),
            cluster: false,
            sentinel: String::new(),
            durability: Durability::Default,
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
        let mut problems = self.addresses().err().unwrap_or_default();
        if problems.is_empty() {
            problems
                .extend(self.tls.problems(self.peers().iter().any(|peer| peer.protection == Protection::Encrypted)));
        }
        if self.cluster && self.key_prefix.contains("{}") {
            // An empty hash tag counts as none, and the one of each key would not be seen behind it.
            problems.push("key_prefix: must not hold `{}` on a redis cluster".to_owned());
        }
        if self.cluster && !self.sentinel.is_empty() {
            problems.push("sentinel: a redis cluster has none; unset it, or redis.cluster".to_owned());
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

    /// The server, the Sentinels, or the nodes of a cluster to start from; none where `url` cannot be read.
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |info: &ConnectionInfo| match info.addr() {
            ConnectionAddr::TcpTls { host, .. } => Peer::new(info.addr().to_string(), host, true),
            ConnectionAddr::Tcp(host, _) => Peer::new(info.addr().to_string(), host, false),
            addr => Peer::new(addr.to_string(), "localhost", false),
        };
        self.addresses().unwrap_or_default().iter().map(peer).collect()
    }

    /// The server, the Sentinels, or the nodes of a cluster to start from.
    ///
    /// # Errors
    /// All problems of `url`.
    pub(super) fn addresses(&self) -> Result<Vec<ConnectionInfo>, Vec<String>> {
        let url = self.url.expose_secret();
        if !self.cluster && self.sentinel.is_empty() {
            let hint = if url.contains(',') { "; several are for redis.cluster = true, or redis.sentinel" } else { "" };
            return match url.into_connection_info() {
                Ok(address) => Ok(vec![address]),
                Err(_) => Err(vec![format!("url: {NO_ADDRESS}{hint}")]),
            };
        }
        let parts: Vec<&str> = url.split(',').collect();
        let (mut addresses, mut problems) = (Vec::new(), Vec::new());
        for (number, part) in (1..).zip(&parts) {
            let place = if parts.len() == 1 { "url".to_owned() } else { format!("url: address {number}") };
            match self.node(part.trim()) {
                Ok(address) => addresses.push(address),
                Err(problem) => problems.push(format!("{place}: {problem}")),
            }
        }
        if addresses.windows(2).any(|pair| way_in(&pair[0]) != way_in(&pair[1])) {
            problems.push("url: all addresses need the same user, password, tls and database".to_owned());
        }
        if problems.is_empty() { Ok(addresses) } else { Err(problems) }
    }

    fn node(&self, text: &str) -> Result<ConnectionInfo, &'static str> {
        let address = text.into_connection_info().map_err(|_| NO_ADDRESS)?;
        match address.addr() {
            ConnectionAddr::Unix(_) => Err("neither a redis cluster nor Sentinels are reached over a unix socket"),
            _ if self.cluster && address.redis_settings().db() != 0 => Err("a redis cluster has no database but 0"),
            _ => Ok(address),
        }
    }
}

/// What nodes that are found later are reached with.
fn way_in(address: &ConnectionInfo) -> (Option<&str>, Option<&str>, i64, bool) {
    let settings = address.redis_settings();
    let tls = matches!(address.addr(), ConnectionAddr::TcpTls { .. });
    (settings.username(), settings.password(), settings.db(), tls)
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
        for durability in [Durability::Default, Durability::Fsync, Durability::Replicas] {
            let config: Config = toml::from_str(&format!("durability = \"{durability}\"")).unwrap();
            assert_eq!(config.durability, durability);
        }
        assert!(toml::from_str::<Config>("durability = \"always\"").is_err());
    }

    #[test]
    fn a_cluster_may_have_several_start_nodes_and_every_problem_of_theirs_is_named() {
        let config = |url: &str| Config { url: url.into(), cluster: true, ..Config::default() };
        for url in ["redis://a", "redis://:x@a:7000, redis://:x@b:7001/0", "rediss://a:1,rediss://b:2,rediss://c:3"] {
            assert_eq!(config(url).problems(), Vec::<String>::new(), "{url}");
            assert_eq!(config(url).addresses().unwrap().len(), url.split(',').count());
        }
        let problems = |url: &str| config(url).problems();
        let bad = "redis://:hunter2@a,hunter2,unix:///hunter2,redis://:hunter2@b/3,";
        let found = problems(bad);
        assert_eq!(found.len(), 4, "{found:?}");
        for (problem, part) in found.iter().zip([
            "address 2: not",
            "address 3: neither a redis cluster nor Sentinels are reached over a unix socket",
            "address 4: a redis cluster has no database but 0",
            "address 5: not",
        ]) {
            assert!(problem.contains(part), "{problem}");
        }
        assert!(!found.join("").contains("hunter2"));
        for mixed in ["redis://a,rediss://b", "redis://:x@a,redis://:y@b", "redis://u:x@a,redis://v:x@b"] {
            assert_eq!(problems(mixed), ["url: all addresses need the same user, password, tls and database"]);
        }
        assert_eq!(
            problems("unix:///x"),
            ["url: neither a redis cluster nor Sentinels are reached over a unix socket"]
        );
        assert_eq!(Config { key_prefix: "a{}:".to_owned(), ..config("redis://a") }.problems().len(), 1);
        let alone = Config { cluster: false, ..config("redis://a:1,redis://b:2") }.problems();
        assert!(alone[0].contains("several are for redis.cluster = true"), "{alone:?}");
    }

    #[test]
    fn sentinels_are_several_addresses_and_not_for_a_cluster() {
        let config = |url: &str| Config { url: url.into(), sentinel: "main".to_owned(), ..Config::default() };
        for url in ["redis://a:26379", "redis://:x@a:1/2, redis://:x@b:2/2", "rediss://a,rediss://b"] {
            assert_eq!(config(url).problems(), Vec::<String>::new(), "{url}");
        }
        for mixed in ["redis://a/1,redis://b/2", "redis://:x@a,redis://b", "redis://a,rediss://b"] {
            assert_eq!(config(mixed).problems(), ["url: all addresses need the same user, password, tls and database"]);
        }
        assert_eq!(config("redis://a,unix:///x,").problems().len(), 2);
        let both = Config { cluster: true, ..config("redis://a") }.problems();
        assert_eq!(both, ["sentinel: a redis cluster has none; unset it, or redis.cluster"]);
    }
}
