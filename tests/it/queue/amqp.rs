//! What only RabbitMQ can do to us.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agentkit_worker::internals::queue::amqp::{
    AmqpQueue, Config, DeadLetters, QueueState, ReplyInbox, TopologyMode, inspect,
};
use agentkit_worker::internals::queue::{
    Consumer, DELIVERY_LIMIT, Delivery, Destination, Holder, Message, Properties, Published, Publisher, QueueError,
};
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::broker::Broker;
use crate::support::proxy::Proxy;
use crate::support::{eventually, soon};

/// Short waits, so that faults end soon.
fn impatient(config: Config) -> Config {
    Config {
        heartbeat_seconds: 1,
        connect_timeout_milliseconds: 1000,
        reconnect_max_milliseconds: 500,
        publish_timeout_milliseconds: 1000,
        ..config
    }
}

fn message(id: &str) -> Message {
    let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
    Message { body: id.to_owned().into(), properties }
}

async fn next(consumer: &mut impl Consumer) -> Delivery {
    soon("a delivery", consumer.next()).await.unwrap()
}

fn id(delivery: &Delivery) -> &str {
    delivery.message.properties.message_id.as_deref().unwrap()
}

/// Publishes until it is confirmed.
async fn insist(queue: &AmqpQueue, destination: &Destination, id: &str) {
    let publisher = queue.publisher();
    eventually("a confirm", || async { publisher.publish(destination, message(id)).await.ok() }).await;
}

async fn declare_other_jobs_queue(connection: &Connection, name: String) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(3));
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

async fn delete(connection: &Connection, name: String) {
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_explained_in_words() {
    let broker = Broker::shared().await;
    let config = broker.config();
    declare_other_jobs_queue(&broker.connect().await, config.names().jobs()).await;
    let started = Instant::now();
    let error = AmqpQueue::connect(config.clone()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "a refusal is not tried again");
    let QueueError::Refused(words) = error else { panic!("{error}") };
    for part in [&config.names().jobs(), "x-d", " at the broker, ", " here; ", "topology"] {
        assert!(words.contains(part), "{part} is missing in: {words}");
    }
    let facts = inspect(&config).await.unwrap();
    let jobs = facts.queues.iter().find(|queue| queue.name == config.names().jobs()).unwrap();
    let QueueState::Present { mismatch: Some(mismatch), .. } = &jobs.state else { panic!("{jobs:?}") };
    assert!(mismatch.contains("at the broker"), "{mismatch}");
}

#[tokio::test]
async fn verifying_refuses_missing_queues_and_takes_others_as_they_are() {
    let broker = Broker::shared().await;
    let config = Config { topology: TopologyMode::Verify, ..broker.config() };
    let error = AmqpQueue::connect(config.clone()).await.unwrap_err();
    assert_eq!(error.to_string().matches("does not exist").count(), 9, "{error}");
    AmqpQueue::connect(Config { topology: TopologyMode::None, ..config.clone() }).await.unwrap();
    AmqpQueue::connect(Config { topology: TopologyMode::Declare, ..config.clone() }).await.unwrap();
    let connection = broker.connect().await;
    delete(&connection, config.names().jobs()).await;
    declare_other_jobs_queue(&connection, config.names().jobs()).await;
    AmqpQueue::connect(config).await.unwrap();
}

#[tokio::test]
async fn where_somebody_else_made_the_queues_without_the_urgent_one_its_messages_go_to_the_job_queue() {
    let broker = Broker::shared().await;
    let config = broker.config();
    AmqpQueue::connect(config.clone()).await.unwrap();
    delete(&broker.connect().await, config.names().urgent()).await;
    let queue = AmqpQueue::connect(Config { topology: TopologyMode::Verify, ..config }).await.unwrap();
    assert!(queue.urgent_consumer(1).await.unwrap().is_none());
    insist(&queue, &Destination::Urgent, "urgent").await;
    assert_eq!(id(&next(&mut queue.consumer(1)).await), "urgent");
}

#[tokio::test]
async fn bad_credentials_are_refused_at_once_and_never_shown() {
    let broker = Broker::shared().await;
    let url = broker.url().replace("guest:guest@", "guest:hunter2@");
    let error = AmqpQueue::connect(Config { url: url.into(), ..broker.config() }).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused(words) if words.contains("ACCESS_REFUSED")), "{error}");
    assert!(!error.to_string().contains("hunter2"));
    let url = format!("{}/nowhere", broker.url());
    let error = AmqpQueue::connect(Config { url: url.into(), ..broker.config() }).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused(words) if words.contains("nowhere")), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_after_the_configured_attempts() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = Config { url: format!("amqp://{closed}").into(), connect_attempts: 2, ..Config::default() };
    let error = soon("giving up", AmqpQueue::connect(config)).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_us_and_by_the_broker() {
    let broker = Broker::shared().await;
    let config = Config { max_message_bytes: 32 << 20, ..broker.config() };
    let queue = AmqpQueue::connect(config).await.unwrap();
    let publisher = queue.publisher();
    for (size, expected) in [((32 << 20) + 1, 32 << 20), (17 << 20, 16 << 20)] {
        let large = Message { body: vec![0; size].into(), ..Message::default() };
        let error = publisher.publish(&Destination::Jobs, large).await.unwrap_err();
        assert!(matches!(error, QueueError::TooLarge { size: s, limit } if (s, limit) == (size, expected)), "{error}");
    }
    assert_eq!(publisher.publish(&Destination::Jobs, message("a")).await.unwrap(), Published::Routed);
    assert_eq!(queue.status().reconnects(), 0);
}

