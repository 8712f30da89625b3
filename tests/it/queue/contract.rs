//! What every queue promises, asked of RabbitMQ and of the memory queue alike.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config, ReplyInbox};
use agentkit_worker::internals::queue::memory::{MemoryInbox, MemoryQueue};
use agentkit_worker::internals::queue::{
    Backlog, Consumer, Delivery, Destination, Holder, Lane, Message, Properties, Published, Publisher,
};
use agentkit_worker::job::Priority;
use futures_util::future::join_all;
use jiff::Timestamp;

use crate::support::broker::Broker;
use crate::support::{eventually, soon, unique};

enum QueueUnderTest {
    Amqp(Box<Config>, AmqpQueue),
    Memory(MemoryQueue),
}

enum InboxUnderTest {
    Amqp(Box<ReplyInbox>),
    Memory(MemoryInbox),
}

impl QueueUnderTest {
    async fn amqp() -> Self {
        let config = Config { lanes: true, ..Broker::shared().await.config() };
        Self::Amqp(Box::new(config.clone()), AmqpQueue::connect(config).await.unwrap())
    }

    fn memory() -> Self {
        Self::Memory(MemoryQueue::new(10_000))
    }

    fn consumer(&self) -> Box<dyn Consumer> {
        match self {
            Self::Amqp(_, queue) => Box::new(queue.consumer(8)),
            Self::Memory(queue) => Box::new(queue.consumer()),
        }
    }

    async fn urgent_consumer(&self) -> Box<dyn Consumer> {
        match self {
            Self::Amqp(_, queue) => Box::new(queue.urgent_consumer(8).await.unwrap().expect("it was declared")),
            Self::Memory(queue) => Box::new(queue.urgent_consumer()),
        }
    }

    fn backlog(&self) -> Box<dyn Backlog> {
        match self {
            Self::Amqp(_, queue) => Box::new(queue.backlog()),
            Self::Memory(queue) => Box::new(queue.clone()),
        }
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        match self {
            Self::Amqp(_, queue) => queue.publisher(),
            Self::Memory(queue) => queue.publisher(),
        }
    }

    async fn holder(&self) -> Box<dyn Holder> {
        match self {
            Self::Amqp(_, queue) => Box::new(queue.holder(&unique("process")).await.unwrap()),
            Self::Memory(queue) => Box::new(queue.clone()),
        }
    }

    async fn inbox(&self) -> InboxUnderTest {
        match self {
            Self::Amqp(config, _) => InboxUnderTest::Amqp(Box::new(ReplyInbox::open(config).await.unwrap())),
            Self::Memory(queue) => InboxUnderTest::Memory(queue.reply_inbox(unique("inbox"))),
        }
    }

    async fn publish(&self, destination: Destination, message: Message) -> Published {
        self.publisher().publish(&destination, message).await.unwrap()
    }
}

impl InboxUnderTest {
    fn name(&self) -> String {
        match self {
            Self::Amqp(inbox) => inbox.name().to_owned(),
            Self::Memory(inbox) => inbox.name().to_owned(),
        }
    }

    async fn next(&mut self) -> Message {
        let next = async {
            match self {
                Self::Amqp(inbox) => inbox.next().await.unwrap(),
                Self::Memory(inbox) => inbox.next().await.unwrap(),
            }
        };
        soon("a reply", next).await
    }
}

fn message(id: &str) -> Message {
    let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
    Message { body: format!("body of {id}").into(), properties }
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    soon("a delivery", consumer.next()).await.unwrap()
}

fn id(delivery: &Delivery) -> &str {
    delivery.message.properties.message_id.as_deref().unwrap()
}

async fn an_acked_message_is_delivered_once(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    assert_eq!(backend.publish(Destination::Jobs, message("a")).await, Published::Routed);
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.message.clone(), delivery.redelivered), (message("a"), false));
    delivery.ack().await.unwrap();
    backend.publish(Destination::Jobs, message("b")).await;
    assert_eq!(id(&next(&mut consumer).await), "b");
}

async fn a_requeued_message_comes_again_and_says_so(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    backend.publish(Destination::Jobs, message("a")).await;
    next(&mut consumer).await.requeue().await.unwrap();
    let again = next(&mut consumer).await;
    assert_eq!((id(&again), again.redelivered), ("a", true));
    again.ack().await.unwrap();
}

