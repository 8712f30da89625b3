//! Looking at the broker without working: its version, the state of the queues, the dead letters.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::tcp::AMQPUriTcpExt;
use lapin::types::{AMQPValue, FieldTable, parsing};
use lapin::uri::AMQPUri;

use super::connection::{BrokerConnection, address, short, within};
use super::delivery::ConnectionGeneration;
use super::topology::Declared;
use super::{Config, definitions};
use crate::queue::{Delivery, QueueError};

/// The first frame of the broker is about 500 bytes; anything much longer is not one.
const MAX_GREETING_BYTES: u32 = 64 << 10;

/// What a broker says of itself, and how its queues are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerFacts {
    /// `RabbitMQ` for one.
    pub product: String,
    /// Major, minor and patch as the server says in `connection.start`, such as `4.2.1`.
    pub version: String,
    /// Every queue the worker needs.
    pub queues: Vec<QueueFacts>,
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

/// Looks at the broker. Makes no queue.
pub async fn inspect(config: &Config) -> Result<BrokerFacts, QueueError> {
    let link = BrokerConnection::open(config, "agentkit-worker doctor").await?;
    let timeout = config.answer_timeout();
    let (product, version) = greeting(config).await?;
    let (names, mut queues) = (config.names(), Vec::new());
    for definition in definitions(&names) {
        let state = match definition.look(&link.channel(timeout).await?, timeout).await {
            Ok(None) => QueueState::Missing,
            // To declare a queue that exists changes nothing and compares the arguments.
            Ok(Some(queue)) => match definition.declare_or_take(&link, &names, timeout).await {
                Ok(Declared::Earlier(_)) => QueueState::Earlier,
                declared => QueueState::Present {
                    messages: queue.message_count(),
                    consumers: queue.consumer_count(),
                    mismatch: match declared {
                        Err(QueueError::Refused(words)) if !words.contains("ACCESS_REFUSED") => Some(words),
                        _ => None,
                    },
                },
            },
            Err(QueueError::Refused(words)) => QueueState::Hidden(words),
            Err(error) => return Err(error),
        };
        queues.push(QueueFacts { name: definition.name, state });
    }
    Ok(BrokerFacts { product, version, queues })
}

/// Product and version, from the first frame the broker sends. Asked on a connection of its own, as the library keeps
/// this frame to itself.
async fn greeting(config: &Config) -> Result<(String, String), QueueError> {
    let mut uri = address(config)?;
    uri.query.connection_timeout = Some(config.connect_timeout_milliseconds);
    let timeout = config.connect_timeout();
    let read = tokio::task::spawn_blocking(move || read_greeting(&uri, timeout));
    let frame = read.await.map_err(io::Error::other).flatten();
    let frame = frame.map_err(|error| QueueError::Unavailable(error.to_string()))?;
    server_properties(&frame).ok_or_else(|| QueueError::Unavailable("the peer does not speak AMQP 0-9-1".to_owned()))
}

fn read_greeting(uri: &AMQPUri, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = uri.connect().map_err(io::Error::other)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if size > MAX_GREETING_BYTES {
        return Err(io::Error::other("the peer does not speak AMQP 0-9-1"));
    }
    let mut payload = vec![0; size as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// `product` and `version` from the payload of `connection.start` (class 10, method 10): ids, two version bytes, table.
fn server_properties(payload: &[u8]) -> Option<(String, String)> {
    let table = payload.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let (_, table): (_, FieldTable) = parsing::parse_field_table(table).ok()?;
    let text = |name: &str| match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    };
    Some((text("product")?, text("version")?))
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
        let link = BrokerConnection::open(config, "agentkit-worker dead letters").await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn start_frame(version: &str) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, text) in [("product", "RabbitMQ"), ("version", version)] {
            table.push(u8::try_from(name.len()).unwrap());
            table.extend(name.as_bytes());
            table.push(b'S');
            table.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            table.extend(text.as_bytes());
        }
        let mut frame = vec![0, 10, 0, 10, 0, 9];
        frame.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        frame.extend(table);
        frame.extend(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
        frame
    }

    #[test]
    fn product_and_version_are_read_from_the_first_frame() {
        let expected = ("RabbitMQ".to_owned(), "3.10.8".to_owned());
        assert_eq!(server_properties(&start_frame("3.10.8")), Some(expected));
    }

    #[test]
    fn every_half_finished_or_foreign_frame_is_refused() {
        let frame = start_frame("3.10.8");
        let table_end = frame.len() - 18;
        for end in 0..table_end {
            assert_eq!(server_properties(&frame[..end]), None, "{end} bytes");
        }
        for foreign in [b"HTTP/1.1 400 Bad Request".as_slice(), &[0xff; 64], b"\0\x0a\0\x0a\0\x09\xff\xff\xff\xff"] {
            assert_eq!(server_properties(foreign), None);
        }
    }
}
