//! The digest edge: what schedulers and workers must agree upon about digests: which occurrences are done, who is at
//! work on which part of one, how each recipient's last jobs ended, and what operators said.
//!
//! Two implementations, [`mod@redis`] and [`memory`], pass one contract test suite. Nothing here decides what is due:
//! `schedule` does. Nothing here is needed to fire only once either: a job's id is made from digest, recipient and
//! occurrence, and the same id is never run twice. The store keeps that rare, shares the work out, and remembers.

pub mod memory;
pub mod redis;
mod scripts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job::{Job, JobId};
use crate::key::{digest, encode};

/// The field of a job's metadata that names its occurrence.
pub const METADATA: &str = "agentkit.digest";
/// Ids longer than this (in bytes) end in a hash; a job id has 200 at most.
const LONGEST_ID: usize = 200;
/// A group that was not seen for so long (by the store's clock), while others of its digest were, counts as new when it
/// comes back. Longer than the time between two looks of a scheduler and at the list of recipients.
const ABSENT: Duration = Duration::from_mins(10);
/// Marks of finished occurrences are kept so long beyond the time in which they are looked at. Their age is counted by the
/// clock that is behind, the store's or the looking scheduler's: neither a scheduler that is ahead nor a store that is may
/// have those forgotten that somebody still looks at. Schedulers may differ by this much.
const KEEP_MARKS: Duration = Duration::from_hours(7 * 24);
/// An unfinished occurrence that nobody goes on with is forgotten after this time.
const KEEP_FIRING: Duration = Duration::from_hours(3 * 24);

/// Why the store did not do it: not reached, not in time, or not readable. It may have happened; every operation may be
/// repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest store unavailable: {0}")]
pub struct StoreError(pub String);

/// One recipient's occurrence of a digest: what its job is made for and named after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// [`Digest::name`](crate::schedule::digest::Digest::name).
    pub digest: String,
    /// Whom the job runs for at Scalekit.
    pub recipient: String,
    /// When it was due.
    pub occurrence: Timestamp,
    /// What the recipient's clock showed then.
    pub local: DateTime,
    /// An IANA name such as `Europe/Berlin`.
    pub timezone: String,
}

impl Fired {
    /// `digest:{name}:{recipient}:{local time}`, with `!` and a hash (no encoded name has a `!`) in the recipient's place where it
    /// would be too long.
    pub fn job_id(&self) -> JobId {
        let id = |recipient: &str| format!("digest:{}:{recipient}:{}", encode(&self.digest), self.local);
        let plain = id(&encode(&self.recipient));
        let text = if plain.len() <= LONGEST_ID { plain } else { id(&format!("!{}", digest(&self.recipient, 16))) };
        JobId::new(text).expect("a digest's name has 64 characters at most, so its id fits")
    }

    /// Whether `id` has the form of [`Fired::job_id`].
    pub fn is_id(id: &JobId) -> bool {
        let parts = id.as_str().strip_prefix("digest:").and_then(|rest| rest.split_once(':'));
        let local = parts.and_then(|(_, rest)| rest.split_once(':')).map(|(_, local)| local);
        local.is_some_and(|local| local.parse::<DateTime>().is_ok_and(|time| time.to_string() == local))
    }

    /// What stands in the job's metadata.
    pub fn to_metadata(&self) -> Value {
        serde_json::to_value(self).expect("names and times are JSON")
    }

    /// The occurrence that `job` was made for; `None` for any other job, also for one that only claims to be one.
    pub fn of(job: &Job) -> Option<Self> {
        let fired: Self = serde_json::from_value(job.metadata.get(METADATA)?.clone()).ok()?;
        let genuine = fired.digest.len() <= 64
            && fired.recipient == job.identifier.as_str()
            && job.id.as_ref().is_some_and(|id| *id == fired.job_id());
        genuine.then_some(fired)
    }
}

