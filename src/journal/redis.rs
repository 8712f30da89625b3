//! Journals in Redis: one hash per run, changed by scripts, so each operation is one atomic step on one key.
//!
//! The hash has the fields `epoch`, `owner`, `lease` (when it ends, in milliseconds of Redis's own clock), `length`,
//! and the entries under `0`, `1`, …. One key holds everything, so no eviction or expiry can take half of a run, and the
//! scripts run on a cluster node too. Needs Redis 6 or later.
//!
//! An acknowledged append can be lost by a restart without append-only file, by a power failure within the second
//! before `appendfsync everysec` writes, and by a fail-over to a replica that lags; killing Redis alone loses none.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::{FromRedisValue, Script, ScriptInvocation, Value, cmd, from_redis_value};
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tracing::warn;

use super::{Append, Claim, ClaimMode, FencingToken, IDLE_RETENTION, Journal, JournalError, STOLEN_RETENTION};
use crate::job::JobId;
use crate::key::Key;
use crate::redis_client::{RedisClient, Unavailable};

/// Arguments: owner, lease and least retention in milliseconds, `if_free` or `steal`. Answers the epoch and the whole
/// hash, or the present owner and what remains of its lease.
const CLAIM: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, owner, lease = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'owner', 'lease'))
local remaining = (tonumber(lease) or 0) - now
if ARGV[4] == 'if_free' and owner and owner ~= ARGV[1] and remaining > 0 then
    return {0, owner, remaining}
end
local taken = math.max((tonumber(epoch) or 0) + 1, now)
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', taken), 'owner', ARGV[1],
    'lease', string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return {1, taken, redis.call('HGETALL', KEYS[1])}
";

/// Arguments: epoch, lease and retention in milliseconds, sequence, entries.
const APPEND: &str = r"
local epoch, length = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'length'))
epoch, length = tonumber(epoch) or 0, tonumber(length) or 0
local mine, sequence, count = tonumber(ARGV[1]), tonumber(ARGV[4]), #ARGV - 4
if epoch > mine then return 'taken' end
if epoch < mine or sequence > length then return 'lost' end
if sequence < length and sequence + count ~= length then return 'taken' end
if sequence < length then
    for index = 1, count do
        if redis.call('HGET', KEYS[1], sequence + index - 1) ~= ARGV[4 + index] then return 'taken' end
    end
else
    for index = 1, count do
        redis.call('HSET', KEYS[1], sequence + index - 1, ARGV[4 + index])
    end
    redis.call('HSET', KEYS[1], 'length', string.format('%.0f', sequence + count))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'done'
";

/// Arguments: epoch, lease and least retention in milliseconds.
const RENEW: &str = r"
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch')) or 0
if epoch > tonumber(ARGV[1]) then return 'taken' end
if epoch < tonumber(ARGV[1]) then return 'lost' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', now + ARGV[2]))
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 'done'
";

/// Runs stolen, by the epoch of that, which is a time in milliseconds or later. A key of its own, as it may be in
/// another slot. Arguments: epoch, run, retention in milliseconds.
const NOTE_STOLEN: &str = r"
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1] - ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'done'
";

/// The journals of all workers that share a Redis and a key prefix.
#[derive(Debug)]
pub struct RedisJournal {
    client: RedisClient,
    claim: Script,
    append: Script,
    renew: Script,
    note_stolen: Script,
}

type Fields = HashMap<String, Bytes>;

impl RedisJournal {
    /// Journals kept through `client`.
    pub fn new(client: RedisClient) -> Self {
        Self {
            client,
            claim: Script::new(CLAIM),
            append: Script::new(APPEND),
            renew: Script::new(RENEW),
            note_stolen: Script::new(NOTE_STOLEN),
        }
    }

    fn key(&self, job: &JobId) -> String {
        self.client.tagged_key("run", job.as_str())
    }

    fn stolen_key(&self) -> String {
        self.client.full_key(&Key::new(&["forced"]))
    }

