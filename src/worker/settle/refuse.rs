//! Replies to callers, and refusals: what a caller is told where no run answers it.

use std::time::Duration;

use tracing::{debug, warn};

use super::disposition::Deferral;
use super::{Exit, Settler, release};
use crate::job::Job;
use crate::queue::{Destination, Message, Published, QueueError};
use crate::reply::{Account, ErrorDetail, Failed, Reply, ReplyEvent};
use crate::worker::message::in_flight_delivery::InFlightDelivery;
use crate::worker::message::posting::addressed;
use crate::worker::message::reply_message::answer;
use crate::worker::message::wake_up::Reason;
use crate::worker::run::attempt_trace::{send_span, trace_of};
use crate::worker::run::leased_run::LeasedRun;

impl Settler {
    /// Sends a reply to the caller of `job`, after this attempt of its run, if it was one.
    pub(super) async fn send_reply(
        &self,
        reply: &Reply,
        delivery: &InFlightDelivery,
        job: &Job,
        attempt: Option<u32>,
    ) -> Result<(), QueueError> {
        let trace = trace_of(&self.tracer, delivery.message(), &job.id());
        let mut span = send_span(&trace, attempt, job.reply_to.as_deref(), self.clock.now());
        let address = |message| addressed(message, job, &self.rules.header_key);
        let sent = self.publish_answer(reply, delivery, job.correlation_id.clone(), address).await;
        if sent.is_err() {
            span.fail("not_published");
        }
        sent
    }

    /// Sends `reply` to the queue `to`; cut where it is too large for a message, and always in the same way.
    pub(super) async fn publish_reply(
        &self,
        reply: &Reply,
        delivery: &InFlightDelivery,
        correlation_id: Option<String>,
        to: Option<String>,
    ) -> Result<(), QueueError> {
        self.publish_answer(reply, delivery, correlation_id, |message| (Destination::Reply(to.clone()), message)).await
    }

    /// Sends `reply` as a message to wherever `address` says.
    async fn publish_answer(
        &self,
        reply: &Reply,
        delivery: &InFlightDelivery,
        correlation_id: Option<String>,
        address: impl Fn(Message) -> (Destination, Message),
    ) -> Result<(), QueueError> {
        let publish = async |reply: &Reply| {
            let (to, message) = address(answer(reply, delivery.message(), correlation_id.clone()));
            self.publish(delivery, &to, message).await
        };
        let published = match publish(reply).await {
            Err(QueueError::TooLarge { size, limit }) => {
                warn!(size, limit, "the reply is too large for a message and is cut");
                publish(&reply.cut_to(limit)).await
            }
            published => published,
        };
        match published {
            Ok(published) => {
                let fell_back = published == Published::FellBack;
                self.metrics.replied(reply.event.kind(), fell_back);
                if fell_back {
                    warn!("the reply queue does not exist; the reply is in the common reply queue");
                }
                Ok(())
            }
            Err(error) => {
                warn!(%error, "the reply was not confirmed and will be sent again");
                Err(error)
            }
        }
    }

    /// What becomes of a message whose reply is not out. Where that is the reply queue's fault, it comes again after `wait`,
    /// and its place is free for others meanwhile.
    pub(super) async fn reply_waits(
        &self,
        delivery: &InFlightDelivery,
        run: Option<&LeasedRun>,
        wait: Duration,
        error: &QueueError,
    ) -> Exit {
        let broker_is_away = match error {
            QueueError::Unavailable(_) | QueueError::Blocked | QueueError::DeliveryLost => true,
            QueueError::TimedOut(_) => self.stop.is_cancelled(),
            QueueError::NotTaken { .. } | QueueError::Refused(_) | QueueError::TooLarge { .. } => false,
        };
        if broker_is_away {
            release(run).await;
            return Exit::Requeue;
        }
        self.metrics.reply_deferred();
        match run {
            Some(run) => self.defer_unjournalled(delivery, run, wait, Reason::ReplyWaits).await,
            None => self.defer(delivery, &mut None, Deferral::same(wait)).await,
        }
    }

    /// Tells the caller of a message that its run, if there is one, does not answer it; `mark` tells the event from the
    /// run's own.
    pub(super) async fn refuse(
        &self,
        delivery: &InFlightDelivery,
        job: &Job,
        mark: &str,
        error: ErrorDetail,
    ) -> Result<(), QueueError> {
        let account = Account::of_refused(error.code, job.metadata.clone());
        let code = error.code.as_str();
        warn!(code, "the job is refused");
        debug!(message = error.message, "the caller is told");
        let event = ReplyEvent::Failed(Box::new(Failed { error, text: None, account }));
        let reply = Reply::interim(&job.id(), mark, self.clock.now(), event);
        self.send_reply(&reply, delivery, job, None).await?;
        self.metrics.job_ended(code, 0);
        Ok(())
    }
}