/// An occurrence of one group of recipients (those with the same expression, zone and time).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firing<'a> {
    /// [`Digest::name`](crate::schedule::digest::Digest::name).
    pub digest: &'a str,
    /// The schedule that its recipients share: cron expression, zone and time of day.
    pub group: &'a str,
    /// When it is due.
    pub at: Timestamp,
    /// Into how many parts its recipients are divided. Parts of another division, from before the definition was changed,
    /// do not count.
    pub portions: u32,
}

/// Marks of occurrences: group and time.
pub type Marks = BTreeSet<(String, Timestamp)>;

/// What the store remembers of a digest over restarts of all schedulers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// When the store began to know the digest. Another time than before means that it lost everything in between.
    pub born: Option<Timestamp>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// The last occurrence of which something was published.
    pub last_fire: Option<Timestamp>,
    /// The last occurrence of which a job completed.
    pub last_success: Option<Timestamp>,
    /// Jobs in a row that did not complete.
    pub failures: u64,
    /// For each group that was asked for: occurrences up to this time are none of ours, because the group was not known
    /// then or the digest not active.
    pub not_before: Vec<Timestamp>,
    /// Occurrences of which something was published.
    pub begun: Marks,
    /// Occurrences that are finished.
    pub done: Marks,
}

/// Parts of a firing that are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedPortions {
    /// Their indexes in the firing, counted from 0, ascending.
    pub portions: Vec<u32>,
    /// Where others hold due parts: when the first of them is free again unless it is done by then.
    pub held_for: Option<Duration>,
    /// As in [`Standing`], at the time of the claim.
    pub born: Option<Timestamp>,
}

/// What a store that lost everything is told of a digest by those who remember.
#[derive(Debug, Clone, Copy)]
pub struct Reminder<'a> {
    /// Groups, and up to when occurrences are none of theirs.
    pub groups: &'a BTreeMap<String, Timestamp>,
    /// Occurrences of which something was published.
    pub begun: &'a Marks,
    /// Occurrences that are finished.
    pub done: &'a Marks,
    /// Whether it was paused.
    pub paused: bool,
}

/// Who holds parts of a firing, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct LeaseHolder<'a> {
    /// Unique at every start of a process.
    pub owner: &'a str,
    /// From now on.
    pub lease: Duration,
    /// The indexes that it claimed, as in [`ClaimedPortions::portions`].
    pub portions: &'a [u32],
}

/// What is remembered of a recipient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The last occurrence that was fired (or left out, as the one before still ran).
    pub fired: Option<Timestamp>,
    /// The latest occurrence whose job completed.
    pub success: Option<Timestamp>,
    /// The last occurrence that was published, while its job has not ended.
    pub running: Option<Timestamp>,
}

/// What is said about a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// No more firings.
    Pause,
    /// Firings again, from now on.
    Resume,
    /// What was due up to now is nobody's; for digests that are not enabled.
    Pass,
}

/// A part of the members of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Some members, possibly some that came before.
    pub members: Vec<Vec<u8>>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// What schedulers and workers share about digests.
