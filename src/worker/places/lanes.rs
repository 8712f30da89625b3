//! What this process knows of the jobs that were put aside: what it put there itself, and what a look has shown. Others put
//! jobs there and take them as well, so it is never all, and what is wrong in it costs a question to the broker.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::flow::Flow;
use crate::job::Priority;
use crate::queue::Lane;

/// Keys that are noted of a lane, and jobs of many keys: who puts more there cannot make this process remember them all.
const MOST_KEYS: usize = 100;
const MOST_ARRIVALS: usize = 100_000;

/// All lanes.
#[derive(Debug, Default)]
pub(super) struct KnownLanes([KnownLane; Lane::COUNT]);

/// What is known of one lane.
#[derive(Debug, Default)]
pub(super) struct KnownLane {
    /// Jobs of these keys that were put there by this process, as far as it has not taken as many.
    keys: HashMap<Arc<str>, usize>,
    /// When those came that this process put into a lane of many keys, the oldest first.
    arrivals: VecDeque<u64>,
    /// Whose job was taken last, since the last look.
    last: Option<Arc<str>>,
    /// Whether there may be jobs in it.
    pub(super) filled: bool,
    /// So many are being taken.
    pub(super) taking: usize,
}

impl KnownLane {
    /// Whose jobs may come out of it, as far as that is known.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        let last = self.last.as_ref().filter(|_| self.keys.is_empty());
        self.keys.keys().chain(last)
    }

    /// When the oldest came of those that are in a lane of many keys, as far as that is known: before all that are not.
    pub(super) fn oldest(&self) -> u64 {
        self.arrivals.front().copied().unwrap_or(0)
    }

    fn forget(&mut self) {
        *self = Self { taking: self.taking, ..Self::default() };
    }
}

impl KnownLanes {
    /// Each lane with what is known of it.
    pub(super) fn each(&self) -> impl Iterator<Item = (Lane, &KnownLane)> {
        Lane::all().zip(&self.0)
    }

    /// A job is put aside whose key has few; it came then.
    pub(super) fn put_of_many(&mut self, priority: Priority, arrival: u64) -> Lane {
        let lane = Lane::of_many(priority);
        let arrivals = &mut self.0[lane.index()].arrivals;
        if arrivals.len() < MOST_ARRIVALS {
            arrivals.push_back(arrival);
        }
        lane
    }

    /// A job is put aside whose key has many: into the lane that has jobs of its key already, else into one that has nobody's,
    /// so that few keys share one. Where all do, the key decides, and each process finds the same.
    pub(super) fn put(&mut self, flow: &Flow) -> Lane {
        let lanes = Lane::of_few(flow.priority);
        let mut hasher = DefaultHasher::new();
        flow.key.hash(&mut hasher);
        let first = usize::try_from(hasher.finish() % lanes.len() as u64).unwrap_or_default();
        let in_turn = || lanes.clone().cycle().skip(first).take(lanes.len());
        let has_it = in_turn().find(|lane| self.0[lane.index()].keys.contains_key(&flow.key));
        let has_nobody_s = || in_turn().find(|lane| self.0[lane.index()].keys.is_empty());
        let lane = has_it.or_else(has_nobody_s).or_else(|| in_turn().next());
        let lane = lane.unwrap_or_else(|| unreachable!("each priority has lanes"));
        let known = &mut self.0[lane.index()];
        if known.keys.len() < MOST_KEYS || known.keys.contains_key(&flow.key) {
            *known.keys.entry(flow.key.clone()).or_default() += 1;
        }
        lane
    }

    /// A job has come into `lane`.
    pub(super) fn has_come(&mut self, lane: Lane) {
        self.0[lane.index()].filled = true;
    }

    /// A job is being taken out of `lane`.
    pub(super) fn take(&mut self, lane: Lane) {
        self.0[lane.index()].taking += 1;
    }

    /// It was of this key, or there was none.
    pub(super) fn took(&mut self, lane: Lane, key: Option<&Arc<str>>) {
        let known = &mut self.0[lane.index()];
        known.taking = known.taking.saturating_sub(1);
        let Some(key) = key else {
            return known.forget();
        };
        known.arrivals.pop_front();
        known.last = Some(key.clone());
        if let Some(count) = known.keys.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                known.keys.remove(key);
            }
        }
    }

    /// A look has shown that these hold jobs, and the others none.
    pub(super) fn looked(&mut self, filled: &[Lane]) {
        for (lane, known) in Lane::all().zip(&mut self.0) {
            if filled.contains(&lane) {
                // Whoever it was may be held back by a cap, and another's job be next.
                (known.filled, known.last) = (true, None);
            } else if !std::mem::replace(&mut known.filled, false) {
                // Twice: what was put there a moment ago may have come after the look.
                known.forget();
            }
        }
    }

    /// Whether jobs of this flow were put aside, as far as that is known.
    pub(super) fn has(&self, flow: &Flow) -> bool {
        Lane::of_few(flow.priority).any(|lane| self.0[lane.index()].keys.contains_key(&flow.key))
    }

    /// Whether there may be jobs in any.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|known| known.filled)
    }

    /// So many are being taken out of all.
    pub(super) fn taking(&self) -> usize {
        self.0.iter().map(|known| known.taking).sum()
    }
}
