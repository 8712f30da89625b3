//! A message as it is published again: without what the broker and others added to it.

use super::signature::keep_signature;
use super::version::carried_headers;
use super::wake_up::WakeUp;
use crate::queue::Message;

/// Value of [`HANDED_ON`]: as a new message it would seem never to have been delivered.
const REDELIVERED: &str = "redelivered";
/// Header of a message that a worker had no place for.
pub(super) const HANDED_ON: &str = "x-agentkit-handed-on";
/// Header of the broker: how often a message came back to its queue.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Header of a message that was handed on: how often it had come back before, as its copies.
pub(super) const DELIVERIES: &str = "x-agentkit-deliveries";

/// `message` without what the broker and others added: a wake-up stays that wake-up, due now, any other a job as its
/// caller sent it.
pub(crate) fn fresh(message: &Message) -> Message {
    if let Some(wake_up) = WakeUp::of(message) {
        let mut fresh = WakeUp { due: None, ..wake_up }.stamp(message);
        // Good for as long as nothing else was said.
        keep_signature(message, &mut fresh);
        return fresh;
    }
    as_sent(message)
}

/// How often the message was delivered before, and came back.
pub(crate) fn deliveries(message: &Message) -> u32 {
    let number =
        |header| -> u32 { message.properties.headers.get(header).and_then(|text| text.parse().ok()).unwrap_or(0) };
    number(DELIVERY_COUNT).saturating_add(number(DELIVERIES))
}

/// Takes from a message that was never delivered before what it says of its deliveries: the broker did not write that.
pub(crate) fn forget_deliveries(message: &mut Message) {
    message.properties.headers.remove(DELIVERY_COUNT);
}

/// Whether the worker that had the message before had no place for it.
pub(crate) fn was_handed_on(message: &Message) -> bool {
    message.properties.headers.contains_key(HANDED_ON)
}

/// Whether the broker said of a message that was handed on that it was delivered before.
pub(crate) fn was_redelivered(message: &Message) -> bool {
    message.properties.headers.get(HANDED_ON).is_some_and(|how| how == REDELIVERED)
}

/// `message` for a worker that has a place for it.
pub(crate) fn handed_on(message: &Message, redelivered: bool) -> Message {
    let before = deliveries(message);
    let mut message = fresh(message);
    let headers = &mut message.properties.headers;
    headers.insert(HANDED_ON.to_owned(), if redelivered { REDELIVERED } else { "once" }.to_owned());
    if before > 0 {
        headers.insert(DELIVERIES.to_owned(), before.to_string());
    }
    message
}

/// `message` as its caller sent it.
pub(crate) fn as_sent(message: &Message) -> Message {
    let mut message = message.clone();
    message.properties.headers = carried_headers(&message);
    message
}
