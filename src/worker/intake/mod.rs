//! From a delivery to a run in our hands: is it due, is it a job, whose is the run, how far has it come.

mod admit;
mod admitted;
mod claim;
mod decide;
mod hand_on;
mod look;
mod look_at_approvals;
mod lost_journal;
mod occurrence;
mod read;
mod suspects;
mod whose;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, error_span, field, info, warn};

use self::decide::{Found, Next, SUSPECT_WAIT, Situation, decide};
pub(crate) use self::suspects::Suspects;
use self::suspects::{Alone, is_poison, is_suspect, unread};
use super::message::in_flight_delivery::InFlightDelivery;
use super::message::posting::Posting;
use super::message::witness::witness;
use super::resources::admission::Admission;
use super::rules::{Defaults, WorkerRules};
use super::run::Executor;
use super::run::attempt_trace::AttemptTrace;
use super::run::interruption::Interruption;
use super::run::lease::Lease;
use super::run::leased_run::LeasedRun;
use super::run::revocation::Revocations;
use super::settle::Settler;
use super::settle::disposition::{
    Budgets, Deferral, Disposition, End, JOURNAL_WAIT, Undeliverable, after_interruption,
};
use crate::agent::event::{Event, Loss, SCHEMA_VERSION, Started};
use crate::agent::run::{BadJournal, Run};
use crate::agent::turn::Conclusion;
use crate::clock::{SharedClock, milliseconds_between};
use crate::digest_store::Fired;
use crate::job::Job;
use crate::journal::{Claim, Journal};
use crate::metrics::Metrics;
use crate::queue::{Delivery, Destination};

/// Takes deliveries and brings them to their end.
pub(crate) struct Intake {
    pub(crate) executor: Executor,
    pub(crate) settler: Settler,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rules: Arc<WorkerRules>,
    pub(crate) admission: Admission,
    pub(crate) defaults: Defaults,
    pub(crate) revocations: Revocations,
    pub(crate) suspects: Suspects,
    pub(crate) stop: CancellationToken,
    /// Counts the claims, so that each has a name.
    pub(crate) claims: AtomicU64,
}

impl Intake {
    /// Deals with one delivery from beginning to end; when it returns, the delivery is settled.
    pub(crate) async fn handle(&self, delivery: Delivery) {
        let mut delivery = self.in_flight(delivery);
        if let Some(posting) = Posting::of(delivery.message(), &self.rules.header_key) {
            return self.settler.post(delivery, posting).await;
        }
        let now = self.clock.now();
        if let Some(remaining) = delivery.wake_up().and_then(|wake_up| wake_up.remaining(now)) {
            let deferral = Deferral::NotDue { remaining };
            return self.settler.settle(delivery, None, Disposition::Defer(deferral)).await;
        }
        let suspect = is_suspect(&delivery);
        let alone = if suspect { self.suspects.alone().await } else { None };
        if suspect && alone.is_none() {
            let deferral = Deferral::HandedOn { to: Destination::Wait(SUSPECT_WAIT) };
            return self.settler.settle(delivery, None, Disposition::Defer(deferral)).await;
        }
        let read = match is_poison(&delivery) {
            true => {
                let unread = Box::new(self.answerable(delivery.message(), unread(&delivery)));
                Err(Box::new(Disposition::DeadLetter(Undeliverable::NotAJob(unread))))
            }
            false => self.read(&mut delivery).await,
        };
        match read {
            Ok(job) => {
                let job = Arc::new(job);
                let id = job.id();
                // On the level of errors, so that it stands beside every line, however few are wanted.
                let span = error_span!("job", job.id = %id, job.producer = id.producer(), job.identifier = %job.identifier, job.attempt = field::Empty);
                // Boxed: a large future is moved about otherwise, once for each of thousands of jobs.
                let handled = AssertUnwindSafe(Box::pin(self.handle_job(&job, delivery, alone))).catch_unwind();
                let handled = async {
                    if let Err(panic) = handled.await {
                        // Dropped unsettled, the message went back to the queue.
                        error!(
                            panic = panic_message(&*panic),
                            "handling the message panicked; please report this fault"
                        );
                    }
                };
                handled.instrument(span).await;
            }
            Err(disposition) => self.settler.settle(delivery, None, *disposition).await,
        }
    }

