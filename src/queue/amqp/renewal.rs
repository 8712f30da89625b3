//! Making a queue of an earlier version anew.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use super::connection::{BrokerConnection, short, within};
use super::names::QueueNames;
use super::topology::{Declared, QueueDefinition, TopologyMode};
use crate::queue::QueueError;

/// Makes the common reply queue of an earlier version anew where nothing can get lost by that: it is empty, and no worker is
/// at work that could publish to it, nor reconnect and find a queue that it does not know. What can go wrong here is found
/// and told where the queues are made sure of.
pub(super) async fn renew_replies(link: &BrokerConnection, names: &QueueNames, mode: TopologyMode, timeout: Duration) {
    let replies = QueueDefinition::replies(names);
    if mode != TopologyMode::Declare {
        return;
    }
    let Ok(Declared::Earlier(found)) = replies.declare_or_take(link, names, timeout).await else { return };
    if found.message_count() == 0 && found.consumer_count() == 0 && renewed(link, names, timeout).await.is_ok() {
        return tracing::info!(queue = replies.name, "the reply queue of an earlier version was made anew");
    }
    tracing::warn!(
        queue = replies.name,
        "an earlier version made this queue: when it is full its oldest replies are dropped without a word; read or move \
         what is in it, stop all workers, and start one: it makes the queue anew"
    );
}

/// Deletes and declares the common reply queue, unless somebody else is at work. Quorum queues know neither `if-empty` nor
/// `if-unused`: an exclusive queue keeps two workers that start from doing it one after the other.
async fn renewed(link: &BrokerConnection, names: &QueueNames, timeout: Duration) -> Result<(), QueueError> {
    let (channel, replies) = (link.channel(timeout).await?, QueueDefinition::replies(names));
    let lock = short(&format!("{}.renewal", replies.name))?;
    let exclusive = channel.queue_declare(lock.clone(), QueueDeclareOptions::exclusive(), FieldTable::default());
    within(timeout, exclusive).await?;
    let renew = async {
        let jobs = QueueDefinition::new(names.jobs()).look(&link.channel(timeout).await?, timeout).await?;
        let alone = jobs.is_none_or(|jobs| jobs.consumer_count() == 0);
        let found = replies.declare_or_take(link, names, timeout).await?;
        match found {
            Declared::Earlier(found) if alone && found.message_count() == 0 => {
                let name = short(&replies.name)?;
                within(timeout, channel.queue_delete(name, QueueDeleteOptions::default())).await?;
                replies.declare(&channel, timeout).await.map(drop)
            }
            Declared::Earlier(_) => Err(QueueError::Refused("it is in use".to_owned())),
            Declared::AsDefined => Ok(()),
        }
    };
    let renewed = renew.await;
    within(timeout, channel.queue_delete(lock, QueueDeleteOptions::default())).await?;
    renewed
}