async fn what_is_urgent_is_before_all_other_jobs_and_comes_again_there(backend: QueueUnderTest) {
    for job in ["a", "b", "c"] {
        backend.publish(Destination::Jobs, message(job)).await;
    }
    assert_eq!(backend.publish(Destination::Urgent, message("urgent")).await, Published::Routed);
    let mut urgent = backend.urgent_consumer().await;
    next(&mut urgent).await.requeue().await.unwrap();
    let again = next(&mut urgent).await;
    assert_eq!((id(&again), again.redelivered), ("urgent", true));
    again.ack().await.unwrap();
    assert_eq!(id(&next(&mut backend.consumer()).await), "a");
}

async fn what_is_put_aside_is_taken_in_order_from_its_lane_and_by_nobody_else(backend: QueueUnderTest) {
    let backlog = backend.backlog();
    // The first look makes the lanes.
    assert_eq!(soon("a look", backlog.look()).await.unwrap().filled, []);
    let lanes = [Lane::of_many(Priority::Low), Lane::of_few(Priority::High).next().unwrap()];
    for (lane, id) in lanes.into_iter().zip(["low", "high"]).chain([(lanes[0], "later")]) {
        assert_eq!(backend.publish(Destination::Backlog(lane), message(id)).await, Published::Routed);
    }
    backend.publish(Destination::Jobs, message("job")).await;
    eventually("a look shows which lanes hold jobs", || async {
        let filled = backlog.look().await.unwrap().filled;
        (filled.into_iter().collect::<BTreeSet<_>>() == lanes.into_iter().collect()).then_some(())
    })
    .await;
    let take = async |lane| soon("an answer", backlog.take(lane)).await.unwrap();
    take(lanes[0]).await.unwrap().requeue().await.unwrap();
    let again = take(lanes[0]).await.unwrap();
    assert_eq!((id(&again), again.redelivered), ("low", true));
    let (later, high) = (take(lanes[0]).await.unwrap(), take(lanes[1]).await.unwrap());
    assert_eq!((id(&later), id(&high)), ("later", "high"));
    for delivery in [again, later, high] {
        delivery.ack().await.unwrap();
    }
    for lane in lanes {
        assert!(take(lane).await.is_none());
    }
    assert_eq!(id(&next(&mut backend.consumer()).await), "job");
}

async fn an_unsettled_message_comes_again_when_its_consumer_is_gone(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    backend.publish(Destination::Jobs, message("a")).await;
    drop(next(&mut consumer).await);
    drop(consumer);
    let mut consumer = backend.consumer();
    let again = next(&mut consumer).await;
    assert_eq!((id(&again), again.redelivered), ("a", true));
    again.ack().await.unwrap();
}

async fn a_held_message_is_in_hand_at_once_and_gone_once_it_is_acked(backend: QueueUnderTest) {
    let (holder, mut consumer) = (backend.holder().await, backend.consumer());
    let held = soon("a held message", holder.hold(message("held"))).await.unwrap();
    assert_eq!((id(&held), &held.message.body), ("held", &message("held").body));
    let newer = soon("a newer one", holder.hold(message("newer"))).await.unwrap();
    held.ack_for_certain().await.unwrap();
    newer.requeue().await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "newer", "what is given back is a job, and what was acked is nothing any more");
    delivery.ack().await.unwrap();
}

async fn held_messages_become_jobs_again_with_the_end_of_their_holder(backend: QueueUnderTest) {
    let holder = backend.holder().await;
    let mut held = Vec::new();
    for number in 0..20 {
        held.push(soon("a held message", holder.hold(message(&number.to_string()))).await.unwrap());
    }
    let mut consumer = backend.consumer();
    drop((holder, held));
    let mut back = Vec::new();
    while back.len() < 20 {
        let delivery = next(&mut consumer).await;
        back.push(id(&delivery).parse::<u32>().unwrap());
        delivery.ack().await.unwrap();
    }
    back.sort_unstable();
    assert_eq!(back, (0..20).collect::<Vec<u32>>());
}

