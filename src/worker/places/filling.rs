//! Gives places to jobs: from the job queue through the window, and from the lanes of those that were put aside.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::flow::Flow;
use super::order::{FreePlace, Order};
use crate::job::Priority;
use crate::queue::{Backlog, Consumer, Delivery, Destination, Lane, Look, QueueError};
use crate::worker::fairness::FairnessConfig;
use crate::worker::intake::Intake;

/// How often it is looked whether others have put jobs aside, while there is a place for one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever waits in the window is looked at so often.
const SWEEP_EVERY: Duration = Duration::from_millis(200);
/// A delivery that finds no room in the window is kept for so long: the place may be free by then, and nobody need have it.
const SURPLUS_WAIT: Duration = Duration::from_millis(200);
/// A delivery waits in the window for so long before another worker may have it.
const WINDOW_WAIT: Duration = Duration::from_secs(2);

/// Fills the places of a worker.
pub(crate) struct Filling {
    /// Where a job goes that has a place.
    pub(crate) intake: Arc<Intake>,
    /// All runs under way.
    pub(crate) tracker: TaskTracker,
    /// Jobs that were put aside.
    pub(crate) backlog: Arc<dyn Backlog>,
    /// Between whom places are shared.
    pub(crate) fairness: FairnessConfig,
}

/// A delivery in the window.
struct Waiter {
    delivery: Delivery,
    came: Instant,
    /// When it is looked at again.
    due: Instant,
    /// Whether it came although there was no room.
    surplus: bool,
    /// Whether others of its flow wait as well, as of the last look at it.
    crowd: bool,
}

/// What the broker was asked, and its answer.
enum Answer {
    Looked(Result<Look, QueueError>),
    Took(Lane, Result<Option<Box<Delivery>>, QueueError>),
}

/// What happened meanwhile.
enum Happening {
    /// A run of this key has ended, after so many milliseconds.
    Ended(Arc<str>, u64),
    /// A job has come into this lane.
    PutAside(Lane),
}

/// A run's place; it is free again when this is dropped.
struct Place {
    key: Arc<str>,
    since: Instant,
    told: mpsc::UnboundedSender<Happening>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody listens any more once the worker has stopped.
        let milliseconds = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let _ = self.told.send(Happening::Ended(self.key.clone(), milliseconds));
    }
}

/// The places of one worker while it works.
struct Present<'a> {
    filling: &'a Filling,
    order: Order<Waiter>,
    told: mpsc::UnboundedSender<Happening>,
    asked: FuturesUnordered<BoxFuture<'a, Answer>>,
    look: Look,
    looking: bool,
    look_due: Instant,
    failing: bool,
}

impl Filling {
    /// Gives places to jobs until told to stop; then those that wait go back.
    pub(crate) async fn fill(&self, consumer: &mut dyn Consumer) {
        let (told, mut happenings) = mpsc::unbounded_channel();
        let mut present = Present::new(self, told);
        let stop = &self.intake.stop;
        let mut tick = Instant::now();
        loop {
            present.start();
            present.count();
            let (wants, takes_surplus) = (present.wants(), present.order.waiting() <= self.intake.rules.window);
            let next = async {
                if !wants {
                    // The broker sends no more than this worker has room for, unless runs whose deliveries were exchanged
                    // have places.
                    self.intake.settler.has_exchanged().await;
                }
                consumer.next().await
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(happening) = happenings.recv() => present.happened(&happening),
                Some(answer) = present.asked.next(), if !present.asked.is_empty() => present.answered(answer),
                () = tokio::time::sleep_until(tick) => {
                    present.sweep();
                    present.look();
                    tick = Instant::now() + if present.order.waiting() > 0 { SWEEP_EVERY } else { LOOK_EVERY };
                }
                delivery = next, if wants || takes_surplus => {
                    let Some(delivery) = delivery else { break };
                    present.arrived(delivery, !wants);
                    tick = tick.min(Instant::now() + SWEEP_EVERY);
                }
            }
        }
        present.stop().await;
    }

    /// On its own: the broker may take its time.
    fn put(&self, delivery: Delivery, to: Destination) {
        let intake = self.intake.clone();
        self.tracker.spawn(async move { intake.put(delivery, to).await });
    }

    fn hand_on(&self, delivery: Delivery) {
        let intake = self.intake.clone();
        self.tracker.spawn(async move { intake.hand_on(delivery, Destination::Jobs).await });
    }
}

impl<'a> Present<'a> {
    fn new(filling: &'a Filling, told: mpsc::UnboundedSender<Happening>) -> Self {
        let order = Order::new(filling.fairness.clone(), filling.intake.rules.window);
        Self {
            filling,
            order,
            told,
            asked: FuturesUnordered::new(),
            look: Look::default(),
            looking: false,
            look_due: Instant::now(),
            failing: false,
        }
    }

    fn has_place(&self) -> bool {
        self.order.taken() < self.filling.intake.rules.concurrency.max(1)
    }

    /// Whether there is room for one more, or will be. Who waits although a place is free is held back by a cap.
    fn wants(&self) -> bool {
        let waiting = self.order.waiting();
        let has_room = waiting < self.filling.intake.rules.window || self.may_put_aside();
        has_room || (waiting == 0 && self.has_place())
    }

    fn happened(&mut self, happening: &Happening) {
        match happening {
            Happening::Ended(key, milliseconds) => self.order.ended(key, *milliseconds),
            Happening::PutAside(lane) => self.order.has_come(*lane),
        }
    }

