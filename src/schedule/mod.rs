//! Digests: jobs that are due at times of the day, for many recipients, each exactly once.
//!
//! Any number of schedulers do the same thing without a leader: look which occurrences of the last while are not done,
//! claim parts of them, publish ordinary jobs, note them. What makes a job unique is its id, made from digest, recipient
//! and local time; the store ([`crate::digest_store`]) shares the work out and makes repetitions rare.

mod audience;
pub mod by_hand;
pub mod digest;
mod firing;
mod groups;
pub mod occurrence;
pub mod plan;
mod problems;
pub mod recipients;
mod recollection;
mod template;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use digest::{BadDigests, Digest};
pub use firing::{Counts, FireError};

use crate::audit::Audit;
use crate::clock::SharedClock;
use crate::digest_store::{DigestStore, Hold, LeaseHolder, Standing, StoreError};
use crate::metrics::Metrics;
use crate::queue::Publisher;
use groups::{Group, Planned};
use plan::{Mark, due_portions, to_fire};
use recollection::Recollection;

/// A scheduler looks at its digests at least this often: clocks are set, and other schedulers die.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);
/// After something did not work it is tried again after this time.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// So many missed occurrences of one group are caught up with at most.
const MOST_MISSED: usize = 100;
/// So many jobs in a row that did not complete are worth a warning.
const FAILURES_TO_WARN: u64 = 3;

/// What a scheduler is told.
#[derive(Debug, Clone)]
pub struct Rules {
    /// This process, unique at every start: owner of claims.
    pub owner: String,
    /// How long a claim lasts unless renewed; each batch renews it.
    pub lease: Duration,
    /// How long a digest's job waits for its user at most, where its definition does not say.
    pub authorization_wait: Duration,
}

/// Fires digests.
#[derive(Clone)]
pub struct Scheduler {
    /// What all schedulers share.
    pub store: Arc<dyn DigestStore>,
    /// Takes the jobs.
    pub publisher: Arc<dyn Publisher>,
    /// Judges when occurrences are due.
    pub clock: SharedClock,
    /// Counts firings, and shows when each digest last fired and succeeded.
    pub metrics: Arc<Metrics>,
    /// Who claims, for how long, and how long jobs wait for their users.
    pub rules: Rules,
    /// Told to stop: firings end their batch and give their claims back.
    pub stop: CancellationToken,
    /// The present set of digests.
    pub digests: Arc<Digests>,
    /// Of what is done to them by hand.
    pub audit: Audit,
}

/// A set of digests that can be replaced while it is in use.
#[derive(Debug, Default)]
pub struct Digests {
    directory: Option<PathBuf>,
    present: Mutex<Vec<Arc<Planned>>>,
    changed: Notify,
}

