//! Digests in this process's memory, for the embedded mode: gone with the process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::{
    ABSENT, ClaimedPortions, DigestStore, Fired, Firing, Hold, KEEP_MARKS, LeaseHolder, Marks, Members, Memory,
    Reminder, Standing, StoreError,
};
use crate::clock::{SharedClock, after};

/// What one process knows of digests, and sets of recipients.
#[derive(Debug)]
pub struct MemoryDigestStore {
    clock: SharedClock,
    digests: Mutex<HashMap<String, State>>,
    sets: Mutex<HashMap<String, Vec<Vec<u8>>>>,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    floor: Option<Timestamp>,
    looked: Option<Timestamp>,
    /// Since when each is known, and when it was last seen by our own clock.
    groups: HashMap<String, (Timestamp, Timestamp)>,
    firings: HashMap<(String, Timestamp, u32), BTreeMap<u32, Portion>>,
    recipients: HashMap<String, Record>,
}

#[derive(Debug, PartialEq)]
enum Portion {
    Held { owner: String, until: Timestamp },
    Done,
}

#[derive(Debug, Default)]
struct Record {
    memory: Memory,
    ended: Option<Timestamp>,
    asked: Option<(Date, Timestamp)>,
}

impl MemoryDigestStore {
    /// An empty store whose leases run by `clock`.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, digests: Mutex::default(), sets: Mutex::default() }
    }

    /// Sets the members of a set of recipients.
    pub fn set_members(&self, set: &str, members: Vec<Vec<u8>>) {
        lock(&self.sets).insert(set.to_owned(), members);
    }

    #[expect(clippy::unnecessary_wraps, reason = "every method of the trait gives a result")]
    fn with<T>(&self, digest: &str, change: impl FnOnce(&mut State, Timestamp) -> T) -> Result<T, StoreError> {
        let now = self.clock.now();
        Ok(change(lock(&self.digests).entry(digest.to_owned()).or_default(), now))
    }
}

#[async_trait]
impl DigestStore for MemoryDigestStore {
    async fn look(
        &self,
        digest: &str,
        groups: &[String],
        now: Timestamp,
        from: Timestamp,
    ) -> Result<Standing, StoreError> {
        self.with(digest, |state, clock| {
            if !groups.is_empty() {
                state.standing.born.get_or_insert(clock);
                state.see(groups, now, clock);
                let back = now.duration_since(from).saturating_add(signed(KEEP_MARKS));
                state.forget(clock.min(now).saturating_sub(back).unwrap_or(Timestamp::MIN));
            }
            let floor = state.floor.unwrap_or(Timestamp::MIN);
            let not_before = groups.iter().map(|group| state.groups[group].0.max(floor)).collect();
            let recent = |marks: &Marks| marks.iter().filter(|(_, at)| *at >= from).cloned().collect();
            Standing {
                not_before,
                begun: recent(&state.standing.begun),
                done: recent(&state.standing.done),
                ..state.standing
            }
        })
    }

    async fn hold(&self, digest: &str, hold: Hold, now: Timestamp) -> Result<(), StoreError> {
        self.with(digest, |state, _| {
            state.floor = Some(now);
            match hold {
                Hold::Pause => state.standing.paused = true,
                Hold::Resume => state.standing.paused = false,
                Hold::Pass => {}
            }
        })
    }

    async fn claim(
        &self,
        firing: Firing<'_>,
        due: u32,
        most: usize,
        owner: &str,
        lease: Duration,
    ) -> Result<ClaimedPortions, StoreError> {
        self.with(firing.digest, |state, now| {
            let mut claim = ClaimedPortions { portions: Vec::new(), held_for: None, born: state.standing.born };
            if state.standing.done.contains(&mark(firing)) {
                return claim;
            }
            let parts = state.firings.entry(division(firing)).or_default();
            for portion in 0..due {
                match parts.get(&portion) {
                    Some(Portion::Done) => {}
                    Some(Portion::Held { owner: other, until }) if *until > now && other != owner => {
                        let left = until.duration_since(now).unsigned_abs();
                        claim.held_for = Some(claim.held_for.map_or(left, |held| held.min(left)));
                    }
                    _ if claim.portions.len() < most => {
                        parts.insert(portion, Portion::Held { owner: owner.to_owned(), until: after(now, lease) });
                        claim.portions.push(portion);
                    }
                    _ => {}
                }
            }
            claim
        })
    }

    async fn recall(&self, digest: &str, recipients: &[&str]) -> Result<Vec<Memory>, StoreError> {
        self.with(digest, |state, _| {
            let memory = |recipient: &&str| state.recipients.get(*recipient).map(|record| record.memory);
            recipients.iter().map(|recipient| memory(recipient).unwrap_or_default()).collect()
        })
    }

