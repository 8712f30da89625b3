//! Deliveries and how they are settled.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicRejectOptions, ConfirmSelectOptions};
use lapin::{Acker, Channel, Event};
use tokio_util::sync::CancellationToken;

use super::connection::{BrokerConnection, within};
use super::message;
use crate::queue::{Delivery, QueueError, Settle};

/// One life of a connection that deliveries come over. Lives until the last of them is settled or dropped.
#[derive(Debug)]
pub(super) struct ConnectionGeneration {
    pub(super) link: BrokerConnection,
    pub(super) channel: Channel,
    pub(super) timeout: Duration,
    /// Cancelled when the connection is given up: from then on the broker delivers everything unsettled again.
    pub(super) over: CancellationToken,
    /// Whether a delivery that is dropped unsettled goes back at once, and not with the connection's end.
    requeues_dropped: bool,
}

impl ConnectionGeneration {
    pub(super) fn new(
        link: BrokerConnection,
        channel: Channel,
        timeout: Duration,
        requeues_dropped: bool,
    ) -> Arc<Self> {
        Arc::new(Self { link, channel, timeout, over: CancellationToken::new(), requeues_dropped })
    }

    /// Gives the connection up.
    pub(super) fn end(&self) {
        self.over.cancel();
        self.link.cut();
    }

    /// Returns once the connection or its channel is lost, with the reason.
    pub(super) async fn lost(&self) -> String {
        let mut events = pin!(self.link.connection.events_listener());
        let mut reason = "connection closed".to_owned();
        while self.link.is_up() && self.channel.status().connected() {
            match events.next().await {
                Some(Event::Error(error)) => reason = error.to_string(),
                Some(_) => {}
                None => break,
            }
        }
        reason
    }

    /// Our form of a delivery.
    pub(super) fn delivery(self: &Arc<Self>, delivery: lapin::message::Delivery) -> Delivery {
        let message = message::from_wire(delivery.data, &delivery.properties);
        let settle = AmqpSettle { generation: self.clone(), acker: delivery.acker, back: Back::ToTheQueue };
        Delivery::new(message, delivery.redelivered, Box::new(settle))
    }

    /// The same for a message of a queue whose dead letters are jobs: it goes back by being dead-lettered.
    pub(super) fn held_delivery(self: &Arc<Self>, delivery: lapin::message::Delivery) -> Delivery {
        let message = message::from_wire(delivery.data, &delivery.properties);
        let settle = AmqpSettle { generation: self.clone(), acker: delivery.acker, back: Back::ToTheJobs };
        Delivery::new(message, delivery.redelivered, Box::new(settle))
    }
}

#[derive(Debug)]
struct AmqpSettle {
    generation: Arc<ConnectionGeneration>,
    acker: Acker,
    back: Back,
}

/// Where a message goes that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    ToTheQueue,
    /// To where that queue's dead letters go.
    ToTheJobs,
}

impl Back {
    /// `reject`, not `nack`: from RabbitMQ 4.3 on a `nack` does not count towards the delivery limit (measured), and a message
    /// that nobody can deal with would go round for ever.
    async fn give(self, acker: &Acker) -> lapin::Result<bool> {
        acker.reject(BasicRejectOptions { requeue: self == Self::ToTheQueue }).await
    }
}

impl AmqpSettle {
    async fn settle(&self, answer: impl Future<Output = lapin::Result<bool>>) -> Result<(), QueueError> {
        if self.is_lost() {
            return Err(QueueError::DeliveryLost);
        }
        let settled = within(self.generation.timeout, answer).await;
        // `false`: the channel is gone, nothing was sent.
        if let Ok(true) = settled {
            return Ok(());
        }
        self.generation.end();
        settled.and(Err(QueueError::DeliveryLost))
    }
}

/// A task that panicked would otherwise hold its delivery until the broker's consumer timeout.
impl Drop for AmqpSettle {
    fn drop(&mut self) {
        let (generation, acker, back) = (self.generation.clone(), self.acker.clone(), self.back);
        if !generation.requeues_dropped || generation.over.is_cancelled() || !acker.usable() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tracing::warn!("a delivery was dropped and goes back to the queue");
                // Where this fails, the end of the connection gives it back.
                let _ = within(generation.timeout, back.give(&acker)).await;
            });
        }
    }
}

#[async_trait]
impl Settle for AmqpSettle {
    async fn ack(&self) -> Result<(), QueueError> {
        self.settle(self.acker.ack(BasicAckOptions::default())).await
    }

    /// An ack has no answer of its own. A channel answers in order, so the answer to anything that is asked after it says
    /// that it has arrived; a channel that confirms already loses nothing by being asked to.
    async fn ack_for_certain(&self) -> Result<(), QueueError> {
        self.ack().await?;
        let asked = self.generation.channel.confirm_select(ConfirmSelectOptions { nowait: false });
        // One slow answer is no reason to end the connection of all others: the heartbeats notice one that is dead.
        within(self.generation.timeout, asked).await
    }

    async fn requeue(&self) -> Result<(), QueueError> {
        self.settle(self.back.give(&self.acker)).await
    }

    async fn reject(&self) -> Result<(), QueueError> {
        self.settle(self.acker.reject(BasicRejectOptions { requeue: false })).await
    }

    fn is_lost(&self) -> bool {
        let generation = &self.generation;
        generation.over.is_cancelled() || !generation.link.is_up() || !generation.channel.status().connected()
    }
}