impl Digests {
    /// Those of a directory.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn of_directory(directory: PathBuf) -> Result<Self, BadDigests> {
        let digests = Self::new(digest::load(&directory)?);
        Ok(Self { directory: Some(directory), ..digests })
    }

    /// These, for good.
    pub fn new(digests: Vec<Digest>) -> Self {
        let present = digests.into_iter().map(|digest| Arc::new(Planned::new(digest))).collect();
        Self { directory: None, present: Mutex::new(present), changed: Notify::new() }
    }

    /// Reads the directory again. Where anything in it is wrong the old set stays.
    pub fn reload(&self) -> Result<usize, BadDigests> {
        let Some(directory) = &self.directory else { return Ok(self.present().len()) };
        let digests = digest::load(directory)?;
        let count = digests.len();
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = digests.into_iter().map(|digest| {
            let before = present.iter().find(|planned| planned.digest.name == digest.name);
            let planned = Planned::new(digest);
            Arc::new(match before {
                Some(before) => planned.remembering(before),
                None => planned,
            })
        });
        *present = planned.collect();
        self.changed.notify_one();
        Ok(count)
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        self.present().iter().map(|planned| planned.digest.name.clone()).collect()
    }

    /// They, as they are defined, in order.
    pub fn definitions(&self) -> Vec<Digest> {
        self.present().iter().map(|planned| planned.digest.clone()).collect()
    }

    fn present(&self) -> Vec<Arc<Planned>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Scheduler {
    /// Fires until told to stop. Each digest has a loop of its own, so a large one delays no other. A stop and a new set wait
    /// for the batches that are under way, so that nothing is published without a note.
    pub async fn run(&self) {
        info!(digests = self.digests.names().join(", "), "digests are scheduled");
        while !self.stop.is_cancelled() {
            let turn = Self { stop: self.stop.child_token(), ..self.clone() };
            let present = self.digests.present();
            let loops = futures_util::future::join_all(present.iter().map(|planned| turn.keep(planned)));
            let end = async {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.digests.changed.notified() => {
                        info!(digests = self.digests.names().join(", "), "digests were read again");
                        turn.stop.cancel();
                    }
                }
            };
            tokio::join!(loops, end);
        }
    }

    /// Does once for every digest what is due now; answers when there is something to do again.
    pub async fn step(&self) -> Timestamp {
        let present = self.digests.present();
        let nexts = futures_util::future::join_all(present.iter().map(|planned| self.look(planned))).await;
        nexts.into_iter().min().unwrap_or(Timestamp::MAX)
    }

    async fn keep(&self, planned: &Planned) {
        while !self.stop.is_cancelled() {
            let next = self.look(planned).await;
            let wait = Duration::try_from(next.duration_since(self.clock.now())).unwrap_or(Duration::ZERO);
            let wait = tokio::time::sleep(wait.clamp(Duration::from_millis(10), LOOK_AT_LEAST));
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = wait => {}
            }
        }
    }

    /// Does what is due of one digest; answers when to look again.
    async fn look(&self, planned: &Planned) -> Timestamp {
        let now = self.clock.now();
        match self.fire_due(planned, now).await {
            Ok(next) => next,
            Err(FireError::Stopped) => now + AGAIN,
            Err(FireError::Forgotten) => now,
            Err(error) => {
                warn!(digest = planned.digest.name, %error, "the digest is tried again");
                self.metrics.digest_fired(&planned.digest.name, "failed");
                now + AGAIN
            }
        }
    }

    async fn fire_due(&self, planned: &Planned, now: Timestamp) -> Result<Timestamp, FireError> {
        let digest = &planned.digest;
        if !digest.enabled {
            self.store.hold(&digest.name, Hold::Pass, now).await?;
            // What passes by now must not be remembered as due.
            *planned.recollection() = Recollection::default();
            return Ok(Timestamp::MAX);
        }
        let groups = planned.groups(&*self.store, now).await?;
        if groups.is_empty() {
            return Ok(Timestamp::MAX);
        }
        let keys: Vec<String> = groups.iter().map(|group| group.schedule.key().to_owned()).collect();
        let back = SignedDuration::try_from(digest.window + digest.spread).unwrap_or(SignedDuration::MAX);
        let from = now.saturating_sub(back).unwrap_or(Timestamp::MIN);
        let standing = self.store.look(&digest.name, &keys, now, from).await?;
        if planned.recollection().contradicts(standing.born) {
            warn!(digest = digest.name, "the store has lost everything; it is told what is remembered");
            self.remind(planned, now, standing.born).await?;
            // The others look within this time, and tell what they have done.
            return Ok(now + SignedDuration::try_from(LOOK_AT_LEAST).unwrap_or(AGAIN));
        }
        planned.recollection().hear(&keys, &standing, from);
        self.metrics.digest_stands(&digest.name, standing.last_fire, standing.last_success, standing.failures);
        if standing.paused {
            return Ok(Timestamp::MAX);
        }
        let mut next = Timestamp::MAX;
        for (index, group) in groups.iter().enumerate() {
            let from = standing.not_before.get(index).copied().unwrap_or(now).max(from);
            next = next.min(self.fire_group(planned, group, &standing, from, now).await?);
        }
        Ok(next)
    }

    /// Parts first: once the store knows the groups again, what it does not know as done is due.
    async fn remind(&self, planned: &Planned, now: Timestamp, born: Option<Timestamp>) -> Result<(), StoreError> {
        let digest = &planned.digest;
        let recollection = planned.recollection().clone();
        for (firing, portions) in recollection.parts(&digest.name) {
            let holder = LeaseHolder { owner: &self.rules.owner, lease: self.rules.lease, portions: &portions };
            self.store.settle(firing, holder, true).await?;
        }
        self.store.remind(&digest.name, recollection.reminder(), now).await?;
        planned.recollection().told(born);
        Ok(())
    }

    async fn fire_group(
        &self,
        planned: &Planned,
        group: &Group,
        standing: &Standing,
        from: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, FireError> {
        let digest = &planned.digest;
        let occurrences = group.schedule.between(from, now, MOST_MISSED);
        let mark = |occurrence: &occurrence::Occurrence| {
            let mark = (group.schedule.key().to_owned(), occurrence.at);
            match (standing.done.contains(&mark), standing.begun.contains(&mark)) {
                (true, _) => Mark::Done,
                (false, true) => Mark::Begun,
                (false, false) => Mark::Untouched,
            }
        };
        let mut next = group.schedule.next_after(now).map_or(Timestamp::MAX, |next| next.at);
        for occurrence in to_fire(digest.missed, digest.spread, &occurrences, mark, now) {
            if mark(&occurrence) == Mark::Untouched {
                warn_of_failures(&digest.name, standing);
            }
            let (due, later) = due_portions(occurrence.at, digest.spread, digest.portions, now);
            next = next.min(later.unwrap_or(Timestamp::MAX));
            if let Some(wait) = self.fire(planned, group, occurrence, due).await? {
                let wait = SignedDuration::try_from(wait).unwrap_or(AGAIN);
                next = next.min(now.saturating_add(wait).unwrap_or(Timestamp::MAX));
            }
        }
        Ok(next)
    }
}

/// A digest whose last firing had no job that completed is broken, and nobody may have noticed.
fn warn_of_failures(digest: &str, standing: &Standing) {
    if standing.failures >= FAILURES_TO_WARN && standing.last_success < standing.last_fire {
        let last_success = standing.last_success.map_or_else(|| "never".to_owned(), |at| at.to_string());
        warn!(digest, failures = standing.failures, last_success, "every job of this digest fails");
    }
}
