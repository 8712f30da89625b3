//! Jobs of digests as messages: signed by the scheduler that fires them, so that nobody else's job can have their ids.

use std::sync::Arc;

use async_trait::async_trait;

use super::signature::HeaderKey;
use crate::queue::{Destination, Message, Published, Publisher, QueueError};

/// Header: a scheduler has fired the job, or an operator has had it do so. It goes along with every copy of the message, and
/// counts only where it is signed.
pub(super) const SCHEDULED: &str = "x-agentkit-scheduled";

/// Whether a scheduler has fired the job in a message that was [`HeaderKey::examine`]d.
pub(crate) fn is_scheduled(message: &Message) -> bool {
    message.properties.headers.contains_key(SCHEDULED)
}

/// What a scheduler publishes through: signs each job as its own.
pub(crate) struct ScheduledJobs {
    /// Where they go.
    pub(crate) publisher: Arc<dyn Publisher>,
    /// What they are signed with.
    pub(crate) key: HeaderKey,
}

#[async_trait]
impl Publisher for ScheduledJobs {
    async fn publish(&self, destination: &Destination, mut message: Message) -> Result<Published, QueueError> {
        message.properties.headers.insert(SCHEDULED.to_owned(), "1".to_owned());
        self.key.sign(&mut message);
        self.publisher.publish(destination, message).await
    }

    fn is_reserved(&self, queue: &str) -> bool {
        self.publisher.is_reserved(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Consumer as _;
    use crate::queue::memory::MemoryQueue;
    use crate::worker::message::fresh::handed_on;
    use crate::worker::message::wake_up::{Reason, WakeUp};

    #[tokio::test]
    async fn only_what_a_scheduler_signed_is_one_of_its_jobs_and_so_is_every_copy() {
        let key = |secret: &str| HeaderKey::of(&secret.to_owned().into());
        let queue = MemoryQueue::new(1);
        let jobs = ScheduledJobs { publisher: queue.publisher(), key: key("a") };
        let sent = Message { body: "{}".into(), ..Message::default() };
        jobs.publish(&Destination::Jobs, sent.clone()).await.unwrap();
        let examined = |mut message: Message, secret: &str| {
            key(secret).examine(&mut message);
            message
        };
        let fired = queue.consumer().next().await.unwrap().message.clone();
        assert!(is_scheduled(&examined(fired.clone(), "a")));
        assert!(!is_scheduled(&examined(fired.clone(), "b")), "nobody we know has signed it");
        let copied = Message { body: "{ }".into(), ..fired.clone() };
        assert!(!is_scheduled(&examined(copied, "a")), "another job");
        let mut forged = sent;
        forged.properties.headers.insert(SCHEDULED.to_owned(), "1".to_owned());
        assert!(!is_scheduled(&examined(forged, "a")));
        for mut copy in [handed_on(&fired, false), WakeUp::new(Reason::Unsaid).stamp(&fired)] {
            key("a").sign(&mut copy);
            assert!(is_scheduled(&examined(copy, "a")));
        }
    }
}
