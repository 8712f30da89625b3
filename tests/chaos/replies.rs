//! The caller's side: takes the replies off their queue, whatever becomes of the broker meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

/// The terminal replies of each job, those that are alike once.
type Terminal = BTreeMap<String, Vec<Value>>;

/// Replies as they came.
pub(crate) struct ReplyCollector {
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Seen {
    terminal: Terminal,
    /// All messages, the same ones sent again included.
    messages: u64,
    interim: u64,
}

impl ReplyCollector {
    /// Makes the queue and consumes it until dropped.
    pub(crate) async fn start(url: &str, queue: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (url, queue, kept) = (url.to_owned(), queue.to_owned(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                // However it ends, what was not acked comes again.
                let _ = consume(&url, &queue, &kept).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// The terminal replies of each job so far.
    pub(crate) fn terminal(&self) -> Terminal {
        self.seen.lock().unwrap().terminal.clone()
    }

    /// Jobs that have a terminal reply.
    pub(crate) fn answered(&self) -> usize {
        self.seen.lock().unwrap().terminal.len()
    }

    /// The same, for a task.
    pub(crate) fn counter(&self) -> impl Fn() -> usize + Send + 'static {
        let seen = Arc::clone(&self.seen);
        move || seen.lock().unwrap().terminal.len()
    }

    /// Messages, and those among them that were not terminal.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let seen = self.seen.lock().unwrap();
        (seen.messages, seen.interim)
    }
}

async fn consume(url: &str, queue: &str, seen: &Mutex<Seen>) -> lapin::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        seen.lock().unwrap().note(&delivery.data);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

impl Seen {
    fn note(&mut self, body: &[u8]) {
        let reply: Value = serde_json::from_slice(body).unwrap();
        self.messages += 1;
        let kind = reply["type"].as_str().unwrap_or_default();
        if !["agentkit.job.completed", "agentkit.job.failed"].contains(&kind) && reply["data"]["final"] != true {
            self.interim += 1;
            return;
        }
        let known = self.terminal.entry(reply["subject"].as_str().unwrap().to_owned()).or_default();
        if !known.contains(&reply) {
            known.push(reply);
        }
    }
}
