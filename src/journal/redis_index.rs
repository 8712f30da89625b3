//! The index of runs in Redis: for all runs, and for those of each user, a sorted set for each state, by the time of the
//! last change.
//!
//! Where the server takes scripts over several slots, the append itself changes the sets. A cluster does not: there they are
//! changed right after it. What a crash in between leaves behind is put right by the run's next worker, or by whoever
//! lists it. Sets are trimmed by the age and the number of their runs, now and then, and expire.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Script, cmd};
use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::index::{FoundRun, Head, Indexed, RunCursor, RunPage, RunQuery};
use super::milliseconds;
use super::scripts::{INDEX, INDEX_ALONE};
use crate::job::{Identifier, JobId};
use crate::key::encode;
use crate::redis_client::{RedisClient, Unavailable};
use crate::standing::{RunRow, RunState};

/// Runs whose journals are asked beyond those of a page, before it is shown shorter than it could be.
const MOST_LOOKS: usize = 1000;
/// So long a run waits for a part of a cluster that has the index, and so long none does after it had to be given up.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SPARED: Duration = Duration::from_secs(5);
/// What was found in the wrong place is kept in the right one for so long at least.
const REPAIRED: Duration = Duration::from_hours(24 * 40);

/// The sets of all workers that share a Redis and a key prefix.
#[derive(Debug)]
pub(super) struct RedisIndex {
    client: RedisClient,
    most_runs: u64,
    alone: Script,
    /// Whether one script may change a run and the sets.
    together: AtomicBool,
    /// Where it is told apart and failed lately, it is left alone until then.
    spared_until: Mutex<Option<Instant>>,
}

/// A run as a set has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    place: RunCursor,
    state: RunState,
}

/// One set, from the run that changed last on.
struct Source {
    key: String,
    state: RunState,
    read: usize,
    waiting: VecDeque<Candidate>,
    is_over: bool,
}

impl RedisIndex {
    pub(super) fn new(client: RedisClient, most_runs: u64) -> Self {
        let together = AtomicBool::new(!client.is_cluster());
        Self {
            client,
            most_runs,
            alone: Script::new(&[INDEX, INDEX_ALONE].concat()),
            together,
            spared_until: Mutex::default(),
        }
    }

    /// Whether one script may change a run and the sets.
    pub(super) fn is_together(&self) -> bool {
        self.together.load(Ordering::Relaxed)
    }

    /// Says that the server takes no script over several slots.
    pub(super) fn split(&self) {
        self.together.store(false, Ordering::Relaxed);
    }

    pub(super) fn most_runs(&self) -> u64 {
        self.most_runs
    }

    /// The sets that it goes into, of all and of its user, and those that it leaves, where it is known in any.
    pub(super) fn sets(&self, indexed: &Indexed<'_>) -> Vec<String> {
        let into = self.both(indexed.state, indexed.identifier);
        let from = indexed.known_as.map(|state| self.both(state, indexed.identifier));
        into.into_iter().chain(from.into_iter().flatten()).collect()
    }

    fn both(&self, state: RunState, identifier: &Identifier) -> [String; 2] {
        [self.set(state, None), self.set(state, Some(identifier))]
    }

    /// The sets of a user are in one slot, and those of all are.
    fn set(&self, state: RunState, identifier: Option<&Identifier>) -> String {
        let of = match identifier {
            Some(identifier) => self.client.tagged_key("index:of", identifier.as_str()),
            None => self.client.tagged_key("index", "all"),
        };
        format!("{of}:{}", encode(state.as_str()))
    }

