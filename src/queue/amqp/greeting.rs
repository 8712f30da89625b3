//! What a node says of itself before anybody has said who he is.

use std::io;

use lapin::types::{AMQPValue, FieldTable, parsing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Config;
use super::address::Address;
use super::connection::unreached;
use super::stream::connect;
use crate::queue::QueueError;
use crate::transport::TlsConfig;

/// The first frame of the broker is about 500 bytes; anything much longer is not one.
const MAX_GREETING_BYTES: u32 = 64 << 10;
const NOT_AMQP: &str = "the peer does not speak AMQP 0-9-1";

/// The server's properties in `connection.start`, as far as they are of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// `RabbitMQ` for one.
    pub product: String,
    /// Major, minor and patch, such as `4.2.1`.
    pub version: String,
    /// The cluster's name, the same on all its nodes; RabbitMQ calls it after the first node unless told otherwise.
    pub cluster: Option<String>,
}

/// Asks for the first frame that the node sends. Asked on a connection of its own, as the library keeps this frame to
/// itself.
pub(super) async fn greeting(config: &Config, address: &Address) -> Result<Greeting, QueueError> {
    let timeout = config.connect_timeout();
    let frame = match tokio::time::timeout(timeout, read_greeting(address, &config.tls)).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => return Err(unreached(&error, address, &config.tls).await),
        Err(_) => return Err(QueueError::TimedOut(timeout)),
    };
    server_properties(&frame).ok_or_else(|| QueueError::Unavailable(NOT_AMQP.to_owned()))
}

async fn read_greeting(address: &Address, tls: &TlsConfig) -> io::Result<Vec<u8>> {
    let mut stream = connect(&address.uri(), tls, |_| Ok(())).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    stream.flush().await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if size > MAX_GREETING_BYTES {
        return Err(io::Error::other(NOT_AMQP));
    }
    let mut payload = vec![0; size as usize];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// The properties from the payload of `connection.start` (class 10, method 10): ids, two version bytes, table.
fn server_properties(payload: &[u8]) -> Option<Greeting> {
    let table = payload.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
    let (_, table): (_, FieldTable) = parsing::parse_field_table(table).ok()?;
    let text = |name: &str| match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    };
    Some(Greeting { product: text("product")?, version: text("version")?, cluster: text("cluster_name") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_frame(version: &str) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, text) in [("product", "RabbitMQ"), ("version", version), ("cluster_name", "rabbit@one")] {
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
    fn product_version_and_cluster_are_read_from_the_first_frame() {
        let found = server_properties(&start_frame("3.10.8")).unwrap();
        assert_eq!((found.product.as_str(), found.version.as_str()), ("RabbitMQ", "3.10.8"));
        assert_eq!(found.cluster.as_deref(), Some("rabbit@one"));
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
