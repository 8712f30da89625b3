//! A reply on its way to its caller's address (`reply_url`): a message in the job queue that brings the reply itself, and says
//! where it goes, how often that was tried, and when it is tried next. It takes the place of the reply in a queue: once the
//! broker has it, the reply is safe, and what a crash leaves is delivered by the next worker. Workers sign it, as what is
//! POSTed carries the operator's signature.

use std::time::Duration;

use jiff::Timestamp;

use super::signature::HeaderKey;
use crate::clock::{after, milliseconds_between};
use crate::job::Job;
use crate::queue::{Destination, Message};

/// Header: where the reply goes.
const URL: &str = "x-agentkit-post-url";
/// Header: how often that was tried.
const ATTEMPTS: &str = "x-agentkit-post-attempts";
/// Header: when it is tried next (RFC 3339).
const DUE: &str = "x-agentkit-post-due";
/// Header: a worker's signature of all this.
const SIGNATURE: &str = "x-agentkit-post-signature";
/// What the signature is good for.
const PURPOSE: &str = "agentkit-worker: posting, v1";
/// What is left of a wait is not waited for: the shortest wait tier would be longer.
const TOLERANCE: Duration = Duration::from_millis(500);

/// What a message says of the reply that it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Posting {
    /// Where the reply goes.
    pub(crate) url: String,
    /// How often that was tried.
    pub(crate) attempts: u32,
    /// When it is tried next; at once where nobody says.
    pub(crate) due: Option<Timestamp>,
}

/// `reply` to the caller of `job`, and where it goes: a queue, or the job queue on its way to an address.
pub(crate) fn addressed(reply: Message, job: &Job, key: &HeaderKey) -> (Destination, Message) {
    let Some(url) = &job.reply_url else { return (Destination::Reply(job.reply_to.clone()), reply) };
    let posting = Posting { url: url.clone(), attempts: 0, due: None };
    let mut message = reply;
    message.properties.reply_to.clone_from(&job.reply_to);
    (Destination::Jobs, posting.stamp(message, key))
}

impl Posting {
    /// What a message says, where a worker has signed it.
    pub(crate) fn of(message: &Message, key: &HeaderKey) -> Option<Self> {
        let header = |name: &str| message.properties.headers.get(name);
        let (url, attempts) = (header(URL)?.clone(), header(ATTEMPTS)?.parse().ok()?);
        let due = header(DUE).map(|due| due.parse()).transpose().ok()?;
        let posting = Self { url, attempts, due };
        key.is_tag(header(SIGNATURE)?, PURPOSE, &posting.parts(message), &message.body).then_some(posting)
    }

    /// `message`, which brings the reply, with this said of it.
    pub(crate) fn stamp(&self, mut message: Message, key: &HeaderKey) -> Message {
        message = reply_in(message);
        let headers = &mut message.properties.headers;
        headers.insert(URL.to_owned(), self.url.clone());
        headers.insert(ATTEMPTS.to_owned(), self.attempts.to_string());
        headers.extend(self.due.map(|due| (DUE.to_owned(), due.to_string())));
        let tag = key.tag(PURPOSE, &self.parts(&message), &message.body);
        message.properties.headers.insert(SIGNATURE.to_owned(), tag);
        message
    }

    /// Headers are signed as they stand there.
    fn parts<'a>(&'a self, message: &'a Message) -> [&'a str; 6] {
        let (properties, text) = (&message.properties, |text: &'a Option<String>| text.as_deref().unwrap_or_default());
        let header = |name: &str| properties.headers.get(name).map_or("", String::as_str);
        let (attempts, due) = (header(ATTEMPTS), header(DUE));
        [
            &self.url,
            attempts,
            due,
            text(&properties.message_id),
            text(&properties.correlation_id),
            text(&properties.reply_to),
        ]
    }

    /// When a wait that begins now is over; one that has begun ends as it would have.
    pub(crate) fn due_after(&self, wait: Duration, now: Timestamp) -> Timestamp {
        self.due.filter(|_| self.remaining(now).is_some()).unwrap_or_else(|| after(now, wait))
    }

    /// How long it still has to wait, if it does.
    pub(crate) fn remaining(&self, now: Timestamp) -> Option<Duration> {
        let remaining = Duration::from_millis(milliseconds_between(now, self.due?));
        (remaining > TOLERANCE).then_some(remaining)
    }
}

/// The reply that a message brings, as it goes into a queue.
pub(crate) fn reply_in(mut message: Message) -> Message {
    message.properties.headers = message.properties.trace_headers();
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Envelope;
    use crate::worker::message::fresh::handed_on;

    #[test]
    fn a_reply_is_posted_as_a_worker_has_said_and_as_nobody_else_has() {
        let key = |secret: &str| HeaderKey::of(&secret.to_owned().into());
        let body = br#"{"prompt": "x", "identifier": "u", "connections": ["gmail"], "reply_url": "https://a.example/x",
            "reply_to": "q"}"#;
        let job = Job::from_slice(body, &Envelope::default(), 1000).unwrap();
        let mut reply = Message { body: "{}".into(), ..Message::default() };
        reply.properties.message_id = Some("j:result".to_owned());
        let (to, message) = addressed(reply.clone(), &job, &key("a"));
        let posting = Posting { url: "https://a.example/x".to_owned(), attempts: 0, due: None };
        assert_eq!((to, Posting::of(&message, &key("a"))), (Destination::Jobs, Some(posting.clone())));
        assert_eq!(Posting::of(&handed_on(&message, false), &key("a")), Some(posting.clone()));
        assert_eq!(Posting::of(&message, &key("b")), None);
        let changes: [fn(&mut Message); 6] = [
            |message| message.body = "{ }".into(),
            |message| message.properties.message_id = None,
            |message| message.properties.reply_to = Some("p".to_owned()),
            |message| drop(message.properties.headers.insert(URL.into(), "https://b.example/x".into())),
            |message| drop(message.properties.headers.insert(ATTEMPTS.into(), "00".into())),
            |message| drop(message.properties.headers.insert(DUE.into(), "2030-01-01T00:00:00Z".into())),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = message.clone();
            change(&mut changed);
            assert_eq!(Posting::of(&changed, &key("a")), None, "change {index}");
        }
        let again = Posting { attempts: 1, due: Some(Timestamp::UNIX_EPOCH), ..posting };
        assert_eq!(Posting::of(&again.stamp(message.clone(), &key("a")), &key("a")), Some(again));
        reply.properties.reply_to = Some("q".to_owned());
        assert_eq!(reply_in(message), reply);
        let queue = addressed(reply.clone(), &Job { reply_url: None, ..job }, &key("a"));
        assert_eq!(queue, (Destination::Reply(Some("q".to_owned())), reply));
    }
}