#[tokio::test]
async fn a_deleted_queue_is_made_again() {
    let broker = Broker::shared().await;
    let config = impatient(broker.config());
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let mut consumer = queue.consumer(4);
    insist(&queue, &Destination::Jobs, "a").await;
    next(&mut consumer).await.ack().await.unwrap();
    let connection = broker.connect().await;
    delete(&connection, config.names().jobs()).await;
    eventually("the end of consuming", || async { (queue.status().reconnects() > 0).then_some(()) }).await;
    insist(&queue, &Destination::Jobs, "b").await;
    assert_eq!(id(&next(&mut consumer).await), "b");

    delete(&connection, config.names().dead()).await;
    let missing = queue.publisher().publish(&Destination::Dead, message("c")).await;
    assert!(matches!(missing, Err(QueueError::Unavailable(_))), "{missing:?}");
    assert_eq!(queue.publisher().publish(&Destination::Dead, message("c")).await.unwrap(), Published::Routed);
}

#[tokio::test]
async fn a_direct_reply_reaches_a_requester_without_a_queue() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let connection = broker.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let reply_to = "amq.rabbitmq.reply-to";
    let mut replies = channel.basic_consume(reply_to.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let properties = BasicProperties::default().with_reply_to(reply_to.into());
    let (jobs, options) = (config.names().jobs().into(), BasicPublishOptions::default());
    channel.basic_publish("".into(), jobs, options, b"job", properties).await.unwrap().await.unwrap();
    let job = next(&mut queue.consumer(1)).await;
    let to_requester = Destination::Reply(job.message.properties.reply_to.clone());
    assert_eq!(queue.publisher().publish(&to_requester, message("reply")).await.unwrap(), Published::Routed);
    let reply = soon("the reply", replies.next()).await.unwrap().unwrap();
    assert_eq!(reply.data, b"reply");
}

