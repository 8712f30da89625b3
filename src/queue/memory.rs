//! A queue within the process, for the embedded mode: nothing survives the process, all else is as at the broker.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{
    Backlog, Consumer, DeadLetterQueue, Delivery, Destination, Holder, Lane, Look, Message, Published, Publisher,
    QueueError, Settle, Wanted,
};

/// A bounded queue. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    state: Mutex<State>,
    /// Told whenever a consumer may have something to do.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Ready>,
    urgent: VecDeque<Ready>,
    decisions: VecDeque<Ready>,
    /// By due time and order of arrival.
    waiting: BTreeMap<(Instant, u64), Message>,
    arrivals: u64,
    inboxes: HashMap<String, mpsc::UnboundedSender<Message>>,
    replies: VecDeque<Message>,
    dead: VecDeque<Ready>,
    backlog: [VecDeque<Ready>; Lane::COUNT],
}

/// The job queues, the one of decisions, and the dead letters.
#[derive(Debug, Clone, Copy)]
enum Part {
    Normal,
    Urgent,
    Decisions,
    Dead,
    Backlog(Lane),
}

#[derive(Debug)]
struct Ready {
    message: Message,
    redelivered: bool,
}

impl MemoryQueue {
    /// A queue that refuses new jobs while `capacity` are ready. Wake-ups and redeliveries are always taken, as their
    /// jobs were; of dead letters and common replies the newest `capacity` are kept.
    pub fn new(capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { capacity, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// A consumer; several share the messages.
    pub fn consumer(&self) -> MemoryConsumer {
        MemoryConsumer { shared: self.shared.clone(), part: Part::Normal, stopped: false }
    }

    /// Gets what was published to [`Destination::Urgent`], and nothing else.
    pub fn urgent_consumer(&self) -> MemoryConsumer {
        MemoryConsumer { part: Part::Urgent, ..self.consumer() }
    }

    /// Gets what was published to [`Destination::Decisions`], and nothing else.
    pub fn decision_consumer(&self) -> MemoryConsumer {
        MemoryConsumer { part: Part::Decisions, ..self.consumer() }
    }

    /// Publishes into the same process; every publish is confirmed at once.
    pub fn publisher(&self) -> Arc<MemoryPublisher> {
        Arc::new(MemoryPublisher { shared: self.shared.clone() })
    }

    /// A reply queue of that name, which is gone when the inbox is dropped.
    pub fn reply_inbox(&self, name: impl Into<String>) -> MemoryInbox {
        let name = name.into();
        let (sender, messages) = mpsc::unbounded_channel();
        self.shared.lock().inboxes.insert(name.clone(), sender);
        MemoryInbox { name, messages }
    }

    /// Takes the replies that had no reply queue, oldest first.
    pub fn take_replies(&self) -> Vec<Message> {
        self.shared.lock().replies.drain(..).collect()
    }

    /// Jobs and wake-ups that are not in anybody's hands.
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        state.jobs() + state.urgent.len() + state.waiting.len()
    }

    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<Message> {
        self.shared.lock().dead.iter().map(|ready| ready.message.clone()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message back that was handed out, before all others: it has waited longest.
    fn give_back(&self, message: Message, part: Part) {
        self.lock().part(part).push_front(Ready { message, redelivered: true });
        self.changed.notify_waiters();
    }

    /// Keeps `message` in `kept`, at the cost of the oldest one where it is full.
    fn keep<T>(&self, kept: &mut VecDeque<T>, message: T) {
        if kept.len() >= self.capacity {
            kept.pop_front();
        }
        kept.push_back(message);
    }
}

impl State {
    /// Jobs that are ready, those that were put aside as well.
    fn jobs(&self) -> usize {
        self.ready.len() + self.backlog.iter().map(VecDeque::len).sum::<usize>()
    }

    fn part(&mut self, part: Part) -> &mut VecDeque<Ready> {
        match part {
            Part::Normal => &mut self.ready,
            Part::Urgent => &mut self.urgent,
            Part::Decisions => &mut self.decisions,
            Part::Dead => &mut self.dead,
            Part::Backlog(lane) => &mut self.backlog[lane.index()],
        }
    }

    /// The next ready message, or when the next waiting one is due.
    fn next(&mut self, part: Part, now: Instant) -> Result<Ready, Option<Instant>> {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            self.ready.push_back(Ready { message: first.remove(), redelivered: false });
        }
        self.part(part).pop_front().ok_or_else(|| self.waiting.keys().next().map(|(due, _)| *due))
    }
}

/// A consumer of a [`MemoryQueue`].
#[derive(Debug)]
pub struct MemoryConsumer {
    shared: Arc<Shared>,
    part: Part,
    stopped: bool,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if self.stopped {
            return None;
        }
        loop {
            // Listened before looked, so that nothing that happens in between is missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let next = self.shared.lock().next(self.part, Instant::now());
            match next {
                Ok(ready) => {
                    let held = Mutex::new(Some(ready.message.clone()));
                    let settle = MemorySettle { shared: self.shared.clone(), held, part: self.part };
                    return Some(Delivery::new(ready.message, ready.redelivered, Box::new(settle)));
                }
                Err(None) => changed.await,
                Err(Some(due)) => {
                    let _ = tokio::time::timeout_at(due, changed).await;
                }
            }
        }
    }

    async fn stop(&mut self) {
        self.stopped = true;
    }
}

/// Gives its message back where it is dropped before the message is settled.
#[derive(Debug)]
struct MemorySettle {
    shared: Arc<Shared>,
    held: Mutex<Option<Message>>,
    part: Part,
}

impl MemorySettle {
    fn take(&self) -> Option<Message> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Settle for MemorySettle {
    async fn ack(&self) -> Result<(), QueueError> {
        self.take();
        Ok(())
    }

    async fn requeue(&self) -> Result<(), QueueError> {
        if let Some(message) = self.take() {
            self.shared.give_back(message, self.part);
        }
        Ok(())
    }

    async fn reject(&self) -> Result<(), QueueError> {
        if let Some(message) = self.take() {
            self.shared.keep(&mut self.shared.lock().dead, Ready { message, redelivered: true });
        }
        Ok(())
    }
}

impl Drop for MemorySettle {
    fn drop(&mut self) {
        if let Some(message) = self.take() {
            self.shared.give_back(message, self.part);
        }
    }
}

#[async_trait]
impl Holder for MemoryQueue {
    async fn hold(&self, message: Message) -> Result<Delivery, QueueError> {
        let held =
            MemorySettle { shared: self.shared.clone(), held: Mutex::new(Some(message.clone())), part: Part::Normal };
        Ok(Delivery::new(message, false, Box::new(held)))
    }
}

#[async_trait]
impl Backlog for MemoryQueue {
    async fn look(&self) -> Result<Look, QueueError> {
        let state = self.shared.lock();
        let filled = Lane::all().filter(|lane| !state.backlog[lane.index()].is_empty()).collect();
        Ok(Look { filled, takes: true, alone: true })
    }

