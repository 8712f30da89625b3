//! Telling the caller how far its run is.

use tracing::Instrument;

use super::Attempt;
use crate::queue::Destination;
use crate::reply::{Progress, Reply, ReplyEvent};
use crate::worker::message::reply_message::reply_message;

impl Attempt<'_> {
    /// Tells the caller how far the run is, where it asked for it: best effort, never waited for.
    pub(super) fn progress(&self, phase: &str, tool: Option<&str>) {
        let job = self.run().job();
        if !job.progress {
            return;
        }
        let data = Progress { step: self.run().steps(), phase: phase.to_owned(), tool: tool.map(str::to_owned) };
        let mark = format!("progress:{}:{phase}", self.run().sequence());
        let reply = Reply::interim(&job.id(), &mark, self.leased.clock().now(), ReplyEvent::Progress(data));
        let message = reply_message(&reply, self.message, job);
        let publisher = self.executor.publisher.clone();
        if let Some(to) = job.reply_to.clone() {
            let told = async move {
                if let Err(error) = publisher.publish(&Destination::Progress(to), message).await {
                    tracing::debug!(%error, "progress could not be told");
                }
            };
            self.executor.tracker.spawn(told.in_current_span());
        }
    }
}
