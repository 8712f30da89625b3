//! A delivery that this worker has to settle: its message, and the broker's wait for our ack.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::fresh::{deliveries, forget_deliveries, was_redelivered};
use super::signature::HeaderKey;
use super::wake_up::{Trust, WakeUp};
use crate::queue::{Delivery, Message, PRODUCER, QueueError};

/// A message in this worker's hands. It leaves them once, by [`InFlightDelivery::ack`] or [`InFlightDelivery::requeue`];
/// dropped, as by a panic, it goes back to the queue.
#[derive(Debug)]
pub(crate) struct InFlightDelivery {
    message: Arc<Message>,
    wake_up: Option<WakeUp>,
    redelivered: bool,
    /// `None` where its connection was gone when it was to be exchanged: another message of the run comes by itself.
    /// Boxed, as it is passed from hand to hand.
    delivery: Option<Box<Delivery>>,
    due: Instant,
}

impl InFlightDelivery {
    /// A delivery that came just now and is to be held for `hold_at_most`. What it says and nobody signed with `key` is marked.
    pub(crate) fn new(mut delivery: Delivery, hold_at_most: Duration, key: &HeaderKey) -> Self {
        let mut message = std::mem::take(&mut delivery.message);
        key.examine(&mut message);
        if !delivery.redelivered {
            forget_deliveries(&mut message);
        }
        let message = Arc::new(message);
        let redelivered = delivery.redelivered || was_redelivered(&message);
        let wake_up = WakeUp::of(&message);
        Self { message, wake_up, redelivered, delivery: Some(Box::new(delivery)), due: Instant::now() + hold_at_most }
    }

    /// The message, as it was delivered.
    pub(crate) fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// The job is nobody's in particular, whatever was said.
    pub(crate) fn belongs_to_nobody(&mut self) {
        Arc::make_mut(&mut self.message).properties.headers.remove(PRODUCER);
    }

    /// What its headers say; `None` for a job as its caller sent it.
    pub(crate) fn wake_up(&self) -> Option<&WakeUp> {
        self.wake_up.as_ref()
    }

    /// Whether a worker has begun its run, as one says of it.
    pub(crate) fn is_under_way(&self) -> bool {
        self.wake_up.as_ref().is_some_and(|wake_up| wake_up.trust == Trust::Ours && wake_up.generation > 0)
    }

    /// What is known of its run since it came, instead of what its headers say; `None` where they say nothing.
    pub(crate) fn learn(&mut self, wake_up: Option<WakeUp>) {
        self.wake_up = wake_up;
    }

    /// Number of the wake-up that the message is; 0 for a job as its caller sent it.
    pub(crate) fn generation(&self) -> u32 {
        self.wake_up.as_ref().map_or(0, |wake_up| wake_up.generation)
    }

    /// Whether the broker says that it was delivered before.
    pub(crate) fn was_redelivered(&self) -> bool {
        self.redelivered
    }

    /// How often the message was delivered before, and came back.
    pub(crate) fn delivered_before(&self) -> u32 {
        deliveries(&self.message)
    }

    /// When the delivery has been held for as long as it should be: whatever is waited for counts together.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Whether the message is in our hands. It is not once its connection is gone: then it comes again.
    pub(crate) fn is_in_hand(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| !delivery.is_lost())
    }

    /// The message is dealt with.
    pub(crate) async fn ack(self) {
        if let Some(delivery) = self.delivery
            && let Err(error) = delivery.ack().await
        {
            info!(%error, "the ack came too late; the message comes again and is recognised");
        }
    }

    /// Has `held` stand for the message from now on: the old one is gone at the return. An old one that comes again stands for
    /// the run, and `held` is taken away: two messages would not know of each other. Where it is not certain whether it comes,
    /// `held` goes to the job queue, so that one of the two does in any case.
    pub(crate) async fn replace(
        &mut self,
        held: Delivery,
        hold_at_most: Duration,
        key: &HeaderKey,
    ) -> Result<(), QueueError> {
        let gone = match self.delivery.take() {
            Some(old) => old.ack_for_certain().await,
            None => Err(QueueError::DeliveryLost),
        };
        let back = match gone {
            Ok(()) => {
                *self = Self::new(held, hold_at_most, key);
                return Ok(());
            }
            Err(QueueError::DeliveryLost) => held.ack().await,
            Err(_) => held.requeue().await,
        };
        if let Err(error) = back {
            info!(%error, "the message goes back by itself, as its connection is gone");
        }
        gone
    }

    /// Holds the message for a while longer.
    pub(crate) fn hold_on(&mut self, longer: Duration) {
        self.due = Instant::now() + longer;
    }

    /// The broker shall keep it among the dead letters, as it is.
    pub(crate) async fn reject(self) {
        if let Some(delivery) = self.delivery
            && let Err(error) = delivery.reject().await
        {
            info!(%error, "the message goes back by itself, as its connection is gone");
        }
    }

    /// Another worker shall have it.
    pub(crate) async fn requeue(self) {
        if let Some(delivery) = self.delivery
            && let Err(error) = delivery.requeue().await
        {
            info!(%error, "the message goes back by itself, as its connection is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::queue::Settle;

    const HOLD: Duration = Duration::from_secs(900);

    /// Notes what is done with it, and answers an ack so.
    #[derive(Debug)]
    struct NotedSettle {
        name: &'static str,
        done: Arc<Mutex<Vec<String>>>,
        ack: Result<(), QueueError>,
    }

    impl NotedSettle {
        fn note(&self, what: &str) {
            self.done.lock().unwrap().push(format!("{} {what}", self.name));
        }
    }

    #[async_trait::async_trait]
    impl Settle for NotedSettle {
        async fn ack(&self) -> Result<(), QueueError> {
            self.note("acked");
            self.ack.clone()
        }

        async fn requeue(&self) -> Result<(), QueueError> {
            self.note("requeued");
            Ok(())
        }

        async fn reject(&self) -> Result<(), QueueError> {
            self.note("rejected");
            Ok(())
        }

        fn is_lost(&self) -> bool {
            self.ack == Err(QueueError::DeliveryLost)
        }
    }

    #[tokio::test]
    async fn one_message_stands_for_a_run_wherever_the_exchange_is_cut_off() {
        let unknown = QueueError::TimedOut(HOLD);
        let table = [
            (Ok(()), vec!["old acked"]),
            (Err(QueueError::DeliveryLost), vec!["old acked", "held acked"]),
            (Err(unknown), vec!["old acked", "held requeued"]),
        ];
        let key = HeaderKey::of(&String::new().into());
        for (answer, expected) in table {
            let done = Arc::default();
            let delivery = |name, ack| {
                let settle = NotedSettle { name, done: Arc::clone(&done), ack };
                Delivery::new(Message::default(), false, Box::new(settle))
            };
            let mut in_flight = InFlightDelivery::new(delivery("old", answer.clone()), HOLD, &key);
            let lost = answer == Err(QueueError::DeliveryLost);
            assert_eq!(in_flight.is_in_hand(), !lost);
            assert_eq!(in_flight.replace(delivery("held", Ok(())), HOLD, &key).await, answer);
            assert_eq!(*done.lock().unwrap(), expected, "{answer:?}");
            assert_eq!(in_flight.is_in_hand(), answer.is_ok(), "{answer:?}");
        }
    }
}
