//! Consuming: one consumer of a job queue on a connection that is rebuilt for ever.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::LastPlace;
use super::connection::{BrokerConnection, Reconnect, short, within};
use super::delivery::ConnectionGeneration;
use super::topology::TopologyMode;
use super::{Config, Status, topology};
use crate::queue::{Consumer, Delivery, QueueError};

/// The consumer of a job queue. Its connection is kept up also while nobody calls [`Consumer::next`].
#[derive(Debug)]
pub struct AmqpConsumer {
    deliveries: mpsc::Receiver<(Arc<ConnectionGeneration>, Delivery)>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    _stop_on_drop: DropGuard,
}

impl AmqpConsumer {
    pub(super) fn start(config: Arc<Config>, queue: String, prefetch: u16, status: Arc<Status>) -> Self {
        let stop = CancellationToken::new();
        let (sender, deliveries) = mpsc::channel(1);
        status.consumers.fetch_add(1, Ordering::Relaxed);
        let task = status.keep(supervise(config, queue, prefetch, sender, status.clone(), stop.clone()));
        Self { deliveries, stop: stop.clone(), task: Some(task), _stop_on_drop: stop.drop_guard() }
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let (generation, delivery) = self.deliveries.recv().await?;
            // One that outlived its connection comes again.
            if !generation.over.is_cancelled() {
                return Some(delivery);
            }
        }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.deliveries.close();
        while let Some((_, delivery)) = self.deliveries.recv().await {
            // Where this fails, the end of the connection gives it back.
            let _ = delivery.requeue().await;
        }
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// Keeps a consumer registered until `stop`, for ever.
async fn supervise(
    config: Arc<Config>,
    queue: String,
    prefetch: u16,
    deliveries: mpsc::Sender<(Arc<ConnectionGeneration>, Delivery)>,
    status: Arc<Status>,
    stop: CancellationToken,
) {
    let mut reconnect = Reconnect::new(&config);
    let (last, mut lives) = (LastPlace::default(), 0_u64);
    while let Some(life) = reconnect.until_open(&stop, || open(&config, &last, &queue, prefetch)).await {
        let (generation, consumer) = life;
        status.reconnects.fetch_add(u64::from(lives > 0), Ordering::Relaxed);
        lives += 1;
        status.consuming.fetch_add(1, Ordering::Relaxed);
        tracing::info!(queue = %consumer.queue(), prefetch, server = generation.link.server, "consuming");
        let ended = pass_on(&generation, consumer, &deliveries, &stop).await;
        status.consuming.fetch_sub(1, Ordering::Relaxed);
        let Err(reason) = ended else { break };
        generation.end();
        tracing::warn!(reason, "consuming connection lost");
    }
    status.consumers.fetch_sub(1, Ordering::Relaxed);
}

async fn open(
    config: &Config,
    last: &LastPlace,
    queue: &str,
    prefetch: u16,
) -> Result<(Arc<ConnectionGeneration>, lapin::Consumer), QueueError> {
    let (names, timeout) = (config.names(), config.answer_timeout());
    let link = BrokerConnection::open(config, last, "agentkit-worker consumer").await?;
    topology::establish(&link, &names, config.topology, timeout).await?;
    if config.topology == TopologyMode::Verify && queue == names.jobs() {
        for difference in topology::differences(&link, &names, timeout).await? {
            tracing::warn!(difference, "a queue is not as this worker would have made it, and is used as it is");
        }
    }
    let channel = link.channel(timeout).await?;
    // Per consumer: quorum queues refuse the other kind (measured on 3.10 and 4.0).
    within(timeout, channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
    let queue = short(queue)?;
    let consume = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let consumer = within(timeout, consume).await?;
    Ok((ConnectionGeneration::new(link, channel, timeout, true), consumer))
}

/// Passes deliveries on until `stop`; an error is the reason why the generation is over.
async fn pass_on(
    generation: &Arc<ConnectionGeneration>,
    mut consumer: lapin::Consumer,
    deliveries: &mpsc::Sender<(Arc<ConnectionGeneration>, Delivery)>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let mut lost = pin!(generation.lost());
    // Fetched also while nobody takes them: behind them the stream tells its end, which from RabbitMQ 4.3 on is all that a
    // consumer timeout does.
    let mut fetched = VecDeque::new();
    loop {
        let place = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = generation.over.cancelled() => return Err("a delivery could not be settled".to_owned()),
            reason = &mut lost => return Err(reason),
            next = consumer.next() => match next {
                Some(Ok(delivery)) => {
                    fetched.push_back(delivery);
                    continue;
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the broker cancelled the consumer".to_owned()),
            },
            place = deliveries.reserve(), if !fetched.is_empty() => place,
        };
        let Ok(place) = place else { break };
        if let Some(delivery) = fetched.pop_front() {
            place.send((generation.clone(), generation.delivery(delivery)));
        }
    }
    give_back(generation, consumer, fetched).await;
    Ok(())
}

/// Ends the consumer and gives back what was fetched ahead. The connection stays for the deliveries handed out.
async fn give_back(
    generation: &Arc<ConnectionGeneration>,
    mut consumer: lapin::Consumer,
    fetched: VecDeque<lapin::message::Delivery>,
) {
    let cancel = generation.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    if within(generation.timeout, cancel).await.is_err() {
        return;
    }
    let rest = async {
        for delivery in fetched {
            let _ = generation.delivery(delivery).requeue().await;
        }
        while let Some(Ok(delivery)) = consumer.next().await {
            let _ = generation.delivery(delivery).requeue().await;
        }
    };
    let _ = tokio::time::timeout(generation.timeout, rest).await;
}
