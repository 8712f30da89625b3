//! Decisions as messages: how they are settled, and the answer to one that changes nothing.

use jiff::Timestamp;
use tracing::info;

use super::reply_message::answer;
use crate::agent::ruling::Objection;
use crate::decision::Decision;
use crate::job::JobId;
use crate::key::digest;
use crate::queue::{Delivery, Message};
use crate::reply::{DecisionRefused, Reply, ReplyEvent};

/// The decision is journalled, or refused for good.
pub(crate) async fn answered(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        info!(%error, "the ack came too late; the decision comes again and is recognised");
    }
}

/// The decision comes again.
pub(crate) async fn give_back(delivery: Delivery) {
    if let Err(error) = delivery.requeue().await {
        info!(%error, "the decision goes back by itself, as its connection is gone");
    }
}

/// The answer to `message`, whose decision was refused; the same answer each time.
pub(crate) fn refusal(message: &Message, decision: Option<&Decision>, refused: &Objection, now: Timestamp) -> Message {
    let named = decision.map(|decision| decision.approval.clone());
    let event = ReplyEvent::DecisionRefused(DecisionRefused {
        approval: named,
        code: refused.code().to_owned(),
        reason: refused.to_string(),
    });
    let job = decision.map_or("unknown", |decision| JobId::as_str(&decision.job));
    let id = message.properties.message_id.clone().unwrap_or_else(|| digest(&message.body, 8));
    let reply = Reply::about_decision(job, &id, now, event);
    answer(&reply, message, message.properties.correlation_id.clone())
}
