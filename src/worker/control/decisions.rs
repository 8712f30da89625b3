//! The door for programs: decisions as messages.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::decider::{Decider, NotDecided};
use crate::agent::ruling::Objection;
use crate::clock::SharedClock;
use crate::decision::{Decision, DecisionBody, Door};
use crate::queue::{Consumer, Delivery, Destination, Publisher};
use crate::worker::message::decision_message::{answered, give_back, refusal};
use crate::worker::message::sender::Senders;

/// Decisions that are made at the same time; also what is fetched ahead.
pub(crate) const AT_ONCE: u16 = 16;

/// Takes decisions from their queue.
pub(crate) struct Decisions {
    pub(crate) decider: Arc<Decider>,
    /// Answers.
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) clock: SharedClock,
    pub(crate) stop: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// Longer messages are not read.
    pub(crate) max_bytes: usize,
    /// Whose messages count: the operator's by the command line, too.
    pub(crate) senders: Senders,
}

impl Decisions {
    /// Until told to stop.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Box<dyn Consumer>) {
        let places = Arc::new(Semaphore::new(AT_ONCE.into()));
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.ok()?;
                Some((place, consumer.next().await?))
            };
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                next = next => next,
            };
            let Some((place, delivery)) = next else { break };
            let decisions = self.clone();
            self.tracker.spawn(async move {
                decisions.take(delivery).await;
                drop(place);
            });
        }
        consumer.stop().await;
    }

    async fn take(&self, delivery: Delivery) {
        let read = self.read(&delivery);
        let (named, decided) = match read {
            Ok(decision) if !self.may_decide(&delivery) => (Some(decision), Err(Objection::NotADecider.into())),
            Ok(decision) => {
                let decided = self.decider.decide(&decision, Door::Amqp).await;
                (Some(decision), decided)
            }
            Err(problem) => (None, Err(Objection::Unreadable(problem).into())),
        };
        match decided {
            Ok(()) => answered(delivery).await,
            Err(NotDecided::NotNow(reason)) => {
                debug!(reason, "a decision goes back to its queue");
                give_back(delivery).await;
            }
            Err(NotDecided::Refused(refused)) => {
                info!(code = refused.code(), "a decision changes nothing");
                self.tell(&delivery, named.as_ref(), &refused).await;
                answered(delivery).await;
            }
        }
    }

    fn may_decide(&self, delivery: &Delivery) -> bool {
        let user = delivery.message.properties.user_id.as_deref();
        self.senders.is_own(&delivery.message) || self.senders.producers.may_decide(user)
    }

    fn read(&self, delivery: &Delivery) -> Result<Decision, String> {
        let body = &delivery.message.body;
        if body.len() > self.max_bytes {
            return Err(format!("it has {} bytes, more than the {} allowed", body.len(), self.max_bytes));
        }
        DecisionBody::read(body)?.complete()
    }

    /// Whoever wants an answer has said where; one that cannot be had there is nobody's.
    async fn tell(&self, delivery: &Delivery, decision: Option<&Decision>, refused: &Objection) {
        let Some(reply_to) = delivery.message.properties.reply_to.clone() else { return };
        let user = delivery.message.properties.user_id.as_deref();
        if !self.may_decide(delivery) && !self.senders.producers.may_be_answered_at(user, &reply_to) {
            return;
        }
        let message = refusal(&delivery.message, decision, refused, self.clock.now());
        if let Err(error) = self.publisher.publish(&Destination::Reply(Some(reply_to)), message).await {
            warn!(%error, "whoever decided could not be answered");
        }
    }
}
