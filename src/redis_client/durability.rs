//! What a run's journal is to have survived before a call that changes something leaves: `WAITAOF` and `WAIT`.
//!
//! Both answer for what the connection that asks has written. So a write and the question go out together, over one
//! connection that has a single user meanwhile, as Redis answers nothing else on it before. Whatever was acknowledged
//! earlier, over any connection, stands before that write in what is synced and replicated.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd, from_redis_value};
use serde::Deserialize;

use super::{Config, RedisClient, Unavailable, describe, lock};

/// So long Redis may take: with `appendfsync everysec` it syncs every second, and later where the disk is busy.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What the journal of a run is to have survived before a tool call that is more than reading leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// What Redis' own settings give; nothing is asked.
    Default,
    /// A power cut of Redis' machine.
    Fsync,
    /// The loss of the master: at least one replica has it.
    Replicas,
}

impl fmt::Display for Durability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Default => "default",
            Self::Fsync => "fsync",
            Self::Replicas => "replicas",
        })
    }
}

impl Durability {
    fn question(self) -> Cmd {
        let mut question = match self {
            Self::Default | Self::Replicas => cmd("WAIT"),
            Self::Fsync => cmd("WAITAOF"),
        };
        question.arg(1);
        if self == Self::Fsync {
            question.arg(0);
        }
        question.arg(LONGEST_WAIT.as_millis());
        question
    }

    /// What Redis needs for it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Default => "nothing",
            Self::Fsync => {
                "it takes Redis 7.2 or any Valkey, `appendonly yes` and `appendfsync everysec` or `always`; \
                 or set redis.durability = \"default\""
            }
            Self::Replicas => "connect a replica to the master; or set redis.durability = \"default\"",
        }
    }

    fn judge(self, answer: Value) -> Result<(), Unavailable> {
        let have = answer.extract_error().and_then(|answer| match self {
            Self::Fsync => Ok(from_redis_value::<(u64, u64)>(answer)?.0),
            Self::Default | Self::Replicas => Ok(from_redis_value::<u64>(answer)?),
        });
        let why = match have {
            Ok(1..) => return Ok(()),
            Ok(0) => format!("not within {} s", LONGEST_WAIT.as_secs()),
            Err(error) => describe(&error).0,
        };
        Err(Unavailable(format!("redis.durability = \"{self}\" is not met: {why}; {}", self.advice())))
    }
}

/// Writes and waits until they are durable.
pub(super) struct DurableWrites {
    pub(super) durability: Durability,
    config: Config,
    /// Clients that nobody uses at present.
    idle: Mutex<Vec<RedisClient>>,
}

impl DurableWrites {
    pub(super) fn new(config: &Config) -> Self {
        let wait = u64::try_from(LONGEST_WAIT.as_millis()).unwrap_or(u64::MAX);
        let response_timeout_milliseconds = config.response_timeout_milliseconds.saturating_add(wait);
        Self {
            durability: config.durability,
            config: Config { response_timeout_milliseconds, ..config.clone() },
            idle: Mutex::default(),
        }
    }

    /// Answers what `write`, which changes `key`, answered, once it is durable.
    pub(super) async fn make(&self, key: &str, write: Cmd) -> Result<Value, Unavailable> {
        let idle = lock(&self.idle).pop();
        let client = idle.map_or_else(|| RedisClient::new(&self.config), Ok)?;
        let mut both = Pipeline::with_capacity(2);
        both.add_command(write).add_command(self.durability.question());
        let both = &both;
        let (written, survived) = client.call(true, |mut link| async move { link.send_both(key, both).await }).await?;
        self.durability.judge(survived)?;
        // One that had to wait in vain is not used again: what it has may be in the way.
        lock(&self.idle).push(client);
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_copy_more_counts_as_durable_and_every_refusal_says_what_to_do() {
        let pair = |local| Value::Array(vec![Value::Int(local), Value::Int(0)]);
        assert_eq!(Durability::Fsync.judge(pair(1)), Ok(()));
        assert_eq!(Durability::Replicas.judge(Value::Int(2)), Ok(()));
        for (durability, answer) in [
            (Durability::Fsync, pair(0)),
            (Durability::Fsync, Value::Nil),
            (Durability::Replicas, Value::Int(0)),
            (Durability::Replicas, pair(1)),
        ] {
            let failure = durability.judge(answer).unwrap_err().0;
            assert!(
                failure.contains(&format!("\"{durability}\"")) && failure.contains(durability.advice()),
                "{failure}"
            );
        }
    }
}
