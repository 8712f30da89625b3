//! Looking through the dead letters beside the work.

use std::sync::Arc;

use async_trait::async_trait;

use super::topology::QueueDefinition;
use super::{AmqpPublisher, Config, DeadLetters};
use crate::queue::{DeadLetterQueue, Delivery, QueueError, Wanted};

/// The dead-letter queue: counted over the publishing connection, looked through over one of its own each time.
#[derive(Debug)]
pub struct AmqpDeadLetterQueue {
    config: Arc<Config>,
    publisher: Arc<AmqpPublisher>,
}

impl AmqpDeadLetterQueue {
    pub(super) fn new(config: Arc<Config>, publisher: Arc<AmqpPublisher>) -> Self {
        Self { config, publisher }
    }
}

#[async_trait]
impl DeadLetterQueue for AmqpDeadLetterQueue {
    async fn count(&self) -> Result<u32, QueueError> {
        let found = self.publisher.look_at(&QueueDefinition::new(self.config.names().dead())).await?;
        Ok(found.map_or(0, |found| found.message_count()))
    }

    async fn take(&self, wanted: Wanted<'_>) -> Result<Vec<Delivery>, QueueError> {
        let letters = DeadLetters::open(&self.config).await?;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        while let Some(mut letter) = letters.take().await? {
            if wanted(&letter.message) {
                found.push(letter);
            } else {
                letter.message.body.clear();
                others.push(letter);
            }
        }
        Ok(found)
    }
}
