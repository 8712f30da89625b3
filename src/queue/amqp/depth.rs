//! How full the worker's queues are, asked over the publishing connection.

use super::AmqpPublisher;
use crate::queue::QueueError;

/// How full a queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueDepth {
    /// With its prefix, such as `agentkit.jobs`.
    pub queue: String,
    /// Messages ready for delivery.
    pub messages: u32,
    /// Consumers of all processes together.
    pub consumers: u32,
}

impl AmqpPublisher {
    /// How full all queues are; one that is missing, or that we may not look at, is left out.
    pub async fn depths(&self) -> Result<Vec<QueueDepth>, QueueError> {
        let mut depths = Vec::new();
        for definition in self.definitions() {
            match self.look_at(&definition).await {
                Ok(Some(found)) => depths.push(QueueDepth {
                    queue: definition.name,
                    messages: found.message_count(),
                    consumers: found.consumer_count(),
                }),
                Ok(None) | Err(QueueError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(depths)
    }
}