    /// Changes the sets alone, one by one: a cluster serves no two keys of a slot that moves while one of them is missing.
    /// Where that fails the index is late, and no run waits for it for a while.
    pub(super) async fn tell(&self, job: &JobId, indexed: &Indexed<'_>) {
        if self.spared_until().is_some_and(|until| Instant::now() < until) {
            return;
        }
        let sets = self.sets(indexed);
        let (into, from) = sets.split_at(2);
        let enters = try_join_all(into.iter().map(|set| async move {
            let mut script = self.alone.key(set);
            script.arg(indexed.since.as_millisecond()).arg(milliseconds(indexed.keep)).arg(self.most_runs);
            self.client.run::<()>(script.arg(job.key())).await
        }));
        let leaves = try_join_all(
            from.iter().map(|set| async move { self.client.query::<()>(cmd("ZREM").arg(set).arg(job.key())).await }),
        );
        let told = tokio::time::timeout(LONGEST_WAIT, async { tokio::try_join!(enters, leaves) }).await;
        let error = match told {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        warn!(job.id = %job, error, "the index of runs is late until the run goes on or is looked for");
        *self.spared() = Some(Instant::now() + SPARED);
    }

    fn spared_until(&self) -> Option<Instant> {
        *self.spared()
    }

    fn spared(&self) -> MutexGuard<'_, Option<Instant>> {
        self.spared_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a run out of all sets.
    pub(super) async fn leave(&self, job: &JobId, identifier: &Identifier) -> Result<(), Unavailable> {
        for set in RunState::ALL.iter().flat_map(|state| self.both(*state, identifier)) {
            self.client.query::<()>(cmd("ZREM").arg(set).arg(job.key())).await?;
        }
        Ok(())
    }

    /// Takes the runs of a user out of all sets, but for `left`; says how many there were.
    pub(super) async fn erase(
        &self,
        identifier: &Identifier,
        left: &BTreeSet<JobId>,
        for_real: bool,
    ) -> Result<u64, Unavailable> {
        let mut found = 0;
        for state in RunState::ALL {
            let [of_all, of_user] = self.both(state, identifier);
            let members: Vec<String> = self.client.query(cmd("ZRANGE").arg(&of_user).arg(0).arg(-1)).await?;
            for member in members {
                if JobId::from_key(&member).is_some_and(|job| left.contains(&job)) {
                    continue;
                }
                found += 1;
                if for_real {
                    // That of the user last: it tells who is still to be removed.
                    self.client.query::<()>(cmd("ZREM").arg(&of_all).arg(&member)).await?;
                    self.client.query::<()>(cmd("ZREM").arg(&of_user).arg(&member)).await?;
                }
            }
        }
        Ok(found)
    }

    /// The runs that are asked for, each as its journal tells it.
    pub(super) async fn list(&self, query: &RunQuery) -> Result<RunPage, Unavailable> {
        let identifier = query.identifier.as_ref();
        let mut sources: Vec<Source> =
            query.states().into_iter().map(|state| Source::new(self.set(state, identifier), state)).collect();
        let (most, mut looks, mut last) = (query.rows(), 0, None);
        let (mut runs, mut seen) = (Vec::new(), HashSet::new());
        while runs.len() < most && looks < most + MOST_LOOKS {
            let mut batch = Vec::new();
            while batch.len() < most - runs.len() {
                let Some(candidate) = self.next(&mut sources, query).await? else { break };
                batch.push(candidate);
            }
            let Some(end) = batch.last() else {
                return Ok(RunPage { runs, next: None });
            };
            (looks, last) = (looks + batch.len(), Some(end.place.clone()));
            for (candidate, truth) in batch.iter().zip(join_all(batch.iter().map(|one| self.truth(one))).await) {
                let Some(run) = truth? else {
                    self.forget(candidate, identifier).await;
                    continue;
                };
                if let FoundRun::Certain(row) = &run {
                    self.repair(candidate, row).await;
                    if !query.wants(row) {
                        continue;
                    }
                }
                if seen.insert(candidate.place.1.clone()) {
                    runs.push(run);
                }
            }
        }
        let more = self.next(&mut sources, query).await?.is_some();
        Ok(RunPage { runs, next: last.filter(|_| more) })
    }

    /// The one that changed last of all that are left.
    async fn next(&self, sources: &mut [Source], query: &RunQuery) -> Result<Option<Candidate>, Unavailable> {
        let empty = sources.iter_mut().filter(|source| source.waiting.is_empty() && !source.is_over);
        try_join_all(empty.map(|source| source.fill(&self.client, query))).await?;
        let first = sources.iter_mut().max_by(|one, other| one.waiting.front().cmp(&other.waiting.front()));
        Ok(first.and_then(|source| source.waiting.pop_front()))
    }

    async fn truth(&self, candidate: &Candidate) -> Result<Option<FoundRun>, Unavailable> {
        match JobId::from_key(&candidate.place.1) {
            Some(job) => self.find(&job).await,
            None => Ok(None),
        }
    }

    /// How a run stands, as its journal or what remains of that tells it.
    pub(super) async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, Unavailable> {
        for kind in ["run", "sealed"] {
            let key = self.client.tagged_key(kind, job.key());
            let (head, length): (Option<String>, Option<u64>) =
                self.client.query(cmd("HMGET").arg(&key).arg("row").arg("length")).await?;
            if head.is_none() && length.is_none() {
                continue;
            }
            let head = head.as_deref().and_then(Head::parse);
            let said = head.filter(|head| kind == "sealed" || head.length == length.unwrap_or(0));
            let row = said.and_then(|head| head.row(job.clone()));
            return Ok(Some(row.map_or_else(|| FoundRun::Unsaid(job.clone()), FoundRun::Certain)));
        }
        Ok(None)
    }

    /// One that is in the wrong place goes to the right one.
    async fn repair(&self, candidate: &Candidate, row: &RunRow) {
        let RunRow { id, identifier, state, at } = row;
        if (*state, at.as_millisecond()) == (candidate.state, candidate.place.0) {
            return;
        }
        let known_as = (candidate.state != *state).then_some(candidate.state);
        debug!(job.id = %id, "the index of runs was late");
        self.tell(id, &Indexed { identifier, state: *state, since: *at, known_as, keep: REPAIRED }).await;
    }

    /// Whose journal's time is over.
    async fn forget(&self, candidate: &Candidate, identifier: Option<&Identifier>) {
        let mut remove = cmd("ZREM");
        remove.arg(self.set(candidate.state, identifier)).arg(&candidate.place.1);
        if let Err(error) = self.client.query::<()>(&remove).await {
            debug!(%error, "a run whose time is over stays in the index");
        }
    }
}

impl Source {
    fn new(key: String, state: RunState) -> Self {
        Self { key, state, read: 0, waiting: VecDeque::new(), is_over: false }
    }

