//! Replies to addresses: one attempt, and what becomes of the message that brings the reply. While it waits it holds no place.

use std::time::Duration;

use tracing::{info, warn};

use super::disposition::REPLY_WAIT;
use super::{Exit, Settler};
use crate::queue::{Destination, QueueError};
use crate::retry::{Backoff, RetryDecision};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::posting::{Posting, reply_in};
use crate::worker::resources::poster::Posted;

impl Settler {
    /// POSTs the reply that the message brings, where its time has come, and settles the message.
    pub(crate) async fn post(&self, delivery: InFlightDelivery, posting: Posting) {
        match Box::pin(self.try_to_post(&delivery, posting)).await {
            Exit::Ack => delivery.ack().await,
            _ => delivery.requeue().await,
        }
    }

    async fn try_to_post(&self, delivery: &InFlightDelivery, posting: Posting) -> Exit {
        if let Some(remaining) = posting.remaining(self.clock.now()) {
            return self.post_later(delivery, posting, remaining).await;
        }
        let message = delivery.message();
        let event = message.properties.message_id.clone().unwrap_or_default();
        let posted = tokio::select! {
            posted = self.poster.post(&posting.url, &event, message.body.clone()) => posted,
            // Whether it was taken is not known: it is sent again under the same id.
            () = self.stop.cancelled() => return Exit::Requeue,
        };
        match posted {
            Posted::Delivered => {
                info!(event, "the reply was taken at its `reply_url`");
                self.metrics.reply_posted("delivered");
                Exit::Ack
            }
            Posted::Gone => {
                warn!(event, "nobody wants the reply at its `reply_url` any more (410)");
                self.metrics.reply_posted("gone");
                Exit::Ack
            }
            Posted::Forbidden(reason) => self.fall_back(delivery, posting, &event, reason).await,
            Posted::Failed { reason, retry_after } => {
                self.metrics.reply_posted("failed");
                let attempts = posting.attempts.saturating_add(1);
                let decision = retry_after.map_or(RetryDecision::Again, RetryDecision::AgainAfter);
                match Backoff::after(self.poster.retry, attempts).next(decision) {
                    Some(wait) => {
                        info!(
                            event,
                            attempts,
                            reason,
                            wait_milliseconds = wait.as_millis(),
                            "the reply waits to be POSTed again"
                        );
                        self.post_later(delivery, Posting { attempts, ..posting }, wait).await
                    }
                    None => self.fall_back(delivery, posting, &event, &reason).await,
                }
            }
        }
    }

    async fn post_later(&self, delivery: &InFlightDelivery, posting: Posting, wait: Duration) -> Exit {
        let posting = Posting { due: Some(posting.due_after(wait, self.clock.now())), ..posting };
        let message = posting.stamp((**delivery.message()).clone(), &self.rules.header_key);
        Exit::once(self.publish_as_it_is(delivery, &Destination::Wait(wait), message).await.is_ok())
    }

    /// The reply goes where it would have gone without an address.
    async fn fall_back(&self, delivery: &InFlightDelivery, posting: Posting, event: &str, reason: &str) -> Exit {
        let message = reply_in((**delivery.message()).clone());
        let job = serde_json::from_slice::<serde_json::Value>(&message.body).unwrap_or_default();
        let job = job["subject"].as_str().unwrap_or_default();
        warn!(job.id = job, event, reason, "the reply could not be delivered at its `reply_url`; it goes to a queue");
        let to = Destination::Reply(message.properties.reply_to.clone());
        let mut message = message;
        message.properties.reply_to = None;
        match self.publish_as_it_is(delivery, &to, message).await {
            Ok(_) => {
                self.metrics.reply_posted("fell_back");
                Exit::Ack
            }
            Err(QueueError::NotTaken { .. } | QueueError::Refused(_)) => {
                self.post_later(delivery, posting, REPLY_WAIT).await
            }
            Err(_) => Exit::Requeue,
        }
    }
}
