//! A run in a worker's hands: its state, its journal, and the right to go on with it.

use std::sync::Arc;

use tracing::{debug, warn};

use super::audited::{audited, unwritten};
use super::interruption::Interruption;
use super::lease::Lease;
use crate::agent::conclusion;
use crate::agent::event::{Entry, Event, Started};
use crate::agent::run::Run;
use crate::agent::turn::Conclusion;
use crate::audit::{Audit, AuditRecord, Unwritten};
use crate::clock::SharedClock;
use crate::journal::index::Indexed;
use crate::journal::{JournalError, Remains};
use crate::reply::Reply;
use crate::retry::{Policy, RetryDecision, retry};
use crate::standing::{RunState, StandingSince};
use crate::worker::message::wake_up::{Reason, WakeUp};
use crate::worker::rules::Lifetimes;

/// Appends that fail for want of the store are repeated for about a second; repeating the very same append is safe.
const APPEND: Policy =
    Policy { attempts: 5, initial_milliseconds: 100, max_milliseconds: 800, max_retry_after_milliseconds: 0 };

/// A run that this worker claimed.
pub(crate) struct LeasedRun {
    lease: Arc<Lease>,
    clock: SharedClock,
    lifetimes: Lifetimes,
    /// Boxed: it is moved from hand to hand.
    run: Box<Run>,
    /// The entries that are noted, and behind them what is being appended: an append may be left in its middle.
    lines: Vec<String>,
    /// How many entries are noted: they happened to the run, and are not in the journal yet.
    noted: usize,
    audit: Audit,
    /// What of the noted entries goes into the audit record.
    unrecorded: Vec<AuditRecord>,
    /// As what lists have the run.
    listed: Listed,
}

/// What is kept of a run.
enum Kept {
    /// All of it, for as long as a wait can last.
    Unfinished,
    /// All of it for a while, and these lines for longer.
    Remains(Vec<String>),
    /// All of it for that longer time.
    Whole,
}

/// As what lists have a run.
#[derive(Debug, Clone, Copy)]
enum Listed {
    /// Whoever had it before may have died before they were told.
    Perhaps(RunState),
    /// We have told them.
    As(RunState),
}

impl LeasedRun {
    /// A run as it stands in the journal.
    pub(crate) fn new(lease: Arc<Lease>, clock: SharedClock, lifetimes: Lifetimes, audit: Audit, run: Run) -> Self {
        let (lines, unrecorded, listed) = (Vec::new(), Vec::new(), Listed::Perhaps(run.standing().0));
        Self { lease, clock, lifetimes, run: Box::new(run), lines, noted: 0, audit, unrecorded, listed }
    }

    /// A run that has no journal yet: it and what is `first` are journalled in one step, before anything else happens.
    pub(crate) async fn start(
        lease: Arc<Lease>,
        clock: SharedClock,
        lifetimes: Lifetimes,
        audit: Audit,
        started: Started,
        first: Vec<Event>,
    ) -> Result<Self, Interruption> {
        let at = clock.now();
        let mut leased = Self::new(lease, clock, lifetimes, audit, Run::start(started.clone(), at));
        leased.lines.push(line(&Entry::new(at, Event::Started(Box::new(started)))));
        leased.noted = 1;
        leased.record(first).await?;
        Ok(leased)
    }

    /// The same run where only what remains of it was found: a journal begins with that again, as soon as something is
    /// recorded. `None` where somebody else has taken the run.
    pub(crate) async fn of_remains(&self) -> Result<Option<Self>, Interruption> {
        let Some((lease, lines)) = self.lease.claim_again().await? else { return Ok(None) };
        let run = Run::replay(&lines).map_err(|error| Interruption::Damaged(error.to_string()))?;
        let Some(run) = run else { return Ok(None) };
        let noted = lines.len();
        Ok(Some(Self { lines, noted, ..Self::new(lease, self.clock.clone(), self.lifetimes, self.audit.clone(), run) }))
    }

    /// The run's state.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The right to go on with it.
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The clock that entries are dated by.
    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Proves that `events` may follow what happened before, journals them in one step, and before them what was noted, then
    /// applies them. What may not follow never reaches the journal.
    pub(crate) async fn record(&mut self, events: Vec<Event>) -> Result<(), Interruption> {
        let entries = self.proven(events)?;
        self.record_for_audit(&entries).await?;
        let standing = self.run.standing_after(&entries);
        self.append(self.kept(&entries)?, standing).await?;
        self.listed = Listed::As(standing.0);
        self.lines.clear();
        self.noted = 0;
        self.apply(entries)
    }

    /// Applies `events`, which are journalled together with what is recorded next: nothing may leave before that. Of what
    /// happens twice where the worker dies in between, nothing is more than reading.
    pub(crate) fn note(&mut self, events: Vec<Event>) -> Result<(), Interruption> {
        let entries = self.proven(events)?;
        let records = self.audited(&entries);
        self.unrecorded.extend(records);
        self.noted = self.lines.len();
        self.apply(entries)
    }

