//! What an operator must know about a Redis server.

use std::collections::HashMap;

use super::Durability;

/// What an operator must know about a Redis server, from its `INFO` and `CLUSTER INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `host:port` of a master of a cluster; empty where there is but one server.
    pub server: String,
    /// `Redis`, or `Valkey`, which says so beside the version of Redis whose commands it has.
    pub product: &'static str,
    /// `valkey_version` or `redis_version`, such as `7.0.15`.
    pub version: String,
    /// `role`: `master` or `slave`; a replica refuses writes.
    pub role: String,
    /// `aof_enabled`: without it a restart loses what was written since the last snapshot.
    pub append_only: bool,
    /// `maxmemory_policy`: anything but `noeviction` may evict journals.
    pub eviction_policy: String,
    /// `connected_slaves`: replicas that one of may take over.
    pub(crate) replicas: u32,
    /// `appendfsync`, where the server tells its settings: with anything but `always` a power cut loses the last second.
    pub(crate) append_fsync: Option<String>,
    /// `min-replicas-to-write`, where the server tells: with 0 a fail-over may lose what was acknowledged.
    pub(crate) min_replicas: Option<u32>,
    /// `cluster_state` of a node of a Redis Cluster: `ok`, or it serves no keys.
    pub cluster: Option<String>,
}

impl ServerFacts {
    /// Reads the answer to `INFO`.
    pub(super) fn new(server: &str, info: &[u8]) -> Self {
        let info = String::from_utf8_lossy(info);
        let clustered = field(&info, "cluster_enabled") == "1";
        let (product, version) = match field(&info, "server_name").as_str() {
            "valkey" => ("Valkey", "valkey_version"),
            _ => ("Redis", "redis_version"),
        };
        Self {
            server: server.to_owned(),
            product,
            version: field(&info, version),
            role: field(&info, "role"),
            append_only: field(&info, "aof_enabled") == "1",
            eviction_policy: field(&info, "maxmemory_policy"),
            replicas: field(&info, "connected_slaves").parse().unwrap_or(0),
            append_fsync: None,
            min_replicas: None,
            cluster: clustered.then(|| "unknown".to_owned()),
        }
    }

    /// Why it cannot give the durability that is asked for.
    pub(crate) fn hindrance(&self, asked: Durability) -> Option<String> {
        let earlier = || {
            let mut numbers = self.version.split('.').map_while(|number| number.parse::<u32>().ok());
            self.product == "Redis" && (numbers.next(), numbers.next()) < (Some(7), Some(2))
        };
        match asked {
            Durability::Default => None,
            Durability::Fsync if earlier() => Some(format!("{} {} has no WAITAOF", self.product, self.version)),
            Durability::Fsync if !self.append_only => Some("there is no append-only file".to_owned()),
            Durability::Fsync => (self.append_fsync.as_deref() == Some("no")).then(|| "appendfsync is no".to_owned()),
            Durability::Replicas => (self.replicas == 0).then(|| "no replica is connected".to_owned()),
        }
    }

    /// Takes in the settings that the server tells of; managed servers often do not.
    pub(super) fn of_settings(&mut self, settings: &HashMap<String, String>) {
        self.append_fsync = settings.get("appendfsync").cloned();
        self.min_replicas = settings.get("min-replicas-to-write").and_then(|number| number.parse().ok());
    }

    /// Reads the answer to `CLUSTER INFO`; says how many masters with slots the node knows.
    pub(super) fn of_cluster(&mut self, info: &[u8]) -> usize {
        let info = String::from_utf8_lossy(info);
        self.cluster = Some(field(&info, "cluster_state"));
        field(&info, "cluster_size").parse().unwrap_or(0)
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
        let mut facts = ServerFacts::new("", info.as_bytes());
        assert_eq!((facts.product, facts.version.as_str(), facts.role.as_str()), ("Redis", "7.0.15", "slave"));
        assert!(facts.append_only);
        assert_eq!(facts.eviction_policy, "allkeys-lru");
        for broken in ["", ":", "redis_version", "redis_versions:7", "\0\n\r:::"] {
            assert_eq!(ServerFacts::new("", broken.as_bytes()).version, "unknown", "{broken:?}");
        }
        let valkey = ServerFacts::new("", b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n");
        assert_eq!((valkey.product, valkey.version.as_str()), ("Valkey", "9.1.2"));
        let settings = [("appendfsync", "everysec"), ("min-replicas-to-write", "1")];
        facts.of_settings(&settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!((facts.append_fsync.as_deref(), facts.min_replicas), (Some("everysec"), Some(1)));
        assert_eq!(facts.cluster, None);
        assert_eq!(facts.of_cluster(b"cluster_state:fail\r\ncluster_size:3\r\n"), 3);
        assert_eq!(facts.cluster.as_deref(), Some("fail"));
    }

    #[test]
    fn what_a_server_lacks_for_a_durability_is_known_from_its_facts() {
        let facts = |info: &str, fsync: &str| {
            let mut facts = ServerFacts::new("", info.replace(' ', "\r\n").as_bytes());
            facts.append_fsync = Some(fsync.to_owned());
            facts
        };
        let lacks = |info: &str, fsync: &str, asked| facts(info, fsync).hindrance(asked).unwrap_or_default();
        let bare = "redis_version:7.0.15 aof_enabled:0 connected_slaves:0";
        assert_eq!(lacks(bare, "no", Durability::Default), "");
        assert_eq!(lacks(bare, "no", Durability::Fsync), "Redis 7.0.15 has no WAITAOF");
        assert_eq!(lacks(bare, "no", Durability::Replicas), "no replica is connected");
        assert_eq!(lacks("connected_slaves:1", "no", Durability::Replicas), "");
        for version in ["redis_version:7.2.0", "redis_version:8.0.1", "server_name:valkey valkey_version:9.1.2"] {
            assert_eq!(lacks(version, "always", Durability::Fsync), "there is no append-only file");
            let with_file = format!("{version} aof_enabled:1");
            assert_eq!(lacks(&with_file, "no", Durability::Fsync), "appendfsync is no");
            assert_eq!(lacks(&with_file, "everysec", Durability::Fsync), "");
        }
    }
}
