//! Messages that this process holds: a queue of its own at the broker, consumed by nobody else.
//!
//! What is in it and in nobody's hands for [`super::topology::UNHELD_TTL`] goes to the job queue, so a process that dies
//! leaves nothing behind but an empty queue, which the broker removes after [`super::topology::HELD_EXPIRES`] without a
//! consumer. That it does is shown on a real broker by the tests of the queue's contract.
//!
//! A quorum queue younger than a second does not survive the death of its only node: it has no leader ever after, and what was
//! confirmed in it is gone (measured on 3.10 and 4.0; 4.3 loses the messages alone). So nothing is put into one before it is
//! [`MATURE`], and one that does not answer is left to its expiry for another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::LastPlace;
use super::connection::{BrokerConnection, Reconnect, short, within};
use super::delivery::ConnectionGeneration;
use super::topology::QueueDefinition;
use super::{AmqpPublisher, Config, Status};
use crate::queue::{Delivery, Holder, Message, QueueError};

/// Header by which a held message finds who waits for it.
const HELD: &str = "x-agentkit-held";
/// The age at which a queue survives.
const MATURE: Duration = Duration::from_secs(2);

/// Holds messages over one connection that is rebuilt for ever.
#[derive(Debug)]
pub struct AmqpHolder {
    config: Arc<Config>,
    publisher: Arc<AmqpPublisher>,
    waiting: Arc<Waiting>,
    /// The queue that is consumed at present.
    connected: watch::Receiver<Option<HeldQueue>>,
    count: AtomicU64,
    _stop_on_drop: DropGuard,
}

/// A queue for held messages.
#[derive(Debug, Clone)]
struct HeldQueue {
    definition: QueueDefinition,
    /// How many there were before it.
    number: u32,
    /// From then on what is in it survives.
    mature: Option<Instant>,
}

impl HeldQueue {
    fn new(config: &Config, process: &str, number: u32) -> Self {
        let name = if number == 0 { process.to_owned() } else { format!("{process}.{number}") };
        Self { definition: QueueDefinition::held(&config.names(), &name), number, mature: None }
    }
}

/// The queues of a process, one after another.
struct HeldQueues {
    config: Arc<Config>,
    process: String,
    last: LastPlace,
    present: Mutex<HeldQueue>,
}

impl HeldQueues {
    fn new(config: Arc<Config>, process: &str) -> Self {
        let present = Mutex::new(HeldQueue::new(&config, process, 0));
        Self { config, process: process.to_owned(), last: LastPlace::default(), present }
    }

    /// Connects, and consumes the present queue; where that does not come about, the next try is with another one.
    async fn open(&self) -> Result<Life, QueueError> {
        let timeout = self.config.answer_timeout();
        let link = BrokerConnection::open(&self.config, &self.last, "agentkit-worker held messages").await?;
        let mut queue = self.present().clone();
        match consume(&link, &queue.definition, timeout).await {
            Ok((channel, consumer)) => {
                queue.mature.get_or_insert_with(|| Instant::now() + MATURE);
                *self.present() = queue.clone();
                Ok(Life { generation: ConnectionGeneration::new(link, channel, timeout, true), consumer, queue })
            }
            Err(error) => {
                if link.is_up() && !matches!(error, QueueError::Refused(_)) {
                    tracing::warn!(queue = queue.definition.name, %error, "the queue of held messages is left for another");
                    *self.present() = HeldQueue::new(&self.config, &self.process, queue.number + 1);
                }
                link.cut();
                Err(error)
            }
        }
    }

    fn present(&self) -> std::sync::MutexGuard<'_, HeldQueue> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's life.
struct Life {
    generation: Arc<ConnectionGeneration>,
    consumer: lapin::Consumer,
    queue: HeldQueue,
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
    /// Makes a queue of the process that is called `process`, and consumes it.
    pub(super) async fn start(
        config: Arc<Config>,
        process: &str,
        publisher: Arc<AmqpPublisher>,
        status: &Arc<Status>,
    ) -> Result<Self, QueueError> {
        let queues = HeldQueues::new(config.clone(), process);
        let first = match queues.open().await {
            Err(error @ QueueError::Refused(_)) => return Err(error),
            // A broker that was there a moment ago and is not now is waited for, as later on.
            first => first.ok(),
        };
        let (sender, connected) = watch::channel(None);
        let (stop, waiting) = (CancellationToken::new(), Arc::new(Waiting::default()));
        status.keep(supervise(queues, first, waiting.clone(), sender, stop.clone()));
        let count = AtomicU64::new(0);
        Ok(Self { config, publisher, waiting, connected, count, _stop_on_drop: stop.drop_guard() })
    }
}

#[async_trait]
impl Holder for AmqpHolder {
    async fn hold(&self, mut message: Message) -> Result<Delivery, QueueError> {
        let (timeout, mut connected) = (self.config.answer_timeout(), self.connected.clone());
        let found = tokio::time::timeout(timeout, connected.wait_for(Option::is_some)).await;
        let queue = found.ok().and_then(|found| found.ok()?.clone());
        let queue = queue.ok_or_else(|| QueueError::Unavailable("not connected".to_owned()))?;
        if let Some(mature) = queue.mature {
            tokio::time::sleep_until(mature).await;
        }
        let mark = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        message.properties.headers.insert(HELD.to_owned(), mark.clone());
        let (sender, delivered) = oneshot::channel();
        self.waiting.insert(mark.clone(), sender);
        let _place = Place(&self.waiting, &mark);
        self.publisher.publish_to(&queue.definition.name, message).await?;
        let gone = || QueueError::Unavailable("the connection that holds messages is gone".to_owned());
        // One that is not waited for any more goes to the job queue.
        tokio::time::timeout(timeout, delivered).await.map_err(|_| QueueError::TimedOut(timeout))?.map_err(|_| gone())
    }
}

async fn consume(
    link: &BrokerConnection,
    definition: &QueueDefinition,
    timeout: Duration,
) -> Result<(Channel, lapin::Consumer), QueueError> {
    let declaring = link.channel(timeout).await?;
    definition.declare(&declaring, timeout).await?;
    let channel = link.channel(timeout).await?;
    let (queue, options) = (short(&definition.name)?, BasicConsumeOptions::default());
    let consumer = within(timeout, channel.basic_consume(queue, "".into(), options, FieldTable::default())).await?;
    Ok((channel, consumer))
}

/// Keeps a queue consumed until `stop`, for ever.
async fn supervise(
    queues: HeldQueues,
    mut first: Option<Life>,
    waiting: Arc<Waiting>,
    connected: watch::Sender<Option<HeldQueue>>,
    stop: CancellationToken,
) {
    let mut reconnect = Reconnect::new(&queues.config);
    loop {
        let life = match first.take() {
            Some(life) => Some(life),
            None => reconnect.until_open(&stop, || queues.open()).await,
        };
        let Some(Life { generation, consumer, queue }) = life else { return };
        reconnect.came_up();
        connected.send_replace(Some(queue));
        let reason = hand_out(&generation, consumer, &waiting, &stop).await;
        connected.send_replace(None);
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
