//! Digests in Redis. All keys of a digest share one hash tag: `agentkit:digest:{name}:…`
//!
//! | key | holds |
//! |---|---|
//! | `state` | hash: `paused`, `floor`, `last_fire`, `last_success`, `failures`, `looked` |
//! | `groups` | hash: group → since when it is known, when it was last seen |
//! | `begun`, `done` | sorted sets of `group\|time` by time: marks of occurrences |
//! | `firing:group:time` | hash: part → `done`, or its owner and the end of the lease in milliseconds of Redis's clock |
//! | `recipients` | hash: identifier → JSON: `f` fired, `s` success, `r` running, `e` ended, `a` day asked, `j` by which |
//!
//! Times are seconds. Leases and the age of marks are measured by Redis's clock, so a scheduler's clock that jumps
//! breaks neither.

use std::time::Duration;

use ::redis::{FromRedisValue, Value, cmd, from_redis_value};
use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::{
    ABSENT, Claim, DigestStore, Fired, Firing, Hold, Holder, KEEP_FIRING, KEEP_MARKS, Marks, Members, Memory, Standing,
    StoreError,
};
use crate::key::encode;
use crate::redis_client::{Invocation, RedisClient, Script, Unavailable};

/// How many members of a set are asked for at a time.
const SCAN: usize = 1000;
/// What is remembered of recipients is forgotten so long after a digest's last firing.
const KEEP_RECIPIENTS: Duration = Duration::from_hours(400 * 24);

/// Keys: state, groups, begun, done. Arguments: now, from, longest absence and retention of marks in seconds, groups.
const LOOK: &str = r"
local now, from, absent, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = tonumber(redis.call('TIME')[1])
local paused, floor, fire, success, failures, looked = unpack(redis.call('HMGET', KEYS[1],
    'paused', 'floor', 'last_fire', 'last_success', 'failures', 'looked'))
local changing = #ARGV > 4
if changing and paused then
    redis.call('HSET', KEYS[1], 'floor', ARGV[1])
    floor = ARGV[1]
end
looked = tonumber(looked) or clock
local bounds = {}
for index = 5, #ARGV do
    local first, seen = string.match(redis.call('HGET', KEYS[2], ARGV[index]) or '', '^(-?%d+) (%d+)$')
    if not first or tonumber(seen) < looked - absent then first = now end
    first = math.min(tonumber(first), now)
    redis.call('HSET', KEYS[2], ARGV[index], string.format('%.0f %.0f', first, clock))
    bounds[#bounds + 1] = string.format('%.0f', math.max(first, tonumber(floor) or first))
end
if changing then
    redis.call('HSET', KEYS[1], 'looked', string.format('%.0f', math.max(looked, clock)))
    local old = string.format('(%.0f', clock - (now - from) - keep)
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', old)
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', old)
end
return {paused or '', fire or '', success or '', failures or '', bounds,
    redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[2], '+inf'), redis.call('ZRANGEBYSCORE', KEYS[4], ARGV[2], '+inf')}
";

/// Keys: firing, done. Arguments: mark, due, most, owner, lease and retention in milliseconds.
const CLAIM: &str = r"
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {{}, -1} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local values, mine, held = {}, {}, -1
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do values[all[index]] = all[index + 1] end
for portion = 0, tonumber(ARGV[2]) - 1 do
    local value = values[tostring(portion)]
    if value ~= 'done' then
        local owner, till = string.match(value or '', '^(.*) (%d+)$')
        local left = (tonumber(till) or 0) - now
        if left > 0 and owner ~= ARGV[4] then
            if held < 0 or left < held then held = left end
        elseif #mine < tonumber(ARGV[3]) then
            mine[#mine + 1] = portion
            redis.call('HSET', KEYS[1], portion, string.format('%s %.0f', ARGV[4], now + ARGV[5]))
        end
    end
end
if #mine > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
return {mine, held}
";

/// Keys: recipients, begun, state, firing, done. Arguments: mark, time, owner, lease and retention of recipients in
/// milliseconds, number of parts, number of recipients with a job, parts, recipients with a job, recipients without.
const NOTE: &str = r"
local at, portions, published = tonumber(ARGV[2]), tonumber(ARGV[6]), tonumber(ARGV[7])
for index = 8 + portions, #ARGV do
    local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[index]) or '{}')
    memory.f = at
    if index < 8 + portions + published and memory.e ~= at then memory.r = at end
    redis.call('HSET', KEYS[1], ARGV[index], cjson.encode(memory))
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if published > 0 then
    local last = tonumber(redis.call('HGET', KEYS[3], 'last_fire')) or at
    redis.call('HSET', KEYS[3], 'last_fire', string.format('%.0f', math.max(last, at)))
end
if redis.call('ZSCORE', KEYS[5], ARGV[1]) then return end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
for index = 8, 7 + portions do
    local owner = string.match(redis.call('HGET', KEYS[4], ARGV[index]) or '', '^(.*) %d+$')
    if owner == ARGV[3] then
        redis.call('HSET', KEYS[4], ARGV[index], string.format('%s %.0f', ARGV[3], till))
    end