    /// Reads on, up to the first that is behind the cursor.
    async fn fill(&mut self, client: &RedisClient, query: &RunQuery) -> Result<(), Unavailable> {
        let until = query.cursor.as_ref().map_or_else(|| "+inf".to_owned(), |cursor| cursor.0.to_string());
        let since = query.since.map_or_else(|| "-inf".to_owned(), |since| ceiling(since).to_string());
        while self.waiting.is_empty() && !self.is_over {
            let mut range = cmd("ZREVRANGEBYSCORE");
            range.arg(&self.key).arg(&until).arg(&since).arg("WITHSCORES");
            range.arg("LIMIT").arg(self.read).arg(query.rows());
            let read: Vec<(String, f64)> = client.query(&range).await?;
            self.read += read.len();
            self.is_over = read.len() < query.rows();
            let candidates = read.into_iter().map(|(id, at)| {
                #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds, far below 2^53")]
                let place = RunCursor(at as i64, id);
                Candidate { place, state: self.state }
            });
            self.waiting
                .extend(candidates.filter(|one| query.cursor.as_ref().is_none_or(|cursor| one.place < *cursor)));
        }
        Ok(())
    }
}

/// In milliseconds, rounded up: rows are cut to the millisecond.
fn ceiling(at: Timestamp) -> i64 {
    at.as_millisecond() + i64::from(at.subsec_nanosecond() % 1_000_000 != 0)
}
