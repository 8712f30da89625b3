//! Jobs and their replies, seen from their caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio::time::{Instant, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::surroundings::{Surroundings, until};

/// The type of the reply that ends a job well.
pub(crate) const COMPLETED: &str = "agentkit.job.completed";
pub(crate) const PROMPT: &str = "Look through my last five mails and tell me which of them need an answer before noon.";

/// A caller with a reply queue of its own.
pub(crate) struct Load {
    seen: Arc<Seen>,
    reply_to: String,
    /// A job's user is one of so many; each job has one of its own where there are none.
    users: Option<u64>,
    next: Mutex<u64>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Seen {
    replies: Mutex<HashMap<String, Instant>>,
    last: Mutex<String>,
}

impl Load {
    pub(crate) async fn start(surroundings: &Surroundings, users: Option<u64>) -> Self {
        let reply_to = format!("{}.load", surroundings.amqp.prefix);
        let connection = surroundings.broker.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(reply_to.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume(reply_to.as_str().into(), "".into(), options, FieldTable::default());
        let (mut consumer, seen) = (consume.await.unwrap(), Arc::new(Seen::default()));
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let _connection = (connection, channel);
            while let Some(delivery) = consumer.next().await {
                let (delivery, now) = (delivery.unwrap(), Instant::now());
                let kind = delivery.properties.kind().as_ref().map(ToString::to_string);
                assert_eq!(kind.as_deref(), Some(COMPLETED), "{}", String::from_utf8_lossy(&delivery.data));
                let id = delivery.properties.correlation_id().as_ref().unwrap().to_string();
                *kept.last.lock().unwrap() = String::from_utf8(delivery.data).unwrap();
                kept.replies.lock().unwrap().entry(id).or_insert(now);
            }
        });
        Self { seen, reply_to, users, next: Mutex::new(0), _task: AbortOnDropHandle::new(task) }
    }

    /// So many jobs, handed over as fast as they are taken.
    pub(crate) async fn hand_over(&self, surroundings: &Surroundings, jobs: u64) -> Vec<String> {
        let ids: Vec<(u64, String)> = (0..jobs).map(|_| self.next()).collect();
        let publish = async |(number, id): (u64, String)| {
            self.publish(surroundings, number, &id).await;
            id
        };
        futures_util::stream::iter(ids).map(publish).buffer_unordered(crate::surroundings::CALLERS).collect().await
    }

    /// Waits until all of them have their replies, and gives the last one's.
    pub(crate) async fn answered(&self, ids: &[String]) -> String {
        let mut left: Vec<&String> = ids.iter().collect();
        until("all are answered", async || {
            let replies = self.seen.replies.lock().unwrap();
            while left.last().is_some_and(|id| replies.contains_key(*id)) {
                left.pop();
            }
            left.is_empty()
        })
        .await;
        self.seen.last.lock().unwrap().clone()
    }

    /// Jobs at a fixed rate, whatever becomes of those before; gives the time from when each was due to its reply.
    pub(crate) async fn at_rate(&self, surroundings: &Surroundings, rate: u64, seconds: u64) -> Vec<Duration> {
        let mut beat = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
        let mut due = Vec::new();
        let mut publishing = futures_util::stream::FuturesUnordered::new();
        let end = rate * seconds;
        while (due.len() as u64) < end {
            tokio::select! {
                at = beat.tick() => {
                    let (number, id) = self.next();
                    due.push((id.clone(), at));
                    publishing.push(async move { self.publish(surroundings, number, &id).await });
                }
                Some(()) = publishing.next() => {}
            }
        }
        while publishing.next().await.is_some() {}
        let ids: Vec<String> = due.iter().map(|(id, _)| id.clone()).collect();
        self.answered(&ids).await;
        let replies = self.seen.replies.lock().unwrap();
        due.iter().map(|(id, at)| replies[id].saturating_duration_since(*at)).collect()
    }

    fn next(&self) -> (u64, String) {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        (*next, format!("job-{next:08}"))
    }

    async fn publish(&self, surroundings: &Surroundings, number: u64, id: &str) {
        let user = self.users.map_or(number, |users| number % users);
        let body =
            json!({"id": id, "identifier": format!("user-{user:08}"), "connections": ["gmail"], "prompt": PROMPT});
        let properties = Properties {
            message_id: Some(id.to_owned()),
            correlation_id: Some(id.to_owned()),
            reply_to: Some(self.reply_to.clone()),
            ..Properties::default()
        };
        let message = Message { body: body.to_string().into(), properties };
        surroundings.publisher.publish(&Destination::Jobs, message).await.unwrap();
    }
}