end
";

/// Keys: firing, begun, done. Arguments: mark, time, owner, `done` or `free`, number of all parts, retention in
/// milliseconds, parts.
const SETTLE: &str = r"
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return end
for index = 7, #ARGV do
    if ARGV[4] == 'done' then
        redis.call('HSET', KEYS[1], ARGV[index], 'done')
    elseif string.match(redis.call('HGET', KEYS[1], ARGV[index]) or '', '^(.*) %d+$') == ARGV[3] then
        redis.call('HDEL', KEYS[1], ARGV[index])
    end
end
if ARGV[4] ~= 'done' then return end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
local finished = 0
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
    if value == 'done' then finished = finished + 1 end
end
if finished < tonumber(ARGV[5]) then
    redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
else
    redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
    redis.call('ZREM', KEYS[2], ARGV[1])
    redis.call('DEL', KEYS[1])
end
";

/// Keys: recipients, state. Arguments: recipient, time, `completed` or `failed`.
const ENDED: &str = r"
local at = tonumber(ARGV[2])
local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
if memory.e ~= at then
    memory.e = at
    if memory.r == at then memory.r = nil end
    if ARGV[3] == 'completed' then
        memory.s = math.max(memory.s or at, at)
        local last = tonumber(redis.call('HGET', KEYS[2], 'last_success')) or at
        redis.call('HSET', KEYS[2], 'failures', 0, 'last_success', string.format('%.0f', math.max(last, at)))
    else
        redis.call('HINCRBY', KEYS[2], 'failures', 1)
    end
    redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(memory))
end
return tonumber(redis.call('HGET', KEYS[2], 'failures')) or 0
";

/// Keys: recipients. Arguments: recipient, day, time.
const MAY_ASK: &str = r"
local at = tonumber(ARGV[3])
local memory = cjson.decode(redis.call('HGET', KEYS[1], ARGV[1]) or '{}')
if memory.a == ARGV[2] and memory.j ~= at then return 0 end
memory.a, memory.j = ARGV[2], at
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(memory))
return 1
";

/// What all schedulers and workers that share a Redis and a key prefix know of digests.
#[derive(Debug)]
pub struct RedisDigestStore {
    client: RedisClient,
    look: Script,
    claim: Script,
    note: Script,
    settle: Script,
    ended: Script,
    may_ask: Script,
}

/// A recipient's value, as the scripts write it.
#[derive(Deserialize)]
struct Record {
    f: Option<i64>,
    s: Option<i64>,
    r: Option<i64>,
}

impl RedisDigestStore {
    /// Digests kept through `client`.
    pub fn new(client: RedisClient) -> Self {
        Self {
            client,
            look: Script::new(LOOK),
            claim: Script::new(CLAIM),
            note: Script::new(NOTE),
            settle: Script::new(SETTLE),
            ended: Script::new(ENDED),
            may_ask: Script::new(MAY_ASK),
        }
    }

    fn key(&self, digest: &str, part: &str) -> String {
        format!("{}:{part}", self.client.tagged_key("digest", digest))
    }

    fn firing_key(&self, firing: Firing<'_>) -> String {
        self.key(firing.digest, &format!("firing:{}:{}", encode(firing.group), firing.at.as_second()))
    }

    async fn run<T: FromRedisValue>(&self, script: &Invocation<'_>) -> Result<T, StoreError> {
        Ok(self.client.run(script).await?)
    }
}

#[async_trait]
impl DigestStore for RedisDigestStore {
    async fn look(
        &self,
        digest: &str,
        groups: &[String],
        now: Timestamp,
        from: Timestamp,
    ) -> Result<Standing, StoreError> {
        let mut script = self.look.key(self.key(digest, "state"));
        script.key(self.key(digest, "groups")).key(self.key(digest, "begun")).key(self.key(digest, "done"));
        script.arg(now.as_second()).arg(from.as_second()).arg(ABSENT.as_secs()).arg(KEEP_MARKS.as_secs()).arg(groups);
        let answer: Value = self.run(&script).await?;
        let (paused, fire, success, failures, bounds, begun, done): (
            String,
            String,
            String,
            String,
            Vec<i64>,
            Vec<String>,
            Vec<String>,
        ) = read_as(answer)?;
        Ok(Standing {
            paused: !paused.is_empty(),
            last_fire: fire.parse().ok().and_then(instant),
            last_success: success.parse().ok().and_then(instant),
            failures: failures.parse().unwrap_or(0),
            not_before: bounds.into_iter().map(|bound| instant(bound).unwrap_or(Timestamp::MIN)).collect(),
            begun: marks(&begun),
            done: marks(&done),
        })
    }

