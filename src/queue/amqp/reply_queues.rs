//! Publishes to reply queues, a few at a time to each: they are other people's, and one that takes nothing must not use up
//! the confirm channels of all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::queue::QueueError;

/// Publishes that wait for the confirm of one reply queue at the same time.
const AT_A_TIME: usize = 4;

/// What is said of a queue that is stuck.
pub(super) const CONFIRMS_NOTHING: &str = "it confirms nothing, while others do";

/// The reply queues that are published to, and those that are known to be stuck.
#[derive(Debug, Default)]
pub(super) struct ReplyQueues(Mutex<HashMap<String, Arc<ReplyQueue>>>);

#[derive(Debug)]
struct ReplyQueue {
    places: Arc<Semaphore>,
    /// Of a queue that is stuck: one publish at a time tries whether it still is.
    trial: Arc<Semaphore>,
    /// Whether it left a publish without a confirm while others were confirmed.
    stuck: AtomicBool,
}

/// The right to publish to a reply queue.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    all: &'a ReplyQueues,
    name: &'a str,
    queue: Arc<ReplyQueue>,
    place: Option<OwnedSemaphorePermit>,
}

impl Default for ReplyQueue {
    fn default() -> Self {
        let (places, trial) = (Arc::new(Semaphore::new(AT_A_TIME)), Arc::new(Semaphore::new(1)));
        Self { places, trial, stuck: AtomicBool::new(false) }
    }
}

impl ReplyQueues {
    /// Waits for a turn, at most for `timeout`; not at all where the queue is stuck and somebody tries it already.
    pub(super) async fn turn<'a>(&'a self, name: &'a str, timeout: Duration) -> Result<Turn<'a>, QueueError> {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone();
        let mut turn = Turn { all: self, name, queue, place: None };
        if !turn.is_stuck() {
            let place = tokio::time::timeout(timeout, turn.queue.places.clone().acquire_owned()).await;
            turn.place = place.map_err(|_| QueueError::TimedOut(timeout))?.ok();
        }
        // Also where it became so meanwhile.
        if turn.is_stuck() {
            let stuck = |_| QueueError::NotTaken { queue: name.to_owned(), reason: CONFIRMS_NOTHING };
            turn.place = Some(turn.queue.trial.clone().try_acquire_owned().map_err(stuck)?);
        }
        Ok(turn)
    }
}

impl Turn<'_> {
    fn is_stuck(&self) -> bool {
        self.queue.stuck.load(Ordering::Relaxed)
    }

    /// What came of the publish: whether the queue is stuck.
    pub(super) fn found(&self, stuck: bool) {
        self.queue.stuck.store(stuck, Ordering::Relaxed);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the map's and our own: nobody else publishes to it, nor can before the lock is free.
        if Arc::strong_count(&self.queue) == 2 && !self.is_stuck() {
            all.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(15);

    fn known(queues: &ReplyQueues) -> usize {
        queues.0.lock().unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_at_a_time_go_to_one_queue_and_nothing_is_kept_of_it_afterwards() {
        let queues = ReplyQueues::default();
        let mut turns = Vec::new();
        for _ in 0..AT_A_TIME {
            turns.push(queues.turn("a", TIMEOUT).await.unwrap());
        }
        let late = queues.turn("a", TIMEOUT).await.unwrap_err();
        assert!(matches!(late, QueueError::TimedOut(_)), "{late}");
        drop(queues.turn("b", TIMEOUT).await.unwrap());
        assert_eq!(known(&queues), 1);
        turns.pop();
        turns.push(queues.turn("a", TIMEOUT).await.unwrap());
        drop(turns);
        assert_eq!(known(&queues), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_queue_is_tried_by_one_at_a_time_until_it_confirms() {
        let queues = ReplyQueues::default();
        queues.turn("a", TIMEOUT).await.unwrap().found(true);
        let trial = queues.turn("a", TIMEOUT).await.unwrap();
        let started = tokio::time::Instant::now();
        let refused = queues.turn("a", TIMEOUT).await.unwrap_err();
        assert!(matches!(refused, QueueError::NotTaken { .. }), "{refused}");
        assert!(started.elapsed().is_zero(), "nobody waits for a queue that is stuck");
        trial.found(false);
        let second = queues.turn("a", TIMEOUT).await.unwrap();
        drop((trial, second));
        assert_eq!(known(&queues), 0);
    }
}
