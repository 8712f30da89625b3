//! A message as it is published again: without what the broker and others added to it.

use super::wake_up::WakeUp;
use crate::queue::Message;

/// Value of [`HANDED_ON`]: as a new message it would seem never to have been delivered.
const REDELIVERED: &str = "redelivered";
/// Header of a message that a worker had no place for.
const HANDED_ON: &str = "x-agentkit-handed-on";

/// `message` without what the broker and others added: a wake-up stays that wake-up, due now, any other a job as its
/// caller sent it.
pub(crate) fn fresh(message: &Message) -> Message {
    if let Some(wake_up) = WakeUp::of(message) {
        return WakeUp { due: None, ..wake_up }.stamp(message);
    }
    as_sent(message)
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
    let mut message = fresh(message);
    let how = if redelivered { REDELIVERED } else { "once" };
    message.properties.headers.insert(HANDED_ON.to_owned(), how.to_owned());
    message
}

/// `message` as its caller sent it.
pub(crate) fn as_sent(message: &Message) -> Message {
    let mut message = message.clone();
    message.properties.headers = message.properties.trace_headers();
    message
}
