//! The jobs that were put aside: taken one at a time, by whoever has a place for one. A consumer would hold jobs that others
//! have a place for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Config;
use super::address::LastPlace;
use super::connection::{BrokerConnection, short, within};
use super::delivery::ConnectionGeneration;
use super::topology::{QueueDefinition, TopologyMode, backlog};
use crate::queue::{Backlog, Delivery, Lane, Look, QueueError};

/// The age at which a queue survives the death of its only node: see [`super::holder`].
const MATURE: Duration = Duration::from_secs(2);

/// Reads the lanes over a connection of its own, which is built anew where it failed.
#[derive(Debug)]
pub struct AmqpBacklog {
    config: Arc<Config>,
    last: LastPlace,
    open: Mutex<Option<Arc<OpenBacklog>>>,
}

/// One connection's life.
#[derive(Debug)]
struct OpenBacklog {
    generation: Arc<ConnectionGeneration>,
    /// For looks: a queue that is missing costs the channel, which is not to be that of deliveries.
    looking: Channel,
    /// The lanes that there are.
    lanes: Vec<(Lane, QueueDefinition)>,
    mature: Instant,
}

impl AmqpBacklog {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, last: LastPlace::default(), open: Mutex::default() }
    }

    async fn open(&self) -> Result<Arc<OpenBacklog>, QueueError> {
        let mut present = self.open.lock().await;
        if let Some(open) = present.as_ref().filter(|open| open.is_up()) {
            return Ok(open.clone());
        }
        if let Some(gone) = present.take() {
            gone.generation.end();
        }
        let opened = Arc::new(OpenBacklog::new(&self.config, &self.last).await?);
        Ok(present.insert(opened).clone())
    }

    /// What came of a question; a connection over which one failed is left.
    async fn asked<T>(&self, open: &OpenBacklog, answer: Result<T, QueueError>) -> Result<T, QueueError> {
        if answer.is_err() {
            open.generation.end();
            self.open.lock().await.take_if(|present| !present.is_up());
        }
        answer
    }
}

impl OpenBacklog {
    async fn new(config: &Config, last: &LastPlace) -> Result<Self, QueueError> {
        let timeout = config.answer_timeout();
        let link = BrokerConnection::open(config, last, "agentkit-worker backlog").await?;
        let all = Lane::all().zip(backlog(&config.names())).filter(|_| config.lanes);
        let each = all.map(|lane| present(&link, config.topology, timeout, lane));
        let lanes: Result<Vec<_>, QueueError> = join_all(each).await.into_iter().collect();
        let lanes: Vec<_> = lanes?.into_iter().flatten().collect();
        if config.lanes && lanes.len() < Lane::COUNT {
            tracing::warn!(
                "queues of the backlog do not exist, or may not be read: jobs are chosen from those fetched alone"
            );
        }
        let (looking, channel) = (link.channel(timeout).await?, link.channel(timeout).await?);
        let generation = ConnectionGeneration::new(link, channel, timeout, true);
        Ok(Self { generation, looking, lanes, mature: Instant::now() + MATURE })
    }

    fn is_up(&self) -> bool {
        let generation = &self.generation;
        let channels = [&generation.channel, &self.looking];
        !generation.over.is_cancelled()
            && generation.link.is_up()
            && channels.iter().all(|channel| channel.status().connected())
    }

    async fn look(&self, jobs: QueueDefinition) -> Result<Look, QueueError> {
        let (timeout, mut filled) = (self.generation.timeout, Vec::new());
        for (lane, definition) in &self.lanes {
            let found = definition.look(&self.looking, timeout).await?;
            if found.is_some_and(|found| found.message_count() > 0) {
                filled.push(*lane);
            }
        }
        let jobs = jobs.look(&self.looking, timeout).await?;
        let takes = self.lanes.len() == Lane::COUNT && Instant::now() >= self.mature;
        Ok(Look { filled, takes, alone: jobs.is_some_and(|jobs| jobs.consumer_count() <= 1) })
    }

    async fn take(&self, lane: Lane) -> Result<Option<Delivery>, QueueError> {
        let Some((_, definition)) = self.lanes.iter().find(|(found, _)| *found == lane) else { return Ok(None) };
        let get = self.generation.channel.basic_get(short(&definition.name)?, BasicGetOptions::default());
        let taken = within(self.generation.timeout, get).await?;
        Ok(taken.map(|message| self.generation.delivery(message.delivery)))
    }
}

/// The lane, if it is there once `mode` was followed. A channel of its own each, as an error closes the channel.
async fn present(
    link: &BrokerConnection,
    mode: TopologyMode,
    timeout: Duration,
    (lane, definition): (Lane, QueueDefinition),
) -> Result<Option<(Lane, QueueDefinition)>, QueueError> {
    let channel = link.channel(timeout).await?;
    let is_there = match mode {
        TopologyMode::Declare => definition.declare(&channel, timeout).await.map(|_| true),
        TopologyMode::Verify | TopologyMode::None => is_usable(&definition, &channel, timeout).await,
    };
    is_there.map(|is_there| is_there.then_some((lane, definition)))
}

/// Whether a lane that somebody else has made is there, and may be read: what is put there must come out again.
async fn is_usable(definition: &QueueDefinition, channel: &Channel, timeout: Duration) -> Result<bool, QueueError> {
    let asked = async {
        if definition.look(channel, timeout).await?.is_none() {
            return Ok(false);
        }
        let get = channel.basic_get(short(&definition.name)?, BasicGetOptions::default());
        if let Some(message) = within(timeout, get).await? {
            within(timeout, message.delivery.acker.reject(BasicRejectOptions { requeue: true })).await?;
        }
        Ok(true)
    };
    match asked.await {
        Err(QueueError::Refused(_)) => Ok(false),
        answer => answer,
    }
}

#[async_trait]
impl Backlog for AmqpBacklog {
    async fn look(&self) -> Result<Look, QueueError> {
        let open = self.open().await?;
        let looked = open.look(QueueDefinition::new(self.config.names().jobs())).await;
        self.asked(&open, looked).await
    }

    async fn take(&self, lane: Lane) -> Result<Option<Delivery>, QueueError> {
        let open = self.open().await?;
        let taken = open.take(lane).await;
        self.asked(&open, taken).await
    }
}