    /// The former owner learns of it at its next renewal where this fails, so that is no reason to fail.
    async fn note_stolen(&self, job: &JobId, token: FencingToken) {
        let mut script = self.note_stolen.key(self.stolen_key());
        script.arg(token.0).arg(job.as_str()).arg(milliseconds(STOLEN_RETENTION));
        if let Err(error) = self.change(&script).await {
            warn!(job.id = %job, %error, "the run's former owner could not be told at once");
        }
    }

    async fn change(&self, script: &ScriptInvocation<'_>) -> Result<(), JournalError> {
        let verdict: String = self.client.run(script).await?;
        match verdict.as_str() {
            "done" => Ok(()),
            "lost" => Err(JournalError::Lost),
            _ => Err(JournalError::OwnershipLost),
        }
    }
}

#[async_trait]
impl Journal for RedisJournal {
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError> {
        let word = match mode {
            ClaimMode::IfFree => "if_free",
            ClaimMode::Steal => "steal",
        };
        let mut script = self.claim.key(self.key(job));
        script.arg(owner).arg(milliseconds(lease)).arg(milliseconds(lease.saturating_add(IDLE_RETENTION))).arg(word);
        let answer: Value = self.client.run(&script).await?;
        match from_redis_value::<(u8, Value, Value)>(answer) {
            Ok((1, token, fields)) => {
                let token = FencingToken(read_as(token)?);
                if mode == ClaimMode::Steal {
                    self.note_stolen(job, token).await;
                }
                Ok(Claim::Granted { token, entries: entries(read_as(fields)?)? })
            }
            Ok((_, owner, remaining)) => {
                Ok(Claim::Held { owner: read_as(owner)?, remaining: Duration::from_millis(read_as(remaining)?) })
            }
            Err(_) => Err(unreadable("an answer of another form")),
        }
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let mut script = self.append.key(self.key(job));
        script.arg(append.token.0).arg(milliseconds(append.lease)).arg(milliseconds(append.retain.max(append.lease)));
        script.arg(append.sequence).arg(append.entries);
        self.change(&script).await
    }

    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError> {
        let mut script = self.renew.key(self.key(job));
        script.arg(token.0).arg(milliseconds(lease)).arg(milliseconds(lease.saturating_add(IDLE_RETENTION)));
        self.change(&script).await
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        let answer: Value = self.client.query(cmd("HGETALL").arg(self.key(job))).await?;
        entries(read_as(answer)?)
    }

    async fn now(&self) -> Result<Timestamp, JournalError> {
        Ok(self.client.time().await?)
    }

    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError> {
        let key = self.stolen_key();
        let answer: Value = self.client.query(cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES")).await?;
        let pairs: Vec<(String, u64)> = read_as(answer)?;
        Ok(pairs.into_iter().filter_map(|(job, token)| Some((JobId::new(job)?, FencingToken(token)))).collect())
    }
}

fn entries(mut fields: Fields) -> Result<Vec<String>, JournalError> {
    let length = match fields.get("length") {
        None => 0,
        Some(text) => {
            str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| unreadable("its length"))?
        }
    };
    let mut entries = Vec::new();
    for index in 0..length {
        let bytes = fields.remove(&u64::to_string(&index)).ok_or_else(|| unreadable("a missing entry"))?;
        entries.push(String::from_utf8(bytes.into()).map_err(|_| unreadable("an entry that is not text"))?);
    }
    Ok(entries)
}

fn read_as<T: FromRedisValue>(value: Value) -> Result<T, JournalError> {
    from_redis_value(value).map_err(|_| unreadable("a value of another type"))
}

fn unreadable(what: &str) -> JournalError {
    JournalError::Unavailable(format!("the journal cannot be read: {what}"))
}

impl From<Unavailable> for JournalError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.0)
    }
}

/// Redis refuses an expiry that overflows its clock, so a century is for ever.
fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: Duration = Duration::from_hours(24 * 365 * 100);
    u64::try_from(duration.min(CENTURY).as_millis()).expect("a century in milliseconds fits")
}
