//! A reply as a message to its caller.

use bytes::Bytes;

use crate::job::Job;
use crate::queue::{Message, Properties};
use crate::reply::{CONTENT_TYPE, Reply};

/// `reply` as a message to the caller of `job`, whose job came in `origin`.
pub(crate) fn reply_message(reply: &Reply, origin: &Message, job: &Job) -> Message {
    answer(reply, origin, job.correlation_id.clone())
}

/// `reply` as a message that answers `origin`.
pub(crate) fn answer(reply: &Reply, origin: &Message, correlation_id: Option<String>) -> Message {
    let body = serde_json::to_vec(reply).expect("a reply is JSON types only");
    Message {
        body: Bytes::from(body),
        properties: Properties {
            message_id: Some(reply.id.clone()),
            correlation_id,
            content_type: Some(CONTENT_TYPE.to_owned()),
            kind: Some(reply.event.kind().to_owned()),
            timestamp: Some(reply.time),
            headers: origin.properties.trace_headers(),
            ..Properties::default()
        },
    }
}