/// Declares a queue that takes one message and refuses the next.
async fn declare_full_after_one(connection: &Connection, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

#[tokio::test]
async fn a_reply_queue_that_is_full_is_named_and_its_reply_goes_nowhere_else() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let publisher = AmqpQueue::connect(config.clone()).await.unwrap().publisher();
    let name = format!("{}.full", config.prefix);
    declare_full_after_one(&broker.connect().await, &name).await;
    let to_full = Destination::Reply(Some(name.clone()));
    assert_eq!(publisher.publish(&to_full, message("a")).await.unwrap(), Published::Routed);
    let refused = publisher.publish(&to_full, message("b")).await.unwrap_err();
    assert!(matches!(&refused, QueueError::NotTaken { queue, .. } if *queue == name), "{refused}");
    assert_eq!(broker.ready(&config.names().replies()).await, 0);
    broker.take(&name).await.unwrap();
    assert_eq!(publisher.publish(&to_full, message("b")).await.unwrap(), Published::Routed);
}

#[tokio::test]
async fn progress_goes_to_the_callers_queue_or_nowhere() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let publisher = AmqpQueue::connect(config.clone()).await.unwrap().publisher();
    let mut inbox = ReplyInbox::open(&config).await.unwrap();
    let told = publisher.publish(&Destination::Progress(inbox.name().to_owned()), message("a")).await;
    assert_eq!(told.unwrap(), Published::Routed);
    assert_eq!(soon("progress", inbox.next()).await.unwrap().properties.message_id.as_deref(), Some("a"));
    let nowhere = publisher.publish(&Destination::Progress(format!("{}.gone", config.prefix)), message("b")).await;
    assert!(matches!(nowhere, Err(QueueError::Unavailable(_))), "{nowhere:?}");
    assert_eq!(broker.ready(&config.names().replies()).await, 0);
}

/// The common reply queue as version 0.1.0 declares it.
async fn declare_earlier_replies(connection: &Connection, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(100_000));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(7 * 86_400_000));
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

async fn state_of_replies(config: &Config) -> QueueState {
    let queues = inspect(config).await.unwrap().queues;
    queues.into_iter().find(|queue| queue.name == config.names().replies()).unwrap().state
}

#[tokio::test]
async fn an_empty_reply_queue_of_an_earlier_version_is_made_anew() {
    let broker = Broker::shared().await;
    let config = broker.config();
    declare_earlier_replies(&broker.connect().await, &config.names().replies()).await;
    assert_eq!(state_of_replies(&config).await, QueueState::Earlier);
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    assert!(matches!(state_of_replies(&config).await, QueueState::Present { mismatch: None, .. }));
    assert_eq!(queue.publisher().publish(&Destination::Reply(None), message("a")).await.unwrap(), Published::Routed);
}

#[tokio::test]
async fn a_reply_queue_of_an_earlier_version_is_used_as_it_is_where_replies_are_in_it_or_a_worker_is_at_work() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let (connection, replies) = (broker.connect().await, config.names().replies());
    declare_earlier_replies(&connection, &replies).await;
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel
        .basic_publish("".into(), replies.as_str().into(), options, b"old", properties)
        .await
        .unwrap()
        .await
        .unwrap();

    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    assert_eq!(queue.publisher().publish(&Destination::Reply(None), message("a")).await.unwrap(), Published::Routed);
    let mut consumer = queue.consumer(1);
    insist(&queue, &Destination::Jobs, "job").await;
    let job = next(&mut consumer).await;
    assert_eq!(broker.take(&replies).await.unwrap().0, b"old");
    assert_eq!(broker.take(&replies).await.unwrap().0, b"a");
    drop(AmqpQueue::connect(config.clone()).await.unwrap());
    assert_eq!(state_of_replies(&config).await, QueueState::Earlier, "the other worker knows no other queue");
    job.ack().await.unwrap();
}