    /// Before the journal has them: no entry is without its line, and no call leaves without one. What has happened is not
    /// held up by a record that cannot be written.
    async fn record_for_audit(&mut self, entries: &[Entry]) -> Result<(), Interruption> {
        let records: Vec<_> = std::mem::take(&mut self.unrecorded).into_iter().chain(self.audited(entries)).collect();
        let unwritten = unwritten(&records);
        match self.audit.record(records, unwritten).await {
            Err(error) if unwritten == Unwritten::Drop => Err(Interruption::Unrecorded(error.to_string())),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn audited(&self, entries: &[Entry]) -> Vec<AuditRecord> {
        if self.audit.is_on() { audited(&self.run, self.run.sequence(), entries) } else { Vec::new() }
    }

    /// The entries, in lines behind those that are noted.
    fn proven(&mut self, events: Vec<Event>) -> Result<Vec<Entry>, Interruption> {
        self.run.check(&events).map_err(|error| Interruption::Illegal(error.to_string()))?;
        let at = self.clock.now();
        let entries: Vec<Entry> = events.into_iter().map(|event| Entry::new(at, event)).collect();
        self.lines.truncate(self.noted);
        self.lines.extend(entries.iter().map(line));
        Ok(entries)
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Interruption> {
        for entry in entries {
            debug!(event = entry.event.name(), "journalled");
            self.run.apply(entry).map_err(|error| Interruption::Damaged(error.to_string()))?;
        }
        Ok(())
    }

    /// Journals `first` and the run's end in one step, so that none of them stands alone; returns the reply.
    pub(crate) async fn conclude(
        &mut self,
        first: Vec<Event>,
        conclusion: Conclusion,
    ) -> Result<Box<Reply>, Interruption> {
        self.note(first)?;
        let reply = Box::new(conclusion::reply(&self.run, conclusion, self.clock.now()));
        self.record(vec![Event::Finished(reply.clone())]).await?;
        Ok(reply)
    }

    /// What a message of the run says of it.
    pub(crate) fn wake_up(&self, generation: u32, reason: Reason) -> WakeUp {
        let says = WakeUp::of_run(&self.run, generation, reason);
        // The journal is no longer than that.
        WakeUp { entries: says.entries.map(|entries| entries - self.noted as u64), ..says }
    }

    /// Journals that the run's reply is delivered, and gives the run free in the same step.
    pub(crate) async fn seal(&mut self) -> Result<(), Interruption> {
        self.lease.let_go();
        self.record(vec![Event::Delivered]).await
    }

    /// Gives the run free at once, so that its next message does not have to wait for the lease to run out.
    pub(crate) async fn release(&self) {
        self.lease.release().await;
    }

    /// What is kept once these are appended: where they end the run, or say something of one that has ended, less than all.
    fn kept(&self, entries: &[Entry]) -> Result<Kept, Interruption> {
        let delivered = entries.iter().find(|entry| entry.event == Event::Delivered).map(|end| end.at);
        let reopened = entries.iter().any(|entry| entry.event == Event::Reopened);
        let remains = match (delivered, self.run.reply()) {
            (Some(end), _) => self.run.remains(end),
            (None, Some(reply)) if self.run.is_delivered() && !reopened => {
                let mut run = self.run.clone();
                for entry in entries {
                    run.apply(entry.clone()).map_err(|error| Interruption::Damaged(error.to_string()))?;
                }
                run.remains(reply.time)
            }
            _ => return Ok(Kept::Unfinished),
        };
        let Lifetimes { delivered, sealed, .. } = self.lifetimes;
        Ok(match remains.filter(|_| sealed > delivered) {
            Some(entries) => Kept::Remains(entries.iter().map(line).collect()),
            None => Kept::Whole,
        })
    }

    /// Appends the lines, and keeps what remains of a run that has ended.
    async fn append(&self, kept: Kept, standing: StandingSince) -> Result<(), Interruption> {
        let Lifetimes { unfinished, delivered, sealed, .. } = self.lifetimes;
        let (retain, remains) = match &kept {
            Kept::Unfinished => (unfinished, None),
            Kept::Remains(lines) => (delivered, Some(Remains { entries: lines, retain: sealed })),
            Kept::Whole => (delivered.max(sealed), None),
        };
        let decide = |error: &JournalError| match error {
            JournalError::Unavailable(_) => RetryDecision::Again,
            JournalError::OwnershipLost | JournalError::Lost | JournalError::Decrypt(_) => RetryDecision::Stop,
        };
        let notice = |error: &JournalError, attempt, _| warn!(%error, attempt, "an append to the journal is repeated");
        let sequence = self.run.sequence() - self.noted as u64;
        let index = Some(self.indexed(standing));
        let append = || self.lease.append(sequence, &self.lines, retain, remains, index);
        retry(APPEND, decide, notice, append).await.map_err(Interruption::from)
    }

    fn indexed(&self, (state, since): StandingSince) -> Indexed<'_> {
        let Lifetimes { unfinished, delivered, sealed, .. } = self.lifetimes;
        let known_as = match self.listed {
            // Told again, in case they were not.
            Listed::Perhaps(before) => Some(before).filter(|before| *before != state),
            Listed::As(before) => Some(before),
        };
        let keep = if state.is_ended() { delivered.max(sealed) } else { unfinished };
        Indexed { identifier: &self.run.job().identifier, state, since, known_as, keep }
    }
}

fn line(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("entries are JSON types only")
}
