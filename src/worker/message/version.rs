//! Messages of newer versions, which an older worker leaves to newer ones: while a fleet is upgraded both are at work.

use std::collections::BTreeMap;

use super::signature::UNPROVEN;
use crate::queue::Message;

/// Header: the version that a reader of the message needs. Without it that is 1. Producers that use what a newer version
/// brings set it.
const NEEDS: &str = "x-agentkit-needs";
/// Header: how often the message was left to a newer worker.
const LEFT: &str = "x-agentkit-left";
/// Version of messages that this worker reads.
const VERSION: u32 = 1;
/// What the broker adds, by how it begins.
const BROKERS_OWN: [&str; 5] = ["x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count"];

/// What all headers of this product begin with.
const PREFIX: &str = "x-agentkit-";
/// How the headers go on that this version knows; those are written anew wherever they are true.
const KNOWN: [&str; 15] = [
    "due",
    "turn",
    "reason",
    "effects",
    "met",
    "copy",
    "entries",
    "call",
    "tool",
    "handed-on",
    "deliveries",
    "held",
    "left",
    "signature",
    "unproven",
];
/// Bytes of headers that are carried on without being understood.
const MOST_CARRIED: usize = 16 << 10;
/// Bytes of headers that a message for a newer version keeps: with ours they must fit one frame of 128 KiB.
const MOST_LEFT: usize = 64 << 10;
/// So do those of dead letters.
const DEAD: &str = "dead-";

/// What goes along with every copy of `message`: the caller's trace, and what newer versions say in headers of their own.
pub(crate) fn carried_headers(message: &Message) -> BTreeMap<String, String> {
    let is_strange =
        |name: &str| name.strip_prefix(PREFIX).is_some_and(|rest| !KNOWN.contains(&rest) && !rest.starts_with(DEAD));
    let mut carried = message.properties.trace_headers();
    let strange = message.properties.headers.iter().filter(|(name, _)| is_strange(name));
    // All headers of a message must fit one frame, and ours are added to them.
    let mut left = MOST_CARRIED;
    for (name, value) in strange {
        let Some(rest) = left.checked_sub(name.len() + value.len()) else { continue };
        left = rest;
        carried.insert(name.clone(), value.clone());
    }
    carried
}

/// `message` without what only workers say of one: what its producer may say stays.
pub(crate) fn without_our_headers(mut message: Message) -> Message {
    message.properties.headers.retain(|name, _| name == NEEDS || !name.starts_with(PREFIX));
    message
}

/// Whether only a newer worker can read the message.
pub(crate) fn is_newer(message: &Message) -> bool {
    number(message, NEEDS).is_some_and(|version| version > VERSION)
}

/// How often the message was left to a newer worker.
pub(crate) fn times_left(message: &Message) -> u32 {
    number(message, LEFT).unwrap_or(0)
}

/// `message` for a newer worker: all that was said in it stays, its signature as well.
pub(crate) fn left(message: &Message) -> Message {
    let mut left = message.clone();
    // A signature that we do not know may be a newer version's: it is to see the message as it was signed. Where we marked a
    // copy ourselves, the mark was signed with it, and without it nobody takes the signature for good.
    let is_ours = |name: &str| name == UNPROVEN || BROKERS_OWN.iter().any(|own| name.starts_with(own));
    let mut room = MOST_LEFT;
    left.properties.headers.retain(|name, value| {
        let fits = !is_ours(name) && name.len() + value.len() <= room;
        room -= if fits { name.len() + value.len() } else { 0 };
        fits
    });
    left.properties.headers.insert(LEFT.to_owned(), times_left(message).saturating_add(1).to_string());
    left
}

fn number(message: &Message, header: &str) -> Option<u32> {
    message.properties.headers.get(header)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)]) -> Message {
        let mut message = Message::default();
        message.properties.headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        message
    }

    #[test]
    fn only_a_version_above_ours_is_newer() {
        for (needs, newer) in
            [("0", false), ("1", false), ("2", true), ("4294967295", true), ("two", false), ("", false)]
        {
            assert_eq!(is_newer(&message(&[(NEEDS, needs)])), newer, "{needs}");
        }
        assert!(!is_newer(&Message::default()));
    }

    #[test]
    fn what_is_carried_along_is_bounded() {
        let (large, small) = ("x".repeat(MOST_CARRIED), "y".repeat(100));
        let sent = message(&[("x-agentkit-large", &large), ("x-agentkit-small", &small), ("traceparent", &large)]);
        let carried: Vec<String> = carried_headers(&sent).into_keys().collect();
        assert_eq!(carried, ["x-agentkit-small"]);
    }

    #[test]
    fn a_message_that_is_left_keeps_what_we_do_not_know_and_counts() {
        let sent =
            message(&[(NEEDS, "7"), ("x-agentkit-of-tomorrow", "a"), ("x-delivery-count", "3"), ("x-death", "[]")]);
        let twice = left(&left(&sent));
        assert_eq!(twice, message(&[(NEEDS, "7"), ("x-agentkit-of-tomorrow", "a"), (LEFT, "2")]));
        assert_eq!(times_left(&twice), 2);
    }
}