/// Publishes, with hand-made frames, a message whose `correlation_id` is no UTF-8, which our library cannot read.
async fn publish_unreadable(broker: &Broker, queue: &str) {
    fn short(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }
    fn frame(kind: u8, channel: u8, payload: &[&[u8]]) -> Vec<u8> {
        let payload = payload.concat();
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, channel], &size[..], &payload, &[0xce]].concat()
    }
    let tune_ok = [&2047_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &0_u16.to_be_bytes()].concat();
    let frames = [
        b"AMQP\0\0\x09\x01".to_vec(),
        frame(1, 0, &[b"\0\x0a\0\x0b\0\0\0\0", &short(b"PLAIN"), b"\0\0\0\x0c\0guest\0guest", &short(b"en_US")]),
        frame(1, 0, &[b"\0\x0a\0\x1f", &tune_ok]),
        frame(1, 0, &[b"\0\x0a\0\x28", &short(b"/"), b"\0\0"]),
        frame(1, 1, &[b"\0\x14\0\x0a\0"]),
        frame(1, 1, &[b"\0\x3c\0\x28\0\0\0", &short(queue.as_bytes()), b"\0"]),
        frame(2, 1, &[b"\0\x3c\0\0", &1_u64.to_be_bytes(), &0x0400_u16.to_be_bytes(), &short(b"\xff\xfe")]),
        frame(3, 1, &[b"x"]),
        frame(1, 0, &[b"\0\x0a\0\x32\0\xc8\0\0\0\0\0"]),
    ];
    let address = broker.url().rsplit_once('@').unwrap().1.to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(&frames.concat()).await.unwrap();
    stream.shutdown().await.unwrap();
    // Ends once the broker has read all of it.
    let _ = soon("closing", stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_as_a_dead_letter() {
    let broker = Broker::shared().await;
    let config = impatient(broker.config());
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    publish_unreadable(broker, &config.names().jobs()).await;
    let mut consumer = queue.consumer(1);
    insist(&queue, &Destination::Jobs, "after").await;
    let after = next(&mut consumer).await;
    assert_eq!(id(&after), "after");
    after.ack().await.unwrap();
    eventually("the dead letter", || async {
        let facts = inspect(&config).await.unwrap();
        let dead = facts.queues.into_iter().find(|queue| queue.name == config.names().dead()).unwrap();
        matches!(dead.state, QueueState::Present { messages: 1, .. }).then_some(())
    })
    .await;
    assert!(queue.status().reconnects() >= 20, "{}", queue.status().reconnects());
}

#[tokio::test]
async fn dead_letters_are_taken_one_by_one_and_can_be_put_back() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    for id in ["a", "b", "c"] {
        insist(&queue, &Destination::Dead, id).await;
    }
    // More looks than the delivery limit that brokers from 4.0 have by default.
    for _ in 0..25 {
        let letters = DeadLetters::open(&config).await.unwrap();
        let mut taken = Vec::new();
        while let Some(letter) = letters.take().await.unwrap() {
            taken.push(letter);
        }
        let mut ids: Vec<_> = taken.iter().map(|letter| id(letter).to_owned()).collect();
        ids.sort();
        assert_eq!(ids, ["a", "b", "c"]);
        for letter in taken {
            letter.requeue().await.unwrap();
        }
    }
    let letters = DeadLetters::open(&config).await.unwrap();
    for _ in 0..3 {
        letters.take().await.unwrap().unwrap().ack().await.unwrap();
    }
    assert!(letters.take().await.unwrap().is_none());
}

