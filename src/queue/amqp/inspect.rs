//! Looking at the broker without working: its version, the state of the queues, the dead letters.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::options::BasicGetOptions;

use super::Config;
use super::address::{Address, LastPlace, addresses, none_served};
use super::connection::{BrokerConnection, short, within};
use super::delivery::ConnectionGeneration;
use super::greeting::{Greeting, greeting};
use super::topology::{ACCESS_REFUSED, Declared};
use crate::queue::{Delivery, QueueError};

/// What a broker says of itself, and how its queues are.
#[derive(Debug, Clone)]
pub struct BrokerFacts {
    /// Each address of `amqp.url`, in its order; at least one takes connections.
    pub addresses: Vec<AddressFacts>,
    /// Every queue the worker needs.
    pub queues: Vec<QueueFacts>,
}

/// Who is found at an address.
#[derive(Debug, Clone)]
pub struct AddressFacts {
    /// Host and port.
    pub address: String,
    /// What the node there says of itself, once it has let us in.
    pub answer: Result<Greeting, QueueError>,
}

/// What a passive declaration and one with our arguments tell of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueFacts {
    /// With its prefix, such as `agentkit.jobs`.
    pub name: String,
    /// Whether it is there, how full, and with the arguments we need.
    pub state: QueueState,
}

/// What the broker answers to declarations of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueState {
    /// It does not exist.
    Missing,
    /// It answers a passive declaration.
    Present {
        /// Messages ready for delivery; may be wrong right after a broker's restart.
        messages: u32,
        /// Consumers of all processes together.
        consumers: u32,
        /// What is wrong with its arguments, in words. `None` also where we may not ask.
        mismatch: Option<String>,
    },
    /// It exists as an earlier version declared it, which will do, and should be made anew.
    Earlier,
    /// The broker does not let us look, and why.
    Hidden(String),
}

/// Looks at the broker: at each of its addresses, and at its queues over one of them. Makes no queue.
pub async fn inspect(config: &Config) -> Result<BrokerFacts, QueueError> {
    let known = addresses(config)?;
    let (mut links, mut failures, mut facts) = (Vec::new(), Vec::new(), Vec::new());
    for (place, found) in join_all(known.iter().map(|address| visit(config, address))).await.into_iter().enumerate() {
        let answer = match found {
            Ok((link, greeting)) => {
                links.push(link);
                Ok(greeting)
            }
            Err(error) => {
                failures.push((place, error.clone()));
                Err(error)
            }
        };
        facts.push(AddressFacts { address: known[place].to_string(), answer });
    }
    let [link, ..] = links.as_slice() else { return Err(none_served(&known, failures)) };
    let timeout = config.answer_timeout();
    let (names, mut queues) = (config.names(), Vec::new());
    for definition in config.definitions() {
        let state = match definition.look(&link.channel(timeout).await?, timeout).await {
            Ok(None) => QueueState::Missing,
            // To declare a queue that exists changes nothing and compares the arguments.
            Ok(Some(queue)) => match definition.declare_or_take(link, &names, timeout).await {
                Ok(Declared::Earlier(_)) => QueueState::Earlier,
                declared => QueueState::Present {
                    messages: queue.message_count(),
                    consumers: queue.consumer_count(),
                    mismatch: match declared {
                        Err(QueueError::Refused(words)) if !words.contains(ACCESS_REFUSED) => Some(words),
                        _ => None,
                    },
                },
            },
            Err(QueueError::Refused(words)) => QueueState::Hidden(words),
            Err(error) => return Err(error),
        };
        queues.push(QueueFacts { name: definition.name, state });
    }
    Ok(BrokerFacts { addresses: facts, queues })
}

async fn visit(config: &Config, address: &Address) -> Result<(BrokerConnection, Greeting), QueueError> {
    let link = BrokerConnection::open_at(config, address, "agentkit-worker doctor").await?;
    Ok((link, greeting(config, address).await?))
}

/// The dead-letter queue, one letter at a time. A letter that is neither acked nor put back returns to the queue when
/// this is dropped.
#[derive(Debug)]
pub struct DeadLetters {
    generation: Arc<ConnectionGeneration>,
    queue: String,
}

impl DeadLetters {
    /// Connects; the queue must exist.
    pub async fn open(config: &Config) -> Result<Self, QueueError> {
        let timeout = config.answer_timeout();
        let link = BrokerConnection::open(config, &LastPlace::default(), "agentkit-worker dead letters").await?;
        let channel = link.channel(timeout).await?;
        Ok(Self { generation: ConnectionGeneration::new(link, channel, timeout, false), queue: config.names().dead() })
    }

    /// Takes the next letter, `None` where none is left. To look at all of them keep each until the last was taken: one
    /// that is put back may be the next one taken.
    pub async fn take(&self) -> Result<Option<Delivery>, QueueError> {
        let get = self.generation.channel.basic_get(short(&self.queue)?, BasicGetOptions::default());
        let taken = within(self.generation.timeout, get).await?;
        Ok(taken.map(|message| self.generation.delivery(message.delivery)))
    }
}