#[async_trait]
pub trait DigestStore: Send + Sync {
    /// How `digest` stands, with the marks of occurrences from `from` on. Makes `groups` known, from `now` on where they
    /// are new.
    async fn look(
        &self,
        digest: &str,
        groups: &[String],
        now: Timestamp,
        from: Timestamp,
    ) -> Result<Standing, StoreError>;
    /// Pauses, resumes or passes over; remembered for ever.
    async fn hold(&self, digest: &str, hold: Hold, now: Timestamp) -> Result<(), StoreError>;
    /// Takes up to `most` of the first `due` parts that are neither done nor held. Nothing of a finished occurrence.
    async fn claim(
        &self,
        firing: Firing<'_>,
        due: u32,
        most: usize,
        owner: &str,
        lease: Duration,
    ) -> Result<ClaimedPortions, StoreError>;
    /// What is remembered of each of `recipients`, in their order.
    async fn recall(&self, digest: &str, recipients: &[&str]) -> Result<Vec<Memory>, StoreError>;
    /// Notes that jobs of `published` are with the broker and that `skipped` get none, and renews the holder's leases, also
    /// those that the store has lost.
    async fn note(
        &self,
        firing: Firing<'_>,
        published: &[&str],
        skipped: &[&str],
        holder: LeaseHolder<'_>,
    ) -> Result<(), StoreError>;
    /// Marks the holder's parts as done, or gives them free. A firing without parts left is finished.
    async fn settle(&self, firing: Firing<'_>, holder: LeaseHolder<'_>, done: bool) -> Result<(), StoreError>;
    /// Adds what somebody remembers to what the store knows. The earliest time of a group counts, and a pause only where
    /// nobody has said anything else since.
    async fn remind(&self, digest: &str, reminder: Reminder<'_>, now: Timestamp) -> Result<(), StoreError>;
    /// Notes how a job ended, once however often it is said; answers the digest's failures in a row.
    async fn ended(&self, fired: &Fired, completed: bool) -> Result<u64, StoreError>;
    /// Whether the job of `fired` may ask its user to authorize: the first of its digest and recipient on `day` may, as
    /// often as it likes.
    async fn may_ask(&self, fired: &Fired, day: Date) -> Result<bool, StoreError>;
    /// Some members of the set that others maintain under the very name `set`.
    async fn members(&self, set: &str, from: u64) -> Result<Members, StoreError>;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fired(recipient: &str) -> Fired {
        Fired {
            digest: "morning".into(),
            recipient: recipient.into(),
            occurrence: "2026-03-08T07:00:00Z".parse().unwrap(),
            local: "2026-03-08T03:00:00".parse().unwrap(),
            timezone: "America/New_York".into(),
        }
    }

    #[test]
    fn the_id_is_made_from_digest_recipient_and_local_time() {
        assert_eq!(fired("user_123").job_id().as_str(), "digest:morning:user_123:2026-03-08T03:00:00");
        for name in ["user_123", "a:b", &"é".repeat(100)] {
            assert!(Fired::is_id(&fired(name).job_id()), "{name}");
        }
        for other in [
            "digest:morning:user_123:now:1:ab",
            "digest:morning:2026-03-08T03:00:00",
            "digest:a:b:tomorrow",
            "digest:a:b:2026-03-08",
            "digest",
            "x",
        ] {
            assert!(!Fired::is_id(&JobId::new(other).unwrap()), "{other}");
        }
        assert_eq!(fired("a:b").job_id().as_str(), "digest:morning:a%3Ab:2026-03-08T03:00:00");
    }

    #[test]
    fn hostile_and_long_recipients_never_share_an_id() {
        let long = "é".repeat(100);
        let other = format!("{}e", "é".repeat(99));
        let hashed = format!("!{}", digest(&long, 16));
        let names = ["a:b", "a%3Ab", "a", "a\nb", &long, &other, &hashed];
        let ids: BTreeSet<JobId> = names.iter().map(|name| fired(name).job_id()).collect();
        assert_eq!(ids.len(), names.len());
    }

    #[test]
    fn only_a_job_whose_id_agrees_is_a_digests() {
        let fired = fired("user_123");
        let mut job: Job = serde_json::from_value(json!({
            "id": fired.job_id(), "identifier": "user_123", "connections": ["gmail"], "prompt": "p",
            "metadata": {METADATA: fired.to_metadata()}
        }))
        .unwrap();
        assert_eq!(Fired::of(&job), Some(fired));
        job.id = JobId::new("forged");
        assert_eq!(Fired::of(&job), None);
        for metadata in [json!(null), json!([]), json!({METADATA: 1}), json!({METADATA: {"digest": "x"}})] {
            job.metadata = metadata;
            assert_eq!(Fired::of(&job), None);
        }
    }
}