    async fn note(
        &self,
        firing: Firing<'_>,
        published: &[&str],
        skipped: &[&str],
        holder: LeaseHolder<'_>,
    ) -> Result<(), StoreError> {
        self.with(firing.digest, |state, now| {
            let at = firing.at;
            for recipient in published.iter().chain(skipped) {
                state.record(recipient).memory.fired = Some(at);
            }
            for recipient in published {
                let record = state.record(recipient);
                if record.ended != Some(at) {
                    record.memory.running = Some(at);
                }
            }
            if !published.is_empty() {
                state.standing.last_fire = state.standing.last_fire.max(Some(at));
            }
            if state.standing.done.contains(&mark(firing)) {
                return;
            }
            state.standing.begun.insert(mark(firing));
            let parts = state.firings.entry(division(firing)).or_default();
            for portion in holder.portions {
                let until = after(now, holder.lease);
                let ours = Portion::Held { owner: holder.owner.to_owned(), until };
                match parts.entry(*portion).or_insert(ours) {
                    Portion::Held { owner, until: lease } if owner == holder.owner => *lease = until,
                    _ => {}
                }
            }
        })
    }

    async fn settle(&self, firing: Firing<'_>, holder: LeaseHolder<'_>, done: bool) -> Result<(), StoreError> {
        self.with(firing.digest, |state, _| {
            if state.standing.done.contains(&mark(firing)) {
                return;
            }
            let parts = state.firings.entry(division(firing)).or_default();
            if !done {
                let ours = |part: &Portion| matches!(part, Portion::Held { owner, .. } if owner == holder.owner);
                parts.retain(|portion, part| !(holder.portions.contains(portion) && ours(part)));
                return;
            }
            parts.extend(holder.portions.iter().map(|portion| (*portion, Portion::Done)));
            let finished = parts.values().filter(|part| **part == Portion::Done).count();
            if finished < firing.portions as usize {
                state.standing.begun.insert(mark(firing));
            } else {
                state.firings.remove(&division(firing));
                state.standing.begun.remove(&mark(firing));
                state.standing.done.insert(mark(firing));
            }
        })
    }

    async fn remind(&self, digest: &str, reminder: Reminder<'_>, now: Timestamp) -> Result<(), StoreError> {
        self.with(digest, |state, clock| {
            if reminder.paused && state.floor.is_none() {
                state.standing.paused = true;
                state.floor = Some(now);
            }
            let standing = &mut state.standing;
            standing.done.extend(reminder.done.iter().cloned());
            standing.begun.extend(reminder.begun.iter().cloned());
            standing.begun.retain(|mark| !standing.done.contains(mark));
            for (group, since) in reminder.groups {
                let (first, _) = state.groups.entry(group.clone()).or_insert((*since, clock));
                *first = (*first).min(*since);
            }
        })
    }

    async fn ended(&self, fired: &Fired, completed: bool) -> Result<u64, StoreError> {
        self.with(&fired.digest, |state, _| {
            let at = Some(fired.occurrence);
            let record = state.record(&fired.recipient);
            if record.ended != at {
                record.ended = at;
                record.memory.running = record.memory.running.filter(|running| Some(*running) != at);
                if completed {
                    record.memory.success = record.memory.success.max(at);
                    state.standing.last_success = state.standing.last_success.max(at);
                    state.standing.failures = 0;
                } else {
                    state.standing.failures += 1;
                }
            }
            state.standing.failures
        })
    }

    async fn may_ask(&self, fired: &Fired, day: Date) -> Result<bool, StoreError> {
        self.with(&fired.digest, |state, _| {
            let record = state.record(&fired.recipient);
            let asked = record.asked.is_some_and(|(asked, by)| asked == day && by != fired.occurrence);
            if !asked {
                record.asked = Some((day, fired.occurrence));
            }
            !asked
        })
    }

    async fn members(&self, set: &str, from: u64) -> Result<Members, StoreError> {
        const PART: usize = 1000;
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let sets = lock(&self.sets);
        let rest = sets.get(set).and_then(|members| members.get(start..)).unwrap_or_default();
        let members: Vec<Vec<u8>> = rest.iter().take(PART).cloned().collect();
        let next = (rest.len() > PART).then(|| from + PART as u64);
        Ok(Members { members, next })
    }
}

impl State {
    fn see(&mut self, groups: &[String], now: Timestamp, clock: Timestamp) {
        if self.standing.paused {
            self.floor = Some(now);
        }
        let looked = self.looked.unwrap_or(clock);
        for group in groups {
            let known = self
                .groups
                .get(group)
                .filter(|(_, seen)| *seen >= looked.saturating_sub(signed(ABSENT)).unwrap_or(Timestamp::MIN));
            let first = known.map_or(now, |(first, _)| (*first).min(now));
            self.groups.insert(group.clone(), (first, clock));
        }
        self.looked = Some(looked.max(clock));
    }

    fn forget(&mut self, old: Timestamp) {
        self.standing.begun.retain(|(_, at)| *at >= old);
        self.standing.done.retain(|(_, at)| *at >= old);
        self.firings.retain(|(_, at, _), _| *at >= old);
    }

    fn record(&mut self, recipient: &str) -> &mut Record {
        self.recipients.entry(recipient.to_owned()).or_default()
    }
}

fn mark(firing: Firing<'_>) -> (String, Timestamp) {
    (firing.group.to_owned(), firing.at)
}

fn division(firing: Firing<'_>) -> (String, Timestamp, u32) {
    (firing.group.to_owned(), firing.at, firing.portions)
}

fn signed(wait: Duration) -> SignedDuration {
    SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
