//! Digests in Redis. All keys of a digest share one hash tag: `agentkit:digest:{name}:…`
//!
//! | key | holds |
//! |---|---|
//! | `state` | hash: `born`, `paused`, `floor`, `last_fire`, `last_success`, `failures`, `looked` |
//! | `groups` | hash: group → since when it is known, when it was last seen |
//! | `begun`, `done` | sorted sets of `group\|time` by time: marks of occurrences |
//! | `firing:group:time:parts` | hash: part → `done`, or its owner and the end of the lease in milliseconds of Redis's clock |
//! | `recipients` | hash: identifier → JSON: `f` fired, `s` success, `r` running, `e` ended, `a` day asked, `j` by which |
//!
//! Times are seconds. Leases are measured by Redis's clock, and the age of marks by the clock that is behind, so a
//! scheduler's clock that jumps breaks neither.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::{FromRedisValue, Script, ScriptInvocation, Value, cmd, from_redis_value};
use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::scripts::{CLAIM, ENDED, LOOK, MAY_ASK, NOTE, REMIND, SETTLE};
use super::{
    ABSENT, ClaimedPortions, DigestStore, Fired, Firing, Hold, KEEP_FIRING, KEEP_MARKS, LeaseHolder, Marks, Members,
    Memory, Reminder, Standing, StoreError,
};
use crate::key::encode;
use crate::redis_client::{RedisClient, Unavailable};

/// How many members of a set are asked for at a time.
const SCAN: usize = 1000;
/// What is remembered of recipients is forgotten so long after a digest's last firing.
const KEEP_RECIPIENTS: Duration = Duration::from_hours(400 * 24);

/// What all schedulers and workers that share a Redis and a key prefix know of digests.
#[derive(Debug)]
pub struct RedisDigestStore {
    client: RedisClient,
    look: Script,
    claim: Script,
    note: Script,
    settle: Script,
    remind: Script,
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
            remind: Script::new(REMIND),
            ended: Script::new(ENDED),
            may_ask: Script::new(MAY_ASK),
        }
    }

    /// Forgets what is remembered of a recipient, in all digests; says in how many that was.
    pub async fn erase(&self, recipient: &str, for_real: bool) -> Result<u64, StoreError> {
        let (mut scan, mut found) = (self.client.scan("digest:{").await?, BTreeSet::new());
        while let Some(keys) = scan.next().await? {
            for key in keys.into_iter().filter(|key| key.ends_with("}:recipients")) {
                if self.client.query(cmd("HEXISTS").arg(&key).arg(recipient)).await? {
                    if for_real {
                        self.client.query::<()>(cmd("HDEL").arg(&key).arg(recipient)).await?;
                    }
                    found.insert(key);
                }
            }
        }
        Ok(found.len() as u64)
    }

    fn key(&self, digest: &str, part: &str) -> String {
        format!("{}:{part}", self.client.tagged_key("digest", digest))
    }

    fn firing_key(&self, firing: Firing<'_>) -> String {
        let Firing { digest, group, at, portions } = firing;
        self.key(digest, &format!("firing:{}:{}:{portions}", encode(group), at.as_second()))
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
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
        let (born, paused, fire, success, failures, bounds, begun, done): (
            String,
            String,
            String,
            String,
            String,
            Vec<i64>,
            Vec<String>,
            Vec<String>,
        ) = read_as(answer)?;
        Ok(Standing {
            born: birth(&born),
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
    ) -> Result<ClaimedPortions, StoreError> {
        let mut script = self.claim.key(self.firing_key(firing));
        script.key(self.key(firing.digest, "done")).key(self.key(firing.digest, "state"));
        script.arg(mark(firing)).arg(due).arg(most).arg(owner).arg(milliseconds(lease)).arg(milliseconds(KEEP_FIRING));
        let answer: Value = self.run(&script).await?;
        let (portions, held, born): (Vec<u32>, i64, String) = read_as(answer)?;
        let held_for = u64::try_from(held).ok().map(Duration::from_millis);
        Ok(ClaimedPortions { portions, held_for, born: birth(&born) })
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
        holder: LeaseHolder<'_>,
    ) -> Result<(), StoreError> {
        let part = |part| self.key(firing.digest, part);
        let mut script = self.note.key(part("recipients"));
        script.key(part("begun")).key(part("state")).key(self.firing_key(firing)).key(part("done"));
        script.arg(mark(firing)).arg(firing.at.as_second()).arg(holder.owner).arg(milliseconds(holder.lease));
        script.arg(milliseconds(KEEP_RECIPIENTS)).arg(milliseconds(KEEP_FIRING));
        script.arg(holder.portions.len()).arg(published.len()).arg(holder.portions).arg(published).arg(skipped);
        self.run(&script).await
    }

    async fn settle(&self, firing: Firing<'_>, holder: LeaseHolder<'_>, done: bool) -> Result<(), StoreError> {
        let mut script = self.settle.key(self.firing_key(firing));
        script.key(self.key(firing.digest, "begun")).key(self.key(firing.digest, "done"));
        script.arg(mark(firing)).arg(firing.at.as_second()).arg(holder.owner).arg(if done { "done" } else { "free" });
        script.arg(firing.portions).arg(milliseconds(KEEP_FIRING)).arg(holder.portions);
        self.run(&script).await
    }

    async fn remind(&self, digest: &str, reminder: Reminder<'_>, now: Timestamp) -> Result<(), StoreError> {
        let mut script = self.remind.key(self.key(digest, "state"));
        script.key(self.key(digest, "groups")).key(self.key(digest, "begun")).key(self.key(digest, "done"));
        script.arg(now.as_second()).arg(if reminder.paused { "paused" } else { "active" });
        script.arg(reminder.groups.len()).arg(reminder.begun.len());
        for (group, since) in reminder.groups {
            script.arg(group).arg(since.as_second());
        }
        for (group, at) in reminder.begun.iter().chain(reminder.done) {
            script.arg(mark_of(group, *at)).arg(at.as_second());
        }
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
    mark_of(firing.group, firing.at)
}

fn mark_of(group: &str, at: Timestamp) -> String {
    format!("{group}|{}", at.as_second())
}

fn birth(microseconds: &str) -> Option<Timestamp> {
    Timestamp::from_microsecond(microseconds.parse().ok()?).ok()
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