async fn a_message_can_wait(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    let start = Instant::now();
    let waiting = Message { properties: full_properties(), ..message("") };
    assert_eq!(backend.publish(Destination::Wait(Duration::from_secs(1)), waiting.clone()).await, Published::Routed);
    backend.publish(Destination::Jobs, message("first")).await;
    let first = next(&mut consumer).await;
    assert_eq!(id(&first), "first");
    first.ack().await.unwrap();
    let delivery = next(&mut consumer).await;
    assert!(start.elapsed() >= Duration::from_millis(990), "after {:?} only", start.elapsed());
    assert!(!delivery.redelivered);
    assert_eq!(delivery.message.body, waiting.body);
    for (name, text) in &waiting.properties.headers {
        assert_eq!(delivery.message.properties.headers.get(name), Some(text));
    }
    delivery.ack().await.unwrap();
}

async fn a_reply_goes_to_its_queue_or_falls_back(backend: QueueUnderTest) {
    let mut inbox = backend.inbox().await;
    let to_inbox = Destination::Reply(Some(inbox.name()));
    assert_eq!(backend.publish(to_inbox.clone(), message("a")).await, Published::Routed);
    assert_eq!(inbox.next().await, message("a"));
    assert_eq!(backend.publish(Destination::Reply(None), message("b")).await, Published::Routed);
    for name in [unique("nobody"), String::new(), "x".repeat(300)] {
        assert_eq!(backend.publish(Destination::Reply(Some(name)), message("c")).await, Published::FellBack);
    }
    drop(inbox);
    // At the broker the queue goes some moments after its owner.
    crate::support::eventually("the end of the inbox", || async {
        (backend.publish(to_inbox.clone(), message("d")).await == Published::FellBack).then_some(())
    })
    .await;
}

fn full_properties() -> Properties {
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    Properties {
        message_id: Some("m".into()),
        correlation_id: Some("ü".repeat(127)),
        reply_to: Some("answers".into()),
        content_type: Some("application/json".into()),
        kind: Some("agentkit.job.completed".into()),
        user_id: None,
        timestamp: Some(Timestamp::from_second(1_700_000_000).unwrap()),
        headers: [("traceparent", traceparent), ("x-empty", ""), ("x-long", &"l".repeat(5000))]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
    }
}