    async fn take(&self, lane: Lane) -> Result<Option<Delivery>, QueueError> {
        let taken = self.shared.lock().backlog[lane.index()].pop_front();
        Ok(taken.map(|Ready { message, redelivered }| {
            let held = Mutex::new(Some(message.clone()));
            let settle = MemorySettle { shared: self.shared.clone(), held, part: Part::Backlog(lane) };
            Delivery::new(message, redelivered, Box::new(settle))
        }))
    }
}

#[async_trait]
impl DeadLetterQueue for MemoryQueue {
    async fn count(&self) -> Result<u32, QueueError> {
        Ok(u32::try_from(self.shared.lock().dead.len()).unwrap_or(u32::MAX))
    }

    async fn take(&self, wanted: Wanted<'_>) -> Result<Vec<Delivery>, QueueError> {
        let mut state = self.shared.lock();
        let (found, others) = state.dead.drain(..).partition(|letter| wanted(&letter.message));
        state.dead = others;
        let taken = |Ready { message, redelivered }: Ready| {
            let held = Mutex::new(Some(message.clone()));
            let settle = MemorySettle { shared: self.shared.clone(), held, part: Part::Dead };
            Delivery::new(message, redelivered, Box::new(settle))
        };
        let found: VecDeque<Ready> = found;
        Ok(found.into_iter().map(taken).collect())
    }
}

/// The publisher of a [`MemoryQueue`].
#[derive(Debug)]
pub struct MemoryPublisher {
    shared: Arc<Shared>,
}

#[async_trait]
impl Publisher for MemoryPublisher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        match destination {
            Destination::Jobs if state.jobs() >= self.shared.capacity => {
                return Err(QueueError::Unavailable(format!("{} jobs are waiting already", state.jobs())));
            }
            Destination::Backlog(lane) => {
                state.backlog[lane.index()].push_back(Ready { message, redelivered: false });
            }
            Destination::Jobs => state.ready.push_back(Ready { message, redelivered: false }),
            Destination::Decisions if state.decisions.len() >= self.shared.capacity => {
                return Err(QueueError::Unavailable(format!("{} decisions wait already", state.decisions.len())));
            }
            Destination::Decisions => state.decisions.push_back(Ready { message, redelivered: false }),
            Destination::Urgent => state.urgent.push_back(Ready { message, redelivered: false }),
            Destination::Wait(wait) => {
                state.arrivals += 1;
                state.waiting.insert((Instant::now() + *wait, state.arrivals), message);
            }
            Destination::Dead => self.shared.keep(&mut state.dead, Ready { message, redelivered: false }),
            Destination::Progress(name) => {
                let told = state.inboxes.get(name).is_some_and(|inbox| inbox.send(message).is_ok());
                let gone = || QueueError::Unavailable(format!("there is no inbox {name}"));
                return told.then_some(Published::Routed).ok_or_else(gone);
            }
            Destination::Reply(None) => self.shared.keep(&mut state.replies, message),
            Destination::Reply(Some(name)) => {
                if let Some(inbox) = state.inboxes.get(name)
                    && inbox.send(message.clone()).is_ok()
                {
                    return Ok(Published::Routed);
                }
                state.inboxes.remove(name);
                self.shared.keep(&mut state.replies, message);
                return Ok(Published::FellBack);
            }
        }
        drop(guard);
        self.shared.changed.notify_waiters();
        Ok(Published::Routed)
    }
}

