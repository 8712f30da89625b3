//! A private queue for the replies to one caller.

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::address::LastPlace;
use super::connection::{BrokerConnection, within};
use super::{Config, message};
use crate::queue::{Message, QueueError};

/// An exclusive queue on a connection of its own: it is gone with its owner, and replies then go to the common reply queue.
#[derive(Debug)]
pub struct ReplyInbox {
    name: String,
    consumer: lapin::Consumer,
    _link: BrokerConnection,
}

impl ReplyInbox {
    /// Connects and makes the queue.
    pub async fn open(config: &Config) -> Result<Self, QueueError> {
        let timeout = config.answer_timeout();
        let link = BrokerConnection::open(config, &LastPlace::default(), "agentkit-worker replies").await?;
        let channel = link.channel(timeout).await?;
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let queue = within(timeout, channel.queue_declare("".into(), options, FieldTable::default())).await?;
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let consume = channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default());
        let consumer = within(timeout, consume).await?;
        Ok(Self { name: queue.name().to_string(), consumer, _link: link })
    }

    /// The queue's name, for `reply_to`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next reply. After an error the queue is gone, with the replies in it: open another and publish the job again
    /// under the same id, the worker then sends the same reply again.
    pub async fn next(&mut self) -> Result<Message, QueueError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(message::from_wire(delivery.data, &delivery.properties)),
            Some(Err(error)) => Err(super::connection::explain(&error)),
            None => Err(QueueError::Unavailable("the reply queue is gone".to_owned())),
        }
    }
}
