//! Messages that this process holds: a queue of its own at the broker, consumed by nobody else.
//!
//! What is in it and in nobody's hands for [`super::topology::UNHELD_TTL`] goes to the job queue, so a process that dies
//! leaves nothing behind but an empty queue, which the broker removes after [`super::topology::HELD_EXPIRES`] without a
//! consumer. That it does is shown on a real broker by the tests of the queue's contract.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::LastPlace;
use super::connection::{BrokerConnection, Reconnect, short, within};
use super::delivery::ConnectionGeneration;
use super::topology::QueueDefinition;
use super::{AmqpPublisher, Config, Status};
use crate::queue::{Delivery, Holder, Message, QueueError};

/// Header by which a held message finds who waits for it.
const HELD: &str = "x-agentkit-held";

/// Holds messages over one connection that is rebuilt for ever.
#[derive(Debug)]
pub struct AmqpHolder {
    config: Arc<Config>,
    queue: String,
    publisher: Arc<AmqpPublisher>,
    waiting: Arc<Waiting>,
    connected: watch::Receiver<bool>,
    count: AtomicU64,
    _stop_on_drop: DropGuard,
}

/// Who waits for which message.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<String, oneshot::Sender<Delivery>>>);

impl Waiting {
    fn insert(&self, mark: String, waiting: oneshot::Sender<Delivery>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(mark, waiting);
    }

    fn remove(&self, mark: &str) -> Option<oneshot::Sender<Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(mark)
    }
}

/// Removes who waits, also where that is given up.
struct Place<'a>(&'a Waiting, &'a str);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.remove(self.1);
    }
}

impl AmqpHolder {
    /// Makes the queue of the process that is called `process`, and consumes it.
    pub(super) async fn start(
        config: Arc<Config>,
        process: &str,
        publisher: Arc<AmqpPublisher>,
        status: &Arc<Status>,
    ) -> Result<Self, QueueError> {
        let definition = QueueDefinition::held(&config.names(), process);
        let queue = definition.name.clone();
        let last = LastPlace::default();
        let first = match open(&config, &last, &definition).await {
            Err(error @ QueueError::Refused(_)) => return Err(error),
            // A broker that was there a moment ago and is not now is waited for, as later on.
            first => first.ok(),
        };
        let (sender, connected) = watch::channel(false);
        let (stop, waiting) = (CancellationToken::new(), Arc::new(Waiting::default()));
        let upkeep = supervise(config.clone(), last, definition, first, waiting.clone(), sender, stop.clone());
        status.keep(upkeep);
        let count = AtomicU64::new(0);
        Ok(Self { config, queue, publisher, waiting, connected, count, _stop_on_drop: stop.drop_guard() })
    }
}

#[async_trait]
impl Holder for AmqpHolder {
    async fn hold(&self, mut message: Message) -> Result<Delivery, QueueError> {
        let (timeout, mut connected) = (self.config.answer_timeout(), self.connected.clone());
        let up = tokio::time::timeout(timeout, connected.wait_for(|up| *up)).await;
        up.ok().and_then(Result::ok).ok_or_else(|| QueueError::Unavailable("not connected".to_owned()))?;
        let mark = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        message.properties.headers.insert(HELD.to_owned(), mark.clone());
        let (sender, delivered) = oneshot::channel();
        self.waiting.insert(mark.clone(), sender);
        let _place = Place(&self.waiting, &mark);
        self.publisher.publish_to(&self.queue, message).await?;
        let gone = || QueueError::Unavailable("the connection that holds messages is gone".to_owned());
        // One that is not waited for any more goes to the job queue.
        tokio::time::timeout(timeout, delivered).await.map_err(|_| QueueError::TimedOut(timeout))?.map_err(|_| gone())
    }
}

type Life = (Arc<ConnectionGeneration>, lapin::Consumer);

async fn open(config: &Config, last: &LastPlace, definition: &QueueDefinition) -> Result<Life, QueueError> {
    let timeout = config.answer_timeout();
    let link = BrokerConnection::open(config, last, "agentkit-worker held messages").await?;
    let declaring = link.channel(timeout).await?;
    definition.declare(&declaring, timeout).await?;
    let channel = link.channel(timeout).await?;
    let (queue, options) = (short(&definition.name)?, BasicConsumeOptions::default());
    let consume = channel.basic_consume(queue, "".into(), options, FieldTable::default());
    let consumer = within(timeout, consume).await?;
    Ok((ConnectionGeneration::new(link, channel, timeout, true), consumer))
}

/// Keeps the queue consumed until `stop`, for ever.
async fn supervise(
    config: Arc<Config>,
    last: LastPlace,
    definition: QueueDefinition,
    mut first: Option<Life>,
    waiting: Arc<Waiting>,
    connected: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut reconnect = Reconnect::new(&config);
    loop {
        let life = match first.take() {
            Some(life) => Some(life),
            None => reconnect.until_open(&stop, || open(&config, &last, &definition)).await,
        };
        let Some((generation, consumer)) = life else { return };
        reconnect.came_up();
        connected.send_replace(true);
        let reason = hand_out(&generation, consumer, &waiting, &stop).await;
        connected.send_replace(false);
        let Some(reason) = reason else { return };
        generation.end();
        tracing::warn!(reason, "the connection that holds messages is lost");
    }
}

/// Gives each message to who waits for it, until `stop` or the end of the connection, whose reason is returned.
async fn hand_out(
    generation: &Arc<ConnectionGeneration>,
    mut consumer: lapin::Consumer,
    waiting: &Waiting,
    stop: &CancellationToken,
) -> Option<String> {
    let mut lost = std::pin::pin!(generation.lost());
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = generation.over.cancelled() => return Some("a held message could not be settled".to_owned()),
            reason = &mut lost => return Some(reason),
            next = consumer.next() => next,
        };
        let delivery = match next {
            Some(Ok(delivery)) => generation.held_delivery(delivery),
            Some(Err(error)) => return Some(error.to_string()),
            None => return Some("the broker cancelled the consumer".to_owned()),
        };
        let claimant = delivery.message.properties.headers.get(HELD).and_then(|mark| waiting.remove(mark));
        let unclaimed = match claimant {
            Some(claimant) => claimant.send(delivery).err(),
            None => Some(delivery),
        };
        if let Some(delivery) = unclaimed {
            // Of an earlier connection, or given up: the job queue has it then.
            let _ = delivery.requeue().await;
        }
    }
}
