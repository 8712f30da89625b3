//! What an operator must know about a Redis server.

/// What an operator must know about a Redis server, from its `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `redis_version`.
    pub version: String,
    /// `role`: `master` or `slave`; a replica refuses writes.
    pub role: String,
    /// `aof_enabled`: without it a restart loses what was written since the last snapshot.
    pub append_only: bool,
    /// `maxmemory_policy`: anything but `noeviction` may evict journals.
    pub eviction_policy: String,
}

impl Facts {
    pub(super) fn from_info(info: &str) -> Self {
        Self {
            version: field(info, "redis_version"),
            role: field(info, "role"),
            append_only: field(info, "aof_enabled") == "1",
            eviction_policy: field(info, "maxmemory_policy"),
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
        let facts = Facts::from_info(info);
        assert_eq!((facts.version.as_str(), facts.role.as_str()), ("7.0.15", "slave"));
        assert!(facts.append_only);
        assert_eq!(facts.eviction_policy, "allkeys-lru");
        for broken in ["", ":", "redis_version", "redis_versions:7", "\0\n\r:::"] {
            assert_eq!(Facts::from_info(broken).version, "unknown", "{broken:?}");
        }
    }
}