    async fn hold(&self, digest: &str, hold: Hold, now: Timestamp) -> Result<(), StoreError> {
        let key = self.key(digest, "state");
        if hold == Hold::Resume {
            self.client.query::<()>(cmd("HDEL").arg(&key).arg("paused")).await?;
        }
        let mut command = cmd("HSET");
        command.arg(&key).arg("floor").arg(now.as_second());
        if hold == Hold::Pause {
            command.arg("paused").arg(1);
        }
        Ok(self.client.query::<()>(&command).await?)
    }

    async fn claim(
        &self,
        firing: Firing<'_>,
        due: u32,
        most: usize,
        owner: &str,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let mut script = self.claim.key(self.firing_key(firing));
        script.key(self.key(firing.digest, "done"));
        script.arg(mark(firing)).arg(due).arg(most).arg(owner).arg(milliseconds(lease)).arg(milliseconds(KEEP_FIRING));
        let answer: Value = self.run(&script).await?;
        let (portions, held): (Vec<u32>, i64) = read_as(answer)?;
        Ok(Claim { portions, held_for: u64::try_from(held).ok().map(Duration::from_millis) })
    }

    async fn recall(&self, digest: &str, recipients: &[&str]) -> Result<Vec<Memory>, StoreError> {
        if recipients.is_empty() {
            return Ok(Vec::new());
        }
        let command = cmd("HMGET").arg(self.key(digest, "recipients")).arg(recipients).to_owned();
        let values: Vec<Option<Vec<u8>>> = self.client.query(&command).await?;
        values.into_iter().map(|value| value.map_or(Ok(Memory::default()), |value| memory(&value))).collect()
    }

    async fn note(
        &self,
        firing: Firing<'_>,
        published: &[&str],
        skipped: &[&str],
        holder: Holder<'_>,
    ) -> Result<(), StoreError> {
        let part = |part| self.key(firing.digest, part);
        let mut script = self.note.key(part("recipients"));
        script.key(part("begun")).key(part("state")).key(self.firing_key(firing)).key(part("done"));
        script.arg(mark(firing)).arg(firing.at.as_second()).arg(holder.owner).arg(milliseconds(holder.lease));
        script.arg(milliseconds(KEEP_RECIPIENTS)).arg(holder.portions.len()).arg(published.len());
        script.arg(holder.portions).arg(published).arg(skipped);
        self.run(&script).await
    }

    async fn settle(&self, firing: Firing<'_>, holder: Holder<'_>, done: bool) -> Result<(), StoreError> {
        let mut script = self.settle.key(self.firing_key(firing));
        script.key(self.key(firing.digest, "begun")).key(self.key(firing.digest, "done"));
        script.arg(mark(firing)).arg(firing.at.as_second()).arg(holder.owner).arg(if done { "done" } else { "free" });
        script.arg(firing.portions).arg(milliseconds(KEEP_FIRING)).arg(holder.portions);
        self.run(&script).await
    }

    async fn ended(&self, fired: &Fired, completed: bool) -> Result<u64, StoreError> {
        let mut script = self.ended.key(self.key(&fired.digest, "recipients"));
        script.key(self.key(&fired.digest, "state")).arg(&fired.recipient).arg(fired.occurrence.as_second());
        script.arg(if completed { "completed" } else { "failed" });
        self.run(&script).await
    }

    async fn may_ask(&self, fired: &Fired, day: Date) -> Result<bool, StoreError> {
        let mut script = self.may_ask.key(self.key(&fired.digest, "recipients"));
        script.arg(&fired.recipient).arg(day.to_string()).arg(fired.occurrence.as_second());
        self.run(&script).await
    }

    async fn members(&self, set: &str, from: u64) -> Result<Members, StoreError> {
        let command = cmd("SSCAN").arg(set).arg(from).arg("COUNT").arg(SCAN).to_owned();
        let (next, members): (u64, Vec<Vec<u8>>) = self.client.query(&command).await?;
        Ok(Members { members, next: (next != 0).then_some(next) })
    }
}

fn mark(firing: Firing<'_>) -> String {
    format!("{}|{}", firing.group, firing.at.as_second())
}

fn marks(members: &[String]) -> Marks {
    let read = |member: &String| {
        let (group, at) = member.rsplit_once('|')?;
        Some((group.to_owned(), instant(at.parse().ok()?)?))
    };
    members.iter().filter_map(read).collect()
}

fn memory(value: &[u8]) -> Result<Memory, StoreError> {
    let Record { f, s, r } = serde_json::from_slice(value).map_err(|_| unreadable())?;
    Ok(Memory { fired: f.and_then(instant), success: s.and_then(instant), running: r.and_then(instant) })
}

fn instant(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok()
}

fn read_as<T: FromRedisValue>(value: Value) -> Result<T, StoreError> {
    from_redis_value(value).map_err(|_| unreadable())
}

fn unreadable() -> StoreError {
    StoreError("a value is not what we wrote".to_owned())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<Unavailable> for StoreError {
    fn from(error: Unavailable) -> Self {
        Self(error.0)
    }
}