    fn in_flight(&self, mut delivery: Delivery) -> InFlightDelivery {
        delivery.message = self.rules.senders.believed(std::mem::take(&mut delivery.message), &self.rules.header_key);
        InFlightDelivery::new(delivery, self.rules.hold_at_most, &self.rules.header_key)
    }

    async fn handle_job(&self, job: &Arc<Job>, delivery: InFlightDelivery, alone: Option<Alone>) {
        self.note_received(job, &delivery);
        let _admitted = match self.admitted(job, &delivery).await {
            Ok(permits) => permits,
            Err(disposition) => return self.settler.settle(delivery, Some(job), *disposition).await,
        };
        if let Some(disposition) = self.before_the_claim(job, &delivery).await {
            return self.settler.settle(delivery, Some(job), disposition).await;
        }
        match self.claim(&job.id(), &delivery).await {
            Ok((owner, asked, Claim::Granted { token, entries })) => {
                let length = self.rules.lifetimes.lease;
                let lease = Lease::new(self.journal.clone(), job.id(), owner, token, length, asked);
                self.go_on_while_ours(lease, &entries, job, delivery, alone).await;
            }
            Ok((_, _, Claim::Held { owner, remaining })) => {
                info!(owner, "the run is alive elsewhere");
                let run = self.run_elsewhere(&job.id()).await;
                self.go_without(job, delivery, Found::LiveOwner { remaining, run: run.as_ref() }).await;
            }
            Err(why) => self.go_without(job, delivery, why.found()).await,
        }
    }

    fn note_received(&self, job: &Job, delivery: &InFlightDelivery) {
        if delivery.wake_up().is_some() {
            return;
        }
        if let Some(published) = delivery.message().properties.timestamp {
            #[expect(clippy::cast_precision_loss, reason = "a message does not wait for 2^53 ms")]
            let seconds = milliseconds_between(published, self.clock.now()) as f64 / 1000.0;
            self.metrics.queue_waited(seconds);
        }
        info!(redelivered = delivery.was_redelivered(), derived_id = job.has_derived_id(), "job received");
        debug!(user = %job.identifier, "whose job it is");
    }

    /// The run is not ours.
    async fn go_without(&self, job: &Job, delivery: InFlightDelivery, found: Found<'_>) {
        let digest = job.digest();
        if let Next::Settle(disposition) = decide(self.situation(job, &digest, &delivery, false), found) {
            self.settler.settle(delivery, Some(job), disposition).await;
        }
    }

    /// Goes on with the run that `lines` tell of, and keeps the lease meanwhile.
    async fn go_on_while_ours(
        &self,
        lease: Arc<Lease>,
        lines: &[String],
        job: &Arc<Job>,
        delivery: InFlightDelivery,
        alone: Option<Alone>,
    ) {
        tokio::select! {
            biased;
            () = self.go_on(lease.clone(), lines, job, delivery, alone) => {}
            () = lease.keep(&self.revocations) => {}
        }
    }

