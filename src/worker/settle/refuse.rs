//! Replies to callers, and refusals: what a caller is told where no run answers it.

use tracing::warn;

use super::Settler;
use crate::job::Job;
use crate::queue::{Destination, Message, Published};
use crate::reply::{Account, ErrorDetail, Failed, Reply, ReplyEvent};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::reply_message::reply_message;

impl Settler {
    /// Sends a reply to the caller of `job`; false where the broker did not confirm it.
    pub(super) async fn send_reply(&self, reply: &Reply, delivery: &InFlightDelivery, job: &Job) -> bool {
        let message = reply_message(reply, delivery.message(), job);
        self.publish_reply(reply, delivery, message, job.reply_to.clone()).await
    }

    /// Sends `message`, which is `reply`, to the queue `to`; false where the broker did not confirm it.
    pub(super) async fn publish_reply(
        &self,
        reply: &Reply,
        delivery: &InFlightDelivery,
        message: Message,
        to: Option<String>,
    ) -> bool {
        match self.publish(delivery, &Destination::Reply(to), message).await {
            Ok(published) => {
                let fell_back = published == Published::FellBack;
                self.metrics.replied(reply.event.kind(), fell_back);
                if fell_back {
                    warn!("the reply queue does not exist; the reply is in the common reply queue");
                }
                true
            }
            Err(error) => {
                warn!(%error, "the reply was not confirmed and will be sent again");
                false
            }
        }
    }

    /// Tells the caller of a message that its run, if there is one, does not answer it; `mark` tells the event from the
    /// run's own. False where the broker did not confirm it.
    pub(super) async fn refuse(&self, delivery: &InFlightDelivery, job: &Job, mark: &str, error: ErrorDetail) -> bool {
        let code = error.code.as_str();
        warn!(code, "the job is refused: {}", error.message);
        let account = Account { stop_reason: code.to_owned(), metadata: job.metadata.clone(), ..Account::default() };
        let event = ReplyEvent::Failed(Box::new(Failed { error, text: None, account }));
        let reply = Reply::interim(&job.id(), mark, self.clock.now(), event);
        let sent = self.send_reply(&reply, delivery, job).await;
        if sent {
            self.metrics.job_ended(code, 0);
        }
        sent
    }
}
