//! The worker: deliveries come in by one door ([`intake`]) and leave by one ([`settle`]); what is between is the run
//! ([`run`]). A room uses the rooms before it: `message`, `resources`, `run`, `settle`, `intake`, `places`; `control`
//! stands beside.

pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod fairness;
pub(crate) mod intake;
pub(crate) mod message;
pub(crate) mod places;
pub(crate) mod resources;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod settle;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use self::fairness::FairnessConfig;
use self::intake::{Intake, Suspects};
use self::places::filling::Filling;
use self::resources::admission::Admission;
use self::rules::{Defaults, WorkerRules};
use self::run::Executor;
use self::run::revocation::Revocations;
use self::settle::Settler;
use crate::clock::SharedClock;
use crate::journal::Journal;
use crate::queue::{Backlog, Consumer, DeadLetterQueue, Delivery, Destination, Holder, Publisher};

/// A delivery that finds no place is kept for so long: the place may be free by then, and nobody need have it.
const SURPLUS_WAIT: Duration = Duration::from_millis(200);

/// Urgent runs under way at the same time, beyond `concurrency` others.
pub(crate) fn urgent_places(concurrency: usize) -> usize {
    (concurrency / 10).max(1)
}

/// Takes jobs and brings them to their end.
pub(crate) struct Worker {
    intake: Arc<Intake>,
    backlog: Arc<dyn Backlog>,
    fairness: FairnessConfig,
    dead_letters: Arc<dyn DeadLetterQueue>,
    tracker: TaskTracker,
}

/// What a worker is made of.
pub(crate) struct Parts {
    /// Does the runs.
    pub(crate) executor: Executor,
    /// How far the runs are.
    pub(crate) journal: Arc<dyn Journal>,
    /// Replies, wake-ups and dead letters.
    pub(crate) publisher: Arc<dyn Publisher>,
    /// Messages that stand for runs under way.
    pub(crate) holder: Arc<dyn Holder>,
    /// Jobs that were put aside.
    pub(crate) backlog: Arc<dyn Backlog>,
    /// Between whom places are shared.
    pub(crate) fairness: FairnessConfig,
    /// What was given up, by the broker too.
    pub(crate) dead_letters: Arc<dyn DeadLetterQueue>,
    pub(crate) clock: SharedClock,
    pub(crate) rules: WorkerRules,
    /// What jobs leave open.
    pub(crate) defaults: Defaults,
    /// Told to stop: runs end their step and give their message back.
    pub(crate) stop: CancellationToken,
    /// All runs under way.
    pub(crate) tracker: TaskTracker,
}

impl Worker {
    /// A worker that takes nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { executor, journal, publisher, holder, backlog, fairness, dead_letters, clock, .. } = parts;
        let Parts { rules, defaults, stop, tracker, .. } = parts;
        let (rules, metrics) = (Arc::new(rules), executor.metrics.clone());
        let admission = Admission {
            senders: rules.senders.clone(),
            publisher: publisher.clone(),
            llm: executor.llm.clone(),
            poster: executor.poster.clone(),
        };
        let settler = Settler {
            journal: journal.clone(),
            publisher,
            holder,
            parked: executor.parked.clone(),
            poster: executor.poster.clone(),
            digests: executor.digests.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            tracer: executor.tracer.clone(),
            rules: rules.clone(),
            stop: stop.clone(),
            exchanged: watch::Sender::new(0),
        };
        let (revocations, suspects, claims) = (Revocations::default(), Suspects::default(), AtomicU64::new(0));
        let intake = Intake {
            executor,
            settler,
            journal,
            clock,
            metrics,
            rules,
            admission,
            defaults,
            revocations,
            suspects,
            stop,
            claims,
        };
        Self { intake: Arc::new(intake), backlog, fairness, dead_letters, tracker }
    }

    /// Consumes until told to stop; runs that are under way then are waited for by whoever holds the tracker. What is urgent
    /// has a tenth as many places of its own, so that it waits neither for other jobs nor for their places.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Box<dyn Consumer>, mut urgent: Option<Box<dyn Consumer>>) {
        let rules = &self.intake.rules;
        // Made before the first job: a job that is older than the data lost its journal.
        self.intake.data_began().await;
        info!(worker = rules.name, concurrency = rules.concurrency, "worker takes jobs");
        let filling = Filling {
            intake: self.intake.clone(),
            tracker: self.tracker.clone(),
            backlog: self.backlog.clone(),
            fairness: self.fairness.clone(),
        };
        let consume_urgent = async {
            match &mut urgent {
                Some(urgent) => {
                    self.consume(&mut **urgent, urgent_places(rules.concurrency), Destination::Urgent).await;
                }
                None => std::future::pending().await,
            }
        };
        let beside = async {
            tokio::select! {
                () = consume_urgent => {}
                () = self.intake.revocations.watch(&*self.intake.journal) => {}
                () = self.intake.settler.watch_dead_letters(&*self.dead_letters) => {}
            }
        };
        {
            let mut fill = Box::pin(filling.fill(&mut *consumer));
            tokio::select! {
                () = &mut fill => {}
                // Told to stop, it gives back those that wait.
                () = beside => if self.intake.stop.is_cancelled() { fill.await },
            }
        }
        info!(worker = rules.name, "worker takes no more jobs");
        consumer.stop().await;
        if let Some(mut urgent) = urgent {
            urgent.stop().await;
        }
    }

    /// A delivery that comes although no place is free: runs whose deliveries were exchanged have the places, and another
    /// worker may have one.
    async fn surplus(&self, consumer: &mut dyn Consumer) -> Option<Delivery> {
        self.intake.settler.has_exchanged().await;
        consumer.next().await
    }

    async fn consume(self: &Arc<Self>, consumer: &mut dyn Consumer, places: usize, lane: Destination) {
        let stop = &self.intake.stop;
        let places = Arc::new(Semaphore::new(places));
        loop {
            let place = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
                delivery = self.surplus(consumer) => {
                    let Some(delivery) = delivery else { break };
                    // One at a time and after a moment: a fleet that is full must not send its backlog round and round.
                    let place = tokio::select! {
                        biased;
                        place = places.clone().acquire_owned() => place.ok(),
                        () = stop.cancelled() => None,
                        () = tokio::time::sleep(SURPLUS_WAIT) => None,
                    };
                    match place {
                        Some(place) => self.start(delivery, place),
                        None => {
                            // On its own: the broker may take its time.
                            let (worker, lane) = (self.clone(), lane.clone());
                            self.tracker.spawn(async move { worker.intake.hand_on(delivery, lane).await });
                        }
                    }
                    continue;
                }
            };
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(delivery) = delivery else { break };
            self.start(delivery, place);
        }
    }

    fn start(self: &Arc<Self>, delivery: Delivery, place: OwnedSemaphorePermit) {
        let (worker, in_flight) = (self.clone(), self.intake.metrics.job_in_flight());
        self.tracker.spawn(async move {
            worker.intake.handle(delivery).await;
            drop((place, in_flight));
        });
    }
}