#[tokio::test]
async fn the_broker_says_what_it_is_and_how_the_queues_are() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let facts = inspect(&config).await.unwrap();
    let greeting = facts.addresses[0].answer.as_ref().unwrap();
    assert_eq!(greeting.product, "RabbitMQ");
    assert!(greeting.version.starts_with(|first: char| first.is_ascii_digit()), "{greeting:?}");
    assert!(facts.queues.iter().all(|queue| queue.state == QueueState::Missing));
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    insist(&queue, &Destination::Jobs, "a").await;
    let expected = QueueState::Present { messages: 1, consumers: 0, mismatch: None };
    eventually("the message to be counted", || async {
        let facts = inspect(&config).await.unwrap();
        let jobs = facts.queues.into_iter().find(|queue| queue.name == config.names().jobs());
        (jobs.unwrap().state == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_late_ack_is_an_error_and_the_message_comes_again() {
    let broker = Broker::exclusive().await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let mut consumer = queue.consumer(4);
    insist(&queue, &Destination::Jobs, "a").await;
    let late = next(&mut consumer).await;
    broker.control(&["close_all_connections", "by the test"]).await;
    let again = next(&mut consumer).await;
    assert_eq!((id(&again), again.redelivered), ("a", true));
    assert!(late.is_lost());
    assert_eq!(late.ack().await, Err(QueueError::DeliveryLost));
    again.ack().await.unwrap();
    insist(&queue, &Destination::Jobs, "b").await;
    let delivery = next(&mut consumer).await;
    assert_eq!((id(&delivery), delivery.redelivered), ("b", false), "the late ack acked nothing else");
    assert!(queue.status().reconnects() >= 2 && queue.status().connected() && queue.status().consuming());
}

#[tokio::test]
async fn a_lost_connection_is_noticed_while_nobody_asks_for_deliveries() {
    let broker = Broker::exclusive().await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let mut consumer = queue.consumer(4);
    for id in ["a", "b", "c", "d"] {
        insist(&queue, &Destination::Jobs, id).await;
    }
    next(&mut consumer).await.requeue().await.unwrap();
    broker.control(&["close_all_connections", "by the test"]).await;
    let status = queue.status();
    eventually("both connections", || async { (status.reconnects() >= 2 && status.consuming()).then_some(()) }).await;
    for _ in 0..4 {
        let delivery = next(&mut consumer).await;
        assert!(delivery.redelivered, "{} came over the lost connection", id(&delivery));
        delivery.ack().await.unwrap();
    }
}

/// Up to 4.2 the broker closes the channel. From 4.3 on it cancels the consumer, and late acks seem to succeed.
#[tokio::test]
async fn a_consumer_that_was_timed_out_is_noticed_and_what_it_held_comes_again() {
    let broker = Broker::start_impatient(Duration::from_secs(5)).await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let mut consumer = queue.consumer(3);
    for id in ["a", "b", "c"] {
        insist(&queue, &Destination::Jobs, id).await;
    }
    let late = next(&mut consumer).await;
    // Nobody takes the others meanwhile.
    let status = queue.status();
    eventually("a new consumer", || async { (status.reconnects() >= 1 && status.consuming()).then_some(()) }).await;
    assert_eq!(late.ack().await, Err(QueueError::DeliveryLost));
    for _ in 0..3 {
        let again = next(&mut consumer).await;
        assert!(again.redelivered, "{} came to the consumer that was timed out", id(&again));
        again.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_always_comes_back_ends_as_a_dead_letter() {
    let broker = Broker::shared().await;
    let config = broker.config();
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let mut consumer = queue.consumer(1);
    insist(&queue, &Destination::Jobs, "a").await;
    for round in 0..=DELIVERY_LIMIT {
        let delivery = next(&mut consumer).await;
        // Half of the workers panic.
        if round % 2 == 0 { drop(delivery) } else { delivery.requeue().await.unwrap() }
    }
    let dead = config.names().dead();
    let letter = eventually("the letter", || broker.take(&dead)).await;
    assert_eq!(letter.1.message_id().as_ref().unwrap().as_str(), "a");
}

#[tokio::test]
async fn a_reply_inbox_reports_its_end() {
    let broker = Broker::exclusive().await;
    let mut inbox = ReplyInbox::open(&broker.config()).await.unwrap();
    let (next, _) =
        tokio::join!(soon("the end", inbox.next()), broker.control(&["close_all_connections", "by the test"]));
    assert!(matches!(next, Err(QueueError::Unavailable(_))), "{next:?}");
}

#[tokio::test]
async fn a_broker_low_on_memory_blocks_publishes_for_a_bounded_time_and_acks_not_at_all() {
    let broker = Broker::exclusive().await;
    let config = Config { publish_timeout_milliseconds: 1000, ..broker.config() };
    let queue = AmqpQueue::connect(config).await.unwrap();
    let (publisher, status) = (queue.publisher(), queue.status());
    let mut consumer = queue.consumer(4);
    insist(&queue, &Destination::Jobs, "a").await;
    let delivery = next(&mut consumer).await;

    broker.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    let error = eventually("the alarm", || async {
        let started = Instant::now();
        let error = publisher.publish(&Destination::Jobs, message("b")).await.err()?;
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        Some(error)
    })
    .await;
    assert!(matches!(error, QueueError::TimedOut(_) | QueueError::Blocked), "{error}");
    eventually("the report of it", || async { status.blocked().then_some(()) }).await;
    let error = publisher.publish(&Destination::Jobs, message("c")).await.unwrap_err();
    assert!(matches!(error, QueueError::Blocked), "{error}");
    delivery.ack().await.unwrap();

    broker.control(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    insist(&queue, &Destination::Jobs, "d").await;
    assert!(!status.blocked());
    assert_eq!(status.reconnects(), 0, "an alarm is no reason to connect anew");
}

#[tokio::test]
async fn a_reply_queue_that_confirms_nothing_keeps_nobody_from_publishing_elsewhere() {
    let broker = Broker::exclusive().await;
    let config = Config { publish_timeout_milliseconds: 1000, ..broker.config() };
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let publisher = queue.publisher();
    let name = format!("{}-stuck", config.prefix);
    let connection = broker.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    let process = format!("{{'%2F_{name}', node()}}");
    broker.control(&["eval", &format!("sys:suspend({process}).")]).await;

    let to_stuck = Destination::Reply(Some(name.clone()));
    let stuck: Vec<_> = (0..100)
        .map(|number| {
            let (publisher, to_stuck) = (publisher.clone(), to_stuck.clone());
            tokio::spawn(async move { publisher.publish(&to_stuck, message(&number.to_string())).await })
        })
        .collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let published = Instant::now();
        publisher.publish(&Destination::Reply(None), message("other")).await.unwrap();
        assert!(published.elapsed() < Duration::from_millis(500), "{:?}", published.elapsed());
    }
    for publish in stuck {
        let refused = soon("an answer", publish).await.unwrap();
        assert!(matches!(refused, Err(QueueError::NotTaken { .. } | QueueError::TimedOut(_))), "{refused:?}");
    }
    // Known for what it is by now.
    let (trial, refused) = tokio::join!(publisher.publish(&to_stuck, message("trial")), async {
        let started = Instant::now();
        let refused = publisher.publish(&to_stuck, message("refused")).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        insist(&queue, &Destination::Reply(None), "other").await;
        refused
    });
    for refused in [trial, refused] {
        assert!(matches!(refused, Err(QueueError::NotTaken { .. })), "{refused:?}");
    }
    assert_eq!(queue.status().reconnects(), 0);
    broker.control(&["eval", &format!("sys:resume({process}).")]).await;
    eventually("a confirm", || async { publisher.publish(&to_stuck, message("a")).await.ok() }).await;
}

#[tokio::test]
async fn a_frozen_broker_is_noticed_and_found_again() {
    let broker = Broker::exclusive().await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let (publisher, status) = (queue.publisher(), queue.status());
    let mut consumer = queue.consumer(4);
    insist(&queue, &Destination::Jobs, "a").await;
    let delivery = next(&mut consumer).await;

    broker.freeze(true);
    let error = soon("giving up", publisher.publish(&Destination::Jobs, message("b"))).await.unwrap_err();
    assert!(matches!(error, QueueError::TimedOut(_) | QueueError::Unavailable(_)), "{error}");
    eventually("being noticed", || async { (!status.connected() && !status.consuming()).then_some(()) }).await;
    broker.freeze(false);

    insist(&queue, &Destination::Jobs, "c").await;
    let mut seen = BTreeSet::new();
    while !(seen.contains("a") && seen.contains("c")) {
        let delivery = next(&mut consumer).await;
        seen.insert(id(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    delivery.ack().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_nothing_that_it_confirmed() {
    let broker = Broker::exclusive().await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let mut consumer = queue.consumer(16);
    // A quorum queue that is younger than a second does not survive its only node (measured on 3.10, 4.0 and 4.3).
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all: BTreeSet<String> = (0..300).map(|number| number.to_string()).collect();
    let publisher = queue.clone();
    let ids = all.clone();
    let publishing = tokio::spawn(async move {
        for id in ids {
            insist(&publisher, &Destination::Jobs, &id).await;
        }
    });
    let mut seen = BTreeSet::new();
    let mut killed = false;
    while seen.len() < all.len() {
        let delivery = next(&mut consumer).await;
        seen.insert(id(&delivery).to_owned());
        let _ = delivery.ack().await;
        if seen.len() == 100 && !killed {
            killed = true;
            broker.kill();
            broker.start().await;
        }
    }
    assert_eq!(seen, all);
    publishing.await.unwrap();
    assert!(queue.status().reconnects() >= 2);
    insist(&queue, &Destination::Wait(Duration::from_secs(1)), "waited").await;
    while id(&next(&mut consumer).await) != "waited" {}
}

#[tokio::test]
async fn a_broker_that_goes_away_while_a_process_starts_is_waited_for() {
    let broker = Broker::shared().await;
    let proxy = Proxy::to(broker.address()).await;
    let url = format!("amqp://guest:guest@{}", proxy.address());
    let queue = AmqpQueue::connect(impatient(Config { url: url.into(), ..broker.config() })).await.unwrap();
    proxy.shut(true);
    let holder = queue.holder("one").await.unwrap();
    assert!(holder.hold(message("a")).await.is_err());
    proxy.shut(false);
    eventually("it holds", || async { holder.hold(message("b")).await.ok() }).await;
}

#[tokio::test]
async fn what_a_dead_process_held_becomes_jobs_within_seconds_and_its_queue_is_empty() {
    let broker = Broker::start_own().await;
    let config = impatient(broker.config());
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let holder = queue.holder("one").await.unwrap();
    let held = soon("a held message", holder.hold(message("a"))).await.unwrap();
    // As a process that is killed: nothing is said, the connection just ends.
    broker.control(&["close_all_connections", "killed"]).await;
    assert!(held.ack_for_certain().await.is_err(), "nobody can tell whether it is gone");
    let mut consumer = queue.consumer(8);
    let again = next(&mut consumer).await;
    assert_eq!(again.message.properties.message_id.as_deref(), Some("a"));
    again.ack().await.unwrap();
    let newer = eventually("the holder holds again", || async { holder.hold(message("b")).await.ok() }).await;
    newer.ack_for_certain().await.unwrap();
    let name = config.names().held("one");
    eventually("the queue is empty", || async { (broker.ready(&name).await == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_queue_of_held_messages_that_does_not_survive_its_broker_is_left_for_another() {
    let broker = Broker::start_own().await;
    let queue = AmqpQueue::connect(impatient(broker.config())).await.unwrap();
    let old = queue.holder("old").await.unwrap();
    // Held only once that queue survives, and with it all that are older.
    let held = soon("a held message", old.hold(message("a"))).await.unwrap();
    let young = queue.holder("young").await.unwrap();
    broker.kill();
    broker.start().await;
    eventually("the young one holds", || async { young.hold(message("b")).await.ok() }).await;
    let mut consumer = queue.consumer(8);
    let again = loop {
        let delivery = next(&mut consumer).await;
        // One that was given up as nobody knew whether it was held becomes a job, too.
        if delivery.message.properties.message_id.as_deref() != Some("b") {
            break delivery;
        }
        delivery.ack().await.unwrap();
    };
    assert_eq!(again.message.properties.message_id.as_deref(), Some("a"));
    assert!(held.is_lost());
}