    async fn go_on(
        &self,
        lease: Arc<Lease>,
        lines: &[String],
        job: &Arc<Job>,
        mut delivery: InFlightDelivery,
        alone: Option<Alone>,
    ) {
        let digest = job.digest();
        let replayed = Run::replay(lines);
        let founded = delivery.learn_what_is_founded(&digest, &replayed);
        let suspect = matches!(&replayed, Ok(Some(run)) if run.is_crash_suspect(self.rules.crash_limit));
        let alone = if suspect && alone.is_none() { self.suspects.alone().await } else { alone };
        let problem = replayed.as_ref().err().map(ToString::to_string);
        let found = match (&replayed, &problem) {
            (Ok(run), _) if !founded => Found::Unfounded { run: run.as_ref() },
            (Ok(Some(run)), _) => Found::Run(run),
            (Ok(None), _) => Found::NoJournal { lost: self.journal_was_lost(&delivery).await },
            (Err(BadJournal::Newer { found }), _) => {
                warn!(found, ours = SCHEMA_VERSION, "the journal is a newer worker's; left untouched");
                Found::NewerJournal
            }
            (Err(_), problem) => Found::Damaged(problem.as_deref().unwrap_or_default()),
        };
        let next = decide(self.situation(job, &digest, &delivery, alone.is_some()), found);
        let run = replayed.ok().flatten().map(|run| self.leased(lease.clone(), run));
        match (next, run) {
            (Next::Begin { loss, end }, _) => self.begin(lease, job, delivery, loss, end, alone).await,
            (Next::Resume { first, end }, Some(run)) => self.resume(run, job, delivery, first, end, alone).await,
            (Next::Settle(disposition), Some(run)) => self.settle(run, job, delivery, disposition).await,
            (Next::Settle(disposition), None) => {
                lease.release().await;
                self.settler.settle(delivery, Some(job), disposition).await;
            }
            (Next::Resume { .. }, None) => {
                let disposition = Disposition::Requeue { end: None };
                self.settler.settle(delivery, Some(job), disposition).await;
            }
        }
    }

    fn leased(&self, lease: Arc<Lease>, run: Run) -> LeasedRun {
        LeasedRun::new(lease, self.clock.clone(), self.rules.lifetimes, self.rules.audit.clone(), run)
    }

    /// A run without a journal: a new one, or one whose journal the store lost.
    async fn begin(
        &self,
        lease: Arc<Lease>,
        job: &Arc<Job>,
        delivery: InFlightDelivery,
        loss: Option<Loss>,
        end: Option<Conclusion>,
        alone: Option<Alone>,
    ) {
        let started = self.defaults.started(job, &self.executor.llm.config().model);
        let operators = self.is_operators(job, &delivery);
        let (journal_lost, writes_lost) = (loss.is_some(), loss == Some(Loss::Writes));
        let started = Started { journal_lost, writes_lost, operators, ..started };
        if journal_lost {
            self.say_journal_lost(&delivery);
        }
        // Nothing is decided between the two: in one step, unless the run ends before its first attempt.
        let first = if end.is_none() { vec![self.attempt_started(false)] } else { Vec::new() };
        let (clock, lifetimes, audit) = (self.clock.clone(), self.rules.lifetimes, self.rules.audit.clone());
        match LeasedRun::start(lease.clone(), clock, lifetimes, audit, started, first).await {
            Ok(run) if end.is_none() => {
                // Only the message was suspect: from now on its run's journal tells.
                drop(alone);
                self.work(run, job, delivery, None).await;
            }
            Ok(run) => self.resume(run, job, delivery, Vec::new(), end, alone).await,
            Err(error) => {
                let disposition = match error {
                    Interruption::OwnershipLost => Disposition::Requeue { end: None },
                    error => {
                        warn!(%error, "the job waits for the journal");
                        lease.release().await;
                        Disposition::Defer(Deferral::same(JOURNAL_WAIT))
                    }
                };
                self.settler.settle(delivery, Some(job), disposition).await;
            }
        }
    }

    /// A run that is ours: `first` is journalled, then it goes on, unless it has come to its `end`.
    async fn resume(
        &self,
        mut run: LeasedRun,
        job: &Arc<Job>,
        delivery: InFlightDelivery,
        first: Vec<Event>,
        end: Option<Conclusion>,
        alone: Option<Alone>,
    ) {
        if first.iter().any(|event| matches!(event, Event::JournalLost | Event::EndLost { .. })) {
            self.say_journal_lost(&delivery);
        }
        let recorded = match end {
            None if first.is_empty() => Ok(None),
            None => run.record(first).await.map(|()| None),
            // Together: a run that knows of its loss and not of its end would go on.
            Some(conclusion) => run.conclude(first, conclusion).await.map(Some),
        };
        match recorded {
            Ok(None) => self.attempt(run, job, delivery, alone).await,
            Ok(Some(reply)) => self.settle(run, job, delivery, Disposition::Finish(End::Journalled(reply))).await,
            Err(why) => self.interrupted(run, job, delivery, &why).await,
        }
    }

