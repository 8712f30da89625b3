//! A delivery that this worker has to settle: its message, and the broker's wait for our ack.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::fresh::{deliveries, was_redelivered};
use super::wake_up::WakeUp;
use crate::queue::{Delivery, Message, QueueError};

/// A message in this worker's hands. It leaves them once, by [`InFlightDelivery::ack`] or [`InFlightDelivery::requeue`];
/// dropped, as by a panic, it goes back to the queue.
#[derive(Debug)]
pub(crate) struct InFlightDelivery {
    message: Message,
    wake_up: Option<WakeUp>,
    redelivered: bool,
    /// `None` where its connection was gone when it was to be exchanged: another message of the run comes by itself.
    delivery: Option<Delivery>,
    due: Instant,
}

impl InFlightDelivery {
    /// A delivery that came just now and is to be held for `hold_at_most`.
    pub(crate) fn new(delivery: Delivery, hold_at_most: Duration) -> Self {
        let message = delivery.message.clone();
        let redelivered = delivery.redelivered || was_redelivered(&message);
        let wake_up = WakeUp::of(&message);
        Self { message, wake_up, redelivered, delivery: Some(delivery), due: Instant::now() + hold_at_most }
    }

    /// The message, as it was delivered.
    pub(crate) fn message(&self) -> &Message {
        &self.message
    }

    /// What its headers say; `None` for a job as its caller sent it.
    pub(crate) fn wake_up(&self) -> Option<&WakeUp> {
        self.wake_up.as_ref()
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

    /// Whether the message is in our hands: where its connection was gone when it was to be exchanged, it is not any more.
    pub(crate) fn is_in_hand(&self) -> bool {
        self.delivery.is_some()
    }

    /// The message is dealt with.
    pub(crate) async fn ack(self) {
        if let Some(delivery) = self.delivery
            && let Err(error) = delivery.ack().await
        {
            info!(%error, "the ack came too late; the message comes again and is recognised");
        }
    }

    /// Has `held` stand for the message from now on: the old one is gone at the return. With an error that is not certain, as
    /// its connection is gone; then `held` goes to the job queue, so that one of the two comes in any case.
    pub(crate) async fn replace(&mut self, held: Delivery, hold_at_most: Duration) -> Result<(), QueueError> {
        let old = self.delivery.take();
        let gone = match old {
            Some(old) => old.ack_for_certain().await,
            None => Err(QueueError::Unavailable("the message that stood for the run is on its way again".to_owned())),
        };
        if let Err(error) = gone {
            if let Err(error) = held.requeue().await {
                info!(%error, "the message goes back by itself, as its connection is gone");
            }
            return Err(error);
        }
        *self = Self::new(held, hold_at_most);
        Ok(())
    }

    /// Holds the message for a while longer.
    pub(crate) fn hold_on(&mut self, longer: Duration) {
        self.due = Instant::now() + longer;
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
