//! What an operator must know about a Redis server.

use redis::cmd;

use super::node::{Failure, Node};

/// What an operator must know about a Redis server, from its `INFO` and `CLUSTER INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `host:port`, or the path of its socket.
    pub server: String,
    /// `redis_version`.
    pub version: String,
    /// `role`: `master` or `slave`; a replica refuses writes.
    pub role: String,
    /// `aof_enabled`: without it a restart loses what was written since the last snapshot.
    pub append_only: bool,
    /// `maxmemory_policy`: anything but `noeviction` may evict journals.
    pub eviction_policy: String,
    /// `cluster_state` of a node of a Redis Cluster: `ok`, or it serves no keys.
    pub cluster: Option<String>,
}

impl Facts {
    pub(super) async fn of(node: &Node) -> Result<Self, Failure> {
        let info: Vec<u8> = node.ask(&cmd("INFO")).await?;
        let info = String::from_utf8_lossy(&info);
        let mut facts = Self::from_info(&node.server, &info);
        if field(&info, "cluster_enabled") == "1" {
            let state: Vec<u8> = node.ask(cmd("CLUSTER").arg("INFO")).await?;
            facts.cluster = Some(field(&String::from_utf8_lossy(&state), "cluster_state"));
        }
        Ok(facts)
    }

    fn from_info(server: &str, info: &str) -> Self {
        Self {
            server: server.to_owned(),
            version: field(info, "redis_version"),
            role: field(info, "role"),
            append_only: field(info, "aof_enabled") == "1",
            eviction_policy: field(info, "maxmemory_policy"),
            cluster: None,
        }
    }
}

/// The value of a line `name:value`, or `unknown`.
fn field(answer: &str, name: &str) -> String {
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_any_answer() {
        let info =
            "# Server\r\nredis_version:7.0.15\r\nrole:slave\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\n";
        let facts = Facts::from_info("a:1", info);
        assert_eq!((facts.version.as_str(), facts.role.as_str()), ("7.0.15", "slave"));
        assert!(facts.append_only);
        assert_eq!(facts.eviction_policy, "allkeys-lru");
        for broken in ["", ":", "redis_version", "redis_versions:7", "\0\n\r:::"] {
            assert_eq!(Facts::from_info("a:1", broken).version, "unknown", "{broken:?}");
        }
    }
}
