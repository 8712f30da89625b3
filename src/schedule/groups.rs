//! Recipients with the same zone and time are one group: what is due is worked out per group, not per recipient.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Time;
use tokio::sync::Mutex;
use tracing::warn;

use super::digest::Digest;
use super::occurrence::Schedule;
use super::recipients::{Recipient, Recipients, Source, SourceError};
use super::recollection::Recollection;
use crate::digest_store::DigestStore;

/// More groups are not made: there are some 600 zones, and people choose few times.
const MOST_GROUPS: usize = 10_000;
/// A set of recipients is looked through for new groups this often.
const REFRESH: Duration = Duration::from_secs(60);
/// So many recipients that cannot be read are named, the others only counted.
const NAMED: u64 = 5;

/// Recipients with the same zone and time.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// When they get the digest.
    pub schedule: Schedule,
    zone: Option<String>,
    time: Option<Time>,
}

impl Group {
    /// Whether `recipient` belongs to it.
    pub(super) fn has(&self, recipient: &Recipient) -> bool {
        self.time == recipient.time && self.zone == recipient.timezone
    }
}

/// A digest and the groups that it has at present.
#[derive(Debug)]
pub(super) struct Planned {
    pub digest: Digest,
    known: Mutex<Option<Known>>,
    recollection: Arc<std::sync::Mutex<Recollection>>,
}

#[derive(Debug)]
struct Known {
    groups: Arc<Vec<Group>>,
    stamp: Stamp,
}

/// When the recipients were looked through, as far as it matters.
#[derive(Debug, PartialEq)]
enum Stamp {
    List,
    File(Option<SystemTime>, u64),
    Set(Timestamp),
}

impl Planned {
    /// A digest whose recipients were not looked through yet.
    pub(super) fn new(digest: Digest) -> Self {
        Self { digest, known: Mutex::const_new(None), recollection: Arc::default() }
    }

    /// The same with what `before`, an older definition of the digest, remembers.
    pub(super) fn remembering(self, before: &Self) -> Self {
        Self { recollection: before.recollection.clone(), ..self }
    }

    /// What is remembered of the digest; not to be held across a wait.
    pub(super) fn recollection(&self) -> MutexGuard<'_, Recollection> {
        self.recollection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups; looks the recipients through where that may give others than the last time.
    pub(super) async fn groups(&self, store: &dyn DigestStore, now: Timestamp) -> Result<Arc<Vec<Group>>, SourceError> {
        let stamp = self.stamp(now).await?;
        let mut known = self.known.lock().await;
        if let Some(known) = &*known
            && known.stamp.still_holds(&stamp)
        {
            return Ok(known.groups.clone());
        }
        let groups = Arc::new(groups(&self.digest, store).await?);
        *known = Some(Known { groups: groups.clone(), stamp });
        Ok(groups)
    }

    async fn stamp(&self, now: Timestamp) -> Result<Stamp, SourceError> {
        match &self.digest.recipients {
            Source::List(_) => Ok(Stamp::List),
            Source::Set(_) => Ok(Stamp::Set(now)),
            Source::Csv(path) | Source::Ndjson(path) => match tokio::fs::metadata(path).await {
                Ok(metadata) => Ok(Stamp::File(metadata.modified().ok(), metadata.len())),
                Err(error) => Err(SourceError::File { path: path.clone(), error }),
            },
        }
    }
}

impl Stamp {
    fn still_holds(&self, current: &Self) -> bool {
        match (self, current) {
            // The absolute difference: a clock that was set back must not stop the looking.
            (Self::Set(then), Self::Set(now)) => now.duration_since(*then).unsigned_abs() < REFRESH,
            (then, now) => then == now,
        }
    }
}

async fn groups(digest: &Digest, store: &dyn DigestStore) -> Result<Vec<Group>, SourceError> {
    let mut found: BTreeMap<(Option<String>, Option<Time>), Option<Group>> = BTreeMap::new();
    let mut bad_ones = 0;
    let mut bad = |problem: &dyn std::fmt::Display| {
        bad_ones += 1;
        if bad_ones <= NAMED {
            warn!(digest = digest.name, %problem, "recipient left out");
        }
    };
    let mut recipients = Recipients::open(&digest.recipients, store).await?;
    while let Some(next) = recipients.next().await? {
        let recipient = match next {
            Ok(recipient) => recipient,
            Err(problem) => {
                bad(&problem);
                continue;
            }
        };
        let key = (recipient.timezone.clone(), recipient.time);
        if found.contains_key(&key) {
            continue;
        }
        if found.len() == MOST_GROUPS {
            bad(&format!("there are more than {MOST_GROUPS} different zones and times"));
            continue;
        }
        let group = match digest.schedule_of(&recipient) {
            Ok(schedule) => Some(Group { schedule, zone: key.0.clone(), time: key.1 }),
            Err(problem) => {
                bad(&problem);
                None
            }
        };
        found.insert(key, group);
    }
    if bad_ones > NAMED {
        warn!(digest = digest.name, recipients = bad_ones, "recipients left out");
    }
    Ok(found.into_values().flatten().collect())
}