    /// Begins a further attempt of a run.
    async fn attempt(&self, mut run: LeasedRun, job: &Arc<Job>, delivery: InFlightDelivery, alone: Option<Alone>) {
        let suspect = alone.is_some() && run.run().is_crash_suspect(self.rules.crash_limit);
        let recorded = run.record(vec![self.attempt_started(suspect)]).await;
        // Where only the message was suspect, the run's journal tells from now on.
        let alone = alone.filter(|_| suspect);
        match recorded {
            Ok(()) => self.work(run, job, delivery, alone).await,
            Err(why) => self.interrupted(run, job, delivery, &why).await,
        }
    }

    fn attempt_started(&self, alone: bool) -> Event {
        Event::AttemptStarted { worker: self.rules.name.clone(), alone }
    }

    /// Goes on with a run that is ours, in an attempt that is journalled.
    async fn work(&self, mut run: LeasedRun, job: &Arc<Job>, delivery: InFlightDelivery, alone: Option<Alone>) {
        let (id, message, ended) = (job.id(), delivery.message().clone(), CancellationToken::new());
        let (witness, testimonies) = witness();
        Span::current().record("job.attempt", run.run().attempts());
        let mut traced = AttemptTrace::begin(&self.executor.tracer, &message, run.run());
        // Boxed: the future of a run is about 16 KB, and only runs under way shall take it.
        let attempt = Box::pin(async {
            let _alone = alone;
            let lease = run.lease().clone();
            tokio::select! {
                biased;
                result = self.executor.execute(&mut run, &message, &witness, &self.stop, &traced.span) => result,
                lost = lease.lost() => Err(lost),
            }
        });
        let attempt = async {
            // However it ends.
            let _ended = ended.clone().drop_guard();
            AssertUnwindSafe(attempt).catch_unwind().await
        };
        let (result, delivery) = tokio::join!(attempt, self.settler.hold(delivery, &id, testimonies, &ended));
        traced.end(run.run(), result.as_ref().ok());
        match result {
            Ok(Ok(reply)) => self.settle(run, job, delivery, Disposition::Finish(End::Journalled(reply))).await,
            Ok(Err(why)) => self.interrupted(run, job, delivery, &why).await,
            Err(panic) => {
                let why = Interruption::Panicked(panic_message(&*panic).to_owned());
                error!(%why, "this is a fault of the worker; please report it");
                self.interrupted(run, job, delivery, &why).await;
            }
        }
    }

    async fn interrupted(&self, run: LeasedRun, job: &Arc<Job>, delivery: InFlightDelivery, why: &Interruption) {
        if *why == Interruption::JournalLost {
            return self.decide_anew(run, job, delivery).await;
        }
        let disposition = after_interruption(why, Budgets::of(run.run(), &self.rules));
        info!(why = why.outline(), disposition = disposition.outline(), "run interrupted");
        debug!(%why, ?disposition, "in the words that there are");
        self.settle(run, job, delivery, disposition).await;
    }

    /// Settles the message of a run of ours.
    async fn settle(&self, run: LeasedRun, job: &Arc<Job>, delivery: InFlightDelivery, disposition: Disposition) {
        if let Some((delivery, run)) = self.settler.settle_run(delivery, job, run, disposition).await {
            self.decide_anew(run, job, delivery).await;
        }
    }

    fn situation<'a>(&self, job: &Job, digest: &'a str, delivery: &'a InFlightDelivery, alone: bool) -> Situation<'a> {
        Situation {
            wake_up: delivery.wake_up(),
            delivered_before: Some(delivery.delivered_before())
                .filter(|count| *count > 0 || delivery.was_redelivered()),
            digest,
            is_occurrence: Fired::of(job).is_some(),
            now: self.clock.now(),
            stopping: self.stop.is_cancelled(),
            crash_limit: self.rules.crash_limit,
            alone,
            after_loss: self.rules.after_loss,
            orphan_wait: self.orphan_wait(),
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
