//! `amqp.url` with several addresses: where one is away, silent, or refuses, the next one serves.

use std::time::{Duration, Instant};

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config, DeadLetters, ReplyInbox, inspect};
use agentkit_worker::internals::queue::{Consumer, Destination, Holder, Message, Publisher, QueueError};

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::{eventually, soon};

/// The time that one address has in these tests.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

fn config(broker: &Broker, addresses: &[&str]) -> Config {
    let url: Vec<String> = addresses.iter().map(|address| format!("amqp://guest:guest@{address}")).collect();
    Config {
        url: url.join(",").into(),
        heartbeat_seconds: 1,
        connect_timeout_milliseconds: 500,
        reconnect_max_milliseconds: 500,
        publish_timeout_milliseconds: 3000,
        ..broker.config()
    }
}

/// Where nobody listens.
fn closed() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

async fn publish(queue: &AmqpQueue, body: &'static str) {
    let publisher = queue.publisher();
    let message = Message { body: body.into(), ..Message::default() };
    eventually("a confirm", || async { publisher.publish(&Destination::Jobs, message.clone()).await.ok() }).await;
}

/// Takes a message. What was published when a connection broke may come twice.
async fn take(consumer: &mut impl Consumer, body: &str) {
    let taken = async {
        loop {
            let delivery = consumer.next().await.unwrap();
            let found = delivery.message.body == body;
            if delivery.ack().await.is_ok() && found {
                return;
            }
        }
    };
    soon(body, taken).await;
}

#[tokio::test]
async fn addresses_that_are_away_or_silent_cost_their_connect_timeout_at_most_whoever_connects() {
    let broker = Broker::shared().await;
    let silent = Proxy::to(broker.address()).await;
    silent.freeze(true);
    let (closed, silent) = (closed(), silent.address());
    let config = config(broker, &[&closed, &silent, broker.address()]);
    // Each begins at a random one.
    for _ in 0..4 {
        let started = Instant::now();
        let queue = AmqpQueue::connect(config.clone()).await.unwrap();
        assert!(started.elapsed() < CONNECT_TIMEOUT + Duration::from_secs(5), "{:?}", started.elapsed());
        let mut consumer = queue.consumer(1);
        publish(&queue, "a").await;
        take(&mut consumer, "a").await;
        let holder = queue.holder("one").await.unwrap();
        let held = soon("a held message", holder.hold(Message::default())).await.unwrap();
        held.ack_for_certain().await.unwrap();
        ReplyInbox::open(&config).await.unwrap();
        assert!(DeadLetters::open(&config).await.unwrap().take().await.unwrap().is_none());
    }
    let facts = inspect(&config).await.unwrap().addresses;
    let found: Vec<_> = facts.iter().map(|facts| (facts.address.as_str(), facts.answer.is_ok())).collect();
    assert_eq!(found, [(closed.as_str(), false), (silent.as_str(), false), (broker.address(), true)]);
}

#[tokio::test]
async fn connections_to_a_node_that_closes_or_falls_silent_go_on_at_the_other_one() {
    let broker = Broker::shared().await;
    let (one, two) = (Proxy::to(broker.address()).await, Proxy::to(broker.address()).await);
    let config = config(broker, &[&one.address(), &two.address()]);
    let queue = AmqpQueue::connect(config).await.unwrap();
    let mut consumer = queue.consumer(1);
    publish(&queue, "begun").await;
    take(&mut consumer, "begun").await;
    // Whichever is used, both ways lose it once; the other one is there each time.
    for (away, body) in [(&one, "one is shut"), (&two, "two is shut")] {
        away.shut(true);
        publish(&queue, body).await;
        take(&mut consumer, body).await;
        away.shut(false);
    }
    for (away, body) in [(&one, "one is silent"), (&two, "two is silent")] {
        away.freeze(true);
        publish(&queue, body).await;
        take(&mut consumer, body).await;
        away.freeze(false);
    }
    assert!(queue.status().reconnects() >= 2, "{}", queue.status().reconnects());
}

#[tokio::test]
async fn a_node_that_refuses_the_user_is_passed_over_and_where_all_do_it_is_said_at_once() {
    let broker = Broker::shared().await;
    let good = broker.url();
    let bad = good.replace("guest:guest@", "guest:hunter2@");
    for _ in 0..4 {
        let config = Config { url: format!("{bad},{good}").into(), ..broker.config() };
        AmqpQueue::connect(config).await.unwrap();
    }
    let config = Config { url: format!("{bad},{bad}").into(), connect_attempts: 100, ..broker.config() };
    let error = soon("a refusal", AmqpQueue::connect(config)).await.unwrap_err();
    assert!(matches!(&error, QueueError::Refused(words) if words.matches("ACCESS_REFUSED").count() == 2), "{error}");
    assert!(!error.to_string().contains("hunter2"));
    let config = Config { url: format!("amqp://u:hunter2@{},{bad}", closed()).into(), ..broker.config() };
    let error = AmqpQueue::connect(Config { connect_attempts: 1, ..config }).await.unwrap_err();
    let words = error.to_string();
    for part in [broker.address(), "ACCESS_REFUSED", "Connection refused"] {
        assert!(words.contains(part) && !words.contains("hunter2"), "{part} is missing in: {words}");
    }
}

#[tokio::test]
async fn doctor_looks_at_every_address_and_a_bad_one_is_named_by_its_place() {
    let broker = Broker::shared().await;
    let closed = closed();
    let url = format!("{},amqp://guest:hunter2@{closed}", broker.url());
    let doctor = async |url: &str| Program::new().set("AMQP_URL", url).run(&["doctor"]).await;
    let output = doctor(&url).await;
    for part in [format!("RabbitMQ at {}: RabbitMQ ", broker.address()), format!("warning RabbitMQ at {closed}: ")] {
        assert!(output.stdout.contains(&part), "{part} is missing in {}", output.all());
    }
    assert!(!output.all().contains("hunter2"), "{}", output.all());
    let output = doctor(&format!("{},amqp://guest:hunter2@host:port", broker.url())).await;
    for part in ["BROKEN  configuration: amqp.url: ", "address 2 of 2 is not an AMQP URL"] {
        assert!(output.stdout.contains(part), "{part} is missing in {}", output.all());
    }
    assert!(!output.all().contains("hunter2"), "{}", output.all());
}
