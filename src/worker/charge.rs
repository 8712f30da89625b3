//! A job in our charge: its message, and the delivery for as long as the broker waits for our ack.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::wake_up::WakeUp;
use crate::queue::{Delivery, Message};

/// A job that this worker has to settle.
#[derive(Debug)]
pub(super) struct Charge {
    /// The message, as it was delivered.
    pub(super) message: Message,
    /// Whether the broker says that it was delivered before.
    pub(super) redelivered: bool,
    /// `None` once a wake-up in the broker stands for it: then there is nothing to ack, and nothing to give back.
    delivery: Option<Delivery>,
    /// When the delivery has been held for as long as it should be.
    due: Instant,
}

impl Charge {
    pub(super) fn new(delivery: Delivery, hold_at_most: Duration) -> Self {
        let (message, redelivered) = (delivery.message.clone(), delivery.redelivered);
        Self { message, redelivered, delivery: Some(delivery), due: Instant::now() + hold_at_most }
    }

    /// Number of the wake-up that the message is; 0 for a job as its caller sent it.
    pub(super) fn turn(&self) -> u32 {
        WakeUp::of(&self.message).map_or(0, |wake_up| wake_up.turn)
    }

    /// When the delivery has been held for as long as it should be: whatever is waited for counts together.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether the broker still waits for our ack.
    pub(super) fn is_delivery(&self) -> bool {
        self.delivery.is_some()
    }

    /// The message is dealt with.
    pub(super) async fn ack(&mut self) {
        if let Some(delivery) = self.delivery.take()
            && let Err(error) = delivery.ack().await
        {
            info!(%error, "the ack came too late; the message comes again and is recognised");
        }
    }

    /// Another worker shall have it. A wake-up that stands for it comes by itself.
    pub(super) async fn put_back(mut self) {
        if let Some(delivery) = self.delivery.take()
            && let Err(error) = delivery.requeue().await
        {
            info!(%error, "the message goes back by itself, as its connection is gone");
        }
    }
}