    /// Gives the free places away.
    fn start(&mut self) {
        while self.has_place()
            && let Some(next) = self.order.next()
        {
            match next {
                FreePlace::Start(flow, waiter) => {
                    let place = Place { key: flow.key, since: Instant::now(), told: self.told.clone() };
                    let (intake, in_flight) =
                        (self.filling.intake.clone(), self.filling.intake.metrics.job_in_flight());
                    self.filling.tracker.spawn(async move {
                        intake.handle(waiter.delivery).await;
                        drop((place, in_flight));
                    });
                }
                FreePlace::Take(lane) => {
                    let backlog = &self.filling.backlog;
                    let take =
                        async move { Answer::Took(lane, backlog.take(lane).await.map(|taken| taken.map(Box::new))) };
                    self.asked.push(take.boxed());
                }
            }
        }
    }

    fn arrived(&mut self, delivery: Delivery, surplus: bool) {
        let rules = &self.filling.intake.rules;
        let flow = Flow::of(&delivery.message, self.filling.fairness.key, rules.max_job_bytes);
        self.join(flow, delivery, surplus);
        self.start();
        self.put_surplus_aside();
    }

    fn put_surplus_aside(&mut self) {
        while self.may_put_aside()
            && let Some((lane, waiter)) = self.order.surplus()
        {
            self.put_aside(lane, waiter);
        }
    }

    fn may_put_aside(&self) -> bool {
        self.look.takes && self.filling.intake.rules.window > 0
    }

    fn join(&mut self, flow: Flow, delivery: Delivery, surplus: bool) {
        let came = Instant::now();
        let due = came + if surplus { SURPLUS_WAIT } else { WINDOW_WAIT };
        self.order.join(flow, Waiter { delivery, came, due, surplus, crowd: false });
    }

    fn put_aside(&self, lane: Lane, waiter: Waiter) {
        self.filling.intake.metrics.job_put_aside(lane.priority().as_str());
        let (intake, told) = (self.filling.intake.clone(), self.told.clone());
        self.filling.tracker.spawn(async move {
            intake.put(waiter.delivery, Destination::Backlog(lane)).await;
            let _ = told.send(Happening::PutAside(lane));
        });
    }

    /// Those that have waited here for long go where another worker may find them, if there is one.
    fn sweep(&mut self) {
        // They came before any could be put aside.
        self.put_surplus_aside();
        let (now, alone) = (Instant::now(), self.look.alone);
        // Well before the broker takes back what is held for long.
        let longest = self.filling.intake.rules.hold_at_most / 2;
        let left = self.order.sweep(|waiter, crowd| {
            if waiter.due > now {
                return false;
            }
            (waiter.due, waiter.crowd) = (now + WINDOW_WAIT, crowd);
            waiter.surplus || !alone || waiter.came + longest <= now
        });
        for (flow, waiter) in left {
            match waiter {
                Waiter { surplus: true, delivery, .. } => self.filling.hand_on(delivery),
                waiter if waiter.crowd && self.may_put_aside() => {
                    let lane = self.order.put_aside(&flow);
                    self.put_aside(lane, waiter);
                }
                Waiter { delivery, .. } => self.filling.put(delivery, Destination::Jobs),
            }
        }
    }

    /// Whether others have put jobs aside, and whether there are others.
    fn look(&mut self) {
        let now = Instant::now();
        if self.looking || now < self.look_due || self.filling.intake.rules.window == 0 {
            return;
        }
        (self.looking, self.look_due) = (true, now + LOOK_EVERY);
        let backlog = &self.filling.backlog;
        self.asked.push(async move { Answer::Looked(backlog.look().await) }.boxed());
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Looked(look) => {
                self.looking = false;
                self.look = self.or_problem(look).unwrap_or_default();
                self.order.looked(&self.look.filled);
            }
            Answer::Took(lane, taken) => {
                let Some(delivery) = self.or_problem(taken).flatten() else { return self.order.took(lane, None) };
                let (rules, key) = (&self.filling.intake.rules, self.filling.fairness.key);
                let flow = Flow::of(&delivery.message, key, rules.max_job_bytes);
                self.order.took(lane, Some(&flow));
                self.join(flow, *delivery, false);
            }
        }
    }

    /// The answer, if there is one. Problems are said once.
    fn or_problem<T>(&mut self, answer: Result<T, QueueError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.failing = false;
                Some(answer)
            }
            Err(error) => {
                if std::mem::replace(&mut self.failing, true) {
                    debug!(%error, "jobs that were put aside wait on");
                } else {
                    warn!(%error, "jobs that were put aside wait: the broker does not give them out");
                }
                None
            }
        }
    }

    fn count(&self) {
        let waiting = self.order.waiting_by_priority();
        for (priority, count) in Priority::ALL.into_iter().zip(waiting) {
            self.filling.intake.metrics.jobs_waiting(priority.as_str(), count);
        }
    }

    /// All that wait go back, at no cost to them, and so does what is on its way.
    async fn stop(mut self) {
        for waiter in self.order.clear() {
            self.filling.put(waiter.delivery, Destination::Jobs);
        }
        self.count();
        while let Some(answer) = self.asked.next().await {
            if let Answer::Took(_, Ok(Some(delivery))) = answer {
                self.filling.put(*delivery, Destination::Jobs);
            }
        }
    }
}