async fn bodies_and_properties_arrive_as_they_were(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    let big: Vec<u8> = (0..3_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for body in [Vec::new(), vec![0, 0xff, 0xfe, b'\n'], big] {
        let sent = Message { body: body.into(), properties: full_properties() };
        backend.publish(Destination::Jobs, sent.clone()).await;
        let delivery = next(&mut consumer).await;
        assert!(delivery.message == sent, "{:?}", delivery.message.properties);
        delivery.ack().await.unwrap();
    }
}

async fn a_stopped_consumer_gives_back_what_it_fetched_ahead(backend: QueueUnderTest) {
    let mut consumer = backend.consumer();
    for number in 0..6 {
        backend.publish(Destination::Jobs, message(&number.to_string())).await;
    }
    let held = next(&mut consumer).await;
    soon("stopping", consumer.stop()).await;
    assert!(soon("the end", consumer.next()).await.is_none());
    soon("stopping again", consumer.stop()).await;
    let mut other = backend.consumer();
    let mut rest = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut other).await;
        rest.push(id(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    rest.sort();
    assert_eq!(rest, ["1", "2", "3", "4", "5"]);
    // What was handed out before can still be settled.
    assert_eq!(id(&held), "0");
    held.ack().await.unwrap();
}

async fn each_of_many_publishes_learns_its_own_fate(backend: QueueUnderTest) {
    let publisher = backend.publisher();
    let nobody = Destination::Reply(Some(unique("nobody")));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..128 {
        let (publisher, nobody) = (publisher.clone(), nobody.clone());
        tasks.spawn(async move {
            let mut routed = Vec::new();
            for number in 0..20 {
                let id = format!("{task}/{number}");
                if (task * 20 + number) % 10 == 3 {
                    assert_eq!(publisher.publish(&nobody, message(&id)).await.unwrap(), Published::FellBack, "{id}");
                } else {
                    let fate = publisher.publish(&Destination::Jobs, message(&id)).await.unwrap();
                    assert_eq!(fate, Published::Routed, "{id}");
                    routed.push(id);
                }
            }
            routed
        });
    }
    let mut routed = soon("publishing", tasks.join_all()).await.concat();
    let mut consumer = backend.consumer();
    let mut delivered = Vec::new();
    while delivered.len() < routed.len() {
        let delivery = next(&mut consumer).await;
        delivered.push(id(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    routed.sort();
    delivered.sort();
    assert!(delivered == routed);
}

async fn publishes_that_are_given_up_disturb_no_others(backend: QueueUnderTest) {
    let publisher = backend.publisher();
    let nobody = Destination::Reply(Some(unique("nobody")));
    for round in 0..30_u64 {
        let given_up = (0..16).map(|number| {
            let publish = publisher.publish(&nobody, message(&number.to_string()));
            tokio::time::timeout(Duration::from_micros(round * 100), publish)
        });
        join_all(given_up).await;
        assert_eq!(publisher.publish(&Destination::Jobs, message("a")).await.unwrap(), Published::Routed);
    }
}

/// Each promise is one test for each backend.
mod memory {
    use super::QueueUnderTest;

    #[tokio::test]
    async fn an_acked_message_is_delivered_once() {
        super::an_acked_message_is_delivered_once(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_requeued_message_comes_again_and_says_so() {
        super::a_requeued_message_comes_again_and_says_so(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn an_unsettled_message_comes_again_when_its_consumer_is_gone() {
        super::an_unsettled_message_comes_again_when_its_consumer_is_gone(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_held_message_is_in_hand_at_once_and_gone_once_it_is_acked() {
        super::a_held_message_is_in_hand_at_once_and_gone_once_it_is_acked(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn held_messages_become_jobs_again_with_the_end_of_their_holder() {
        super::held_messages_become_jobs_again_with_the_end_of_their_holder(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_message_can_wait() {
        super::a_message_can_wait(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_reply_goes_to_its_queue_or_falls_back() {
        super::a_reply_goes_to_its_queue_or_falls_back(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn what_is_urgent_is_before_all_other_jobs_and_comes_again_there() {
        super::what_is_urgent_is_before_all_other_jobs_and_comes_again_there(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn what_is_put_aside_is_taken_in_order_from_its_lane_and_by_nobody_else() {
        super::what_is_put_aside_is_taken_in_order_from_its_lane_and_by_nobody_else(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn bodies_and_properties_arrive_as_they_were() {
        super::bodies_and_properties_arrive_as_they_were(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_stopped_consumer_gives_back_what_it_fetched_ahead() {
        super::a_stopped_consumer_gives_back_what_it_fetched_ahead(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn each_of_many_publishes_learns_its_own_fate() {
        super::each_of_many_publishes_learns_its_own_fate(QueueUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn publishes_that_are_given_up_disturb_no_others() {
        super::publishes_that_are_given_up_disturb_no_others(QueueUnderTest::memory()).await;
    }
}

mod amqp {
    use super::QueueUnderTest;

    #[tokio::test]
    async fn an_acked_message_is_delivered_once() {
        super::an_acked_message_is_delivered_once(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn a_requeued_message_comes_again_and_says_so() {
        super::a_requeued_message_comes_again_and_says_so(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn an_unsettled_message_comes_again_when_its_consumer_is_gone() {
        super::an_unsettled_message_comes_again_when_its_consumer_is_gone(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn a_held_message_is_in_hand_at_once_and_gone_once_it_is_acked() {
        super::a_held_message_is_in_hand_at_once_and_gone_once_it_is_acked(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn held_messages_become_jobs_again_with_the_end_of_their_holder() {
        super::held_messages_become_jobs_again_with_the_end_of_their_holder(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn a_message_can_wait() {
        super::a_message_can_wait(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn a_reply_goes_to_its_queue_or_falls_back() {
        super::a_reply_goes_to_its_queue_or_falls_back(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn what_is_urgent_is_before_all_other_jobs_and_comes_again_there() {
        super::what_is_urgent_is_before_all_other_jobs_and_comes_again_there(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn what_is_put_aside_is_taken_in_order_from_its_lane_and_by_nobody_else() {
        super::what_is_put_aside_is_taken_in_order_from_its_lane_and_by_nobody_else(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn bodies_and_properties_arrive_as_they_were() {
        super::bodies_and_properties_arrive_as_they_were(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn a_stopped_consumer_gives_back_what_it_fetched_ahead() {
        super::a_stopped_consumer_gives_back_what_it_fetched_ahead(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_of_many_publishes_learns_its_own_fate() {
        super::each_of_many_publishes_learns_its_own_fate(QueueUnderTest::amqp().await).await;
    }

    #[tokio::test]
    async fn publishes_that_are_given_up_disturb_no_others() {
        super::publishes_that_are_given_up_disturb_no_others(QueueUnderTest::amqp().await).await;
    }
}
