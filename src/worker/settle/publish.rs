//! Publishing what an ack waits for. Patiently: a message that goes back to the queue instead is counted there, and after
//! an outage of minutes the broker would take it for one that kills its workers. All of it is signed here, but what is left to a newer version.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::Settler;
use crate::queue::{Delivery, Destination, Message, Published, QueueError};
use crate::retry::{Policy, RetryDecision, retry_until};
use crate::worker::message::in_flight_delivery::InFlightDelivery;

/// Waits for a broker that does not take a message.
const PATIENT: Policy =
    Policy { attempts: u32::MAX, initial_milliseconds: 500, max_milliseconds: 5000, max_retry_after_milliseconds: 0 };

impl Settler {
    /// Publishes `message` as one that is held by this process, with the same patience; not beside a `delivery` that comes
    /// again by itself.
    pub(super) async fn publish_held(
        &self,
        delivery: &InFlightDelivery,
        mut message: Message,
    ) -> Result<Delivery, QueueError> {
        self.rules.header_key.sign(&mut message);
        let hold = async || match delivery.is_in_hand() {
            true => self.holder.hold(message.clone()).await,
            false => Err(QueueError::DeliveryLost),
        };
        self.patiently(delivery, false, hold).await
    }

    /// Publishes, as often as it takes until the broker confirms, the worker stops, or `delivery` has been held for half as
    /// long again as it should be; that is well below the broker's consumer timeout. A broker that takes nothing at all is
    /// waited for longer: then the consumer timeout counts a delivery each half hour, and not we one each time. A reply
    /// queue is somebody else's: one that takes nothing is not waited for.
    pub(super) async fn publish(
        &self,
        delivery: &InFlightDelivery,
        destination: &Destination,
        mut message: Message,
    ) -> Result<Published, QueueError> {
        self.rules.header_key.sign(&mut message);
        self.publish_as_it_is(delivery, destination, message).await
    }

    /// The same without a signature of ours.
    pub(super) async fn publish_as_it_is(
        &self,
        delivery: &InFlightDelivery,
        destination: &Destination,
        message: Message,
    ) -> Result<Published, QueueError> {
        let is_reply = matches!(destination, Destination::Reply(_));
        self.patiently(delivery, is_reply, || self.publisher.publish(destination, message.clone())).await
    }

    async fn patiently<T, F>(
        &self,
        delivery: &InFlightDelivery,
        is_reply: bool,
        publish: impl FnMut() -> F,
    ) -> Result<T, QueueError>
    where
        F: Future<Output = Result<T, QueueError>>,
    {
        let last = delivery.due() + self.rules.hold_at_most / 2;
        let timeouts = AtomicU32::new(0);
        let decide = |error: &QueueError| match error {
            QueueError::TooLarge { .. } | QueueError::DeliveryLost => RetryDecision::Stop,
            QueueError::NotTaken { .. } | QueueError::Refused(_) if is_reply => RetryDecision::Stop,
            // The first time it may have been the connection.
            QueueError::TimedOut(_) if is_reply && timeouts.fetch_add(1, Ordering::Relaxed) > 0 => RetryDecision::Stop,
            QueueError::Blocked => RetryDecision::Again,
            _ if Instant::now() >= last => RetryDecision::Stop,
            _ => RetryDecision::Again,
        };
        let notice = |error: &QueueError, attempt, _| {
            // Said once a message: a hundred runs that wait for an hour must not fill the log.
            if attempt == 2 {
                warn!(%error, "a message waits for the broker");
            } else {
                debug!(%error, "a message waits on for the broker");
            }
        };
        retry_until(self.stop.cancelled(), PATIENT, decide, notice, publish).await
    }
}