/// A reply queue with an owner.
#[derive(Debug)]
pub struct MemoryInbox {
    name: String,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl MemoryInbox {
    /// The queue's name, for `reply_to`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next reply, or `None` where the name was given to another inbox.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(text: &str) -> Message {
        Message { body: text.to_owned().into(), ..Message::default() }
    }

    async fn body(consumer: &mut MemoryConsumer) -> String {
        let delivery = consumer.next().await.unwrap();
        let body = String::from_utf8(delivery.message.body.to_vec()).unwrap();
        delivery.ack().await.unwrap();
        body
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_kept_to_the_millisecond_and_in_order_of_their_end() {
        let queue = MemoryQueue::new(10);
        let (publisher, mut consumer, start) = (queue.publisher(), queue.consumer(), Instant::now());
        for (text, milliseconds) in [("c", 3_600_000), ("a", 250), ("b", 1000)] {
            let wait = Destination::Wait(Duration::from_millis(milliseconds));
            publisher.publish(&wait, message(text)).await.unwrap();
        }
        for (text, milliseconds) in [("a", 250), ("b", 1000), ("c", 3_600_000)] {
            assert_eq!(body(&mut consumer).await, text);
            assert_eq!(start.elapsed().as_millis(), milliseconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_wait_wakes_a_consumer_that_sleeps_for_a_longer_one() {
        let queue = MemoryQueue::new(10);
        let publisher = queue.publisher();
        let hour = Destination::Wait(Duration::from_hours(1));
        publisher.publish(&hour, message("later")).await.unwrap();
        let mut consumer = queue.consumer();
        let next = tokio::spawn(async move { body(&mut consumer).await });
        tokio::task::yield_now().await;
        publisher.publish(&Destination::Jobs, message("now")).await.unwrap();
        assert_eq!(next.await.unwrap(), "now");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_jobs_and_takes_wake_ups() {
        let queue = MemoryQueue::new(1);
        let publisher = queue.publisher();
        publisher.publish(&Destination::Jobs, message("a")).await.unwrap();
        let refused = publisher.publish(&Destination::Jobs, message("b")).await;
        assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
        publisher.publish(&Destination::Wait(Duration::ZERO), message("c")).await.unwrap();
        let mut consumer = queue.consumer();
        assert_eq!(body(&mut consumer).await, "a");
        assert_eq!(body(&mut consumer).await, "c");
    }

    #[tokio::test]
    async fn two_consumers_share_the_messages() {
        let queue = MemoryQueue::new(1000);
        let publisher = queue.publisher();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let mut consumer = queue.consumer();
            tasks.spawn(async move {
                let mut bodies = Vec::new();
                loop {
                    match body(&mut consumer).await {
                        end if end == "end" => return bodies,
                        text => bodies.push(text),
                    }
                }
            });
        }
        for number in 0..100 {
            publisher.publish(&Destination::Jobs, message(&number.to_string())).await.unwrap();
        }
        for _ in 0..2 {
            publisher.publish(&Destination::Jobs, message("end")).await.unwrap();
        }
        let mut all: Vec<u32> = tasks.join_all().await.concat().iter().map(|text| text.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn of_dead_letters_the_newest_are_kept() {
        let queue = MemoryQueue::new(2);
        for text in ["a", "b", "c"] {
            queue.publisher().publish(&Destination::Dead, message(text)).await.unwrap();
        }
        assert_eq!(queue.dead_letters(), [message("b"), message("c")]);
    }
}
