//! The floor: a bare loop that sends for each job what the worker sends, byte for byte, with the same libraries, and does
//! nothing else. It knows no plan, reads no answer, keeps no state. What the worker costs beyond it is the worker's own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

use crate::recording::{Recording, Step};

/// All that it needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) amqp_url: String,
    pub(crate) queue: String,
    pub(crate) concurrency: u16,
    pub(crate) redis_url: String,
    pub(crate) upstream_url: String,
    pub(crate) recording: Recording,
}

/// Plays the part, with the orders in a file: prints a line, works until the benchmark is gone.
pub(crate) async fn play(arguments: &[String]) {
    let orders: Orders = serde_json::from_slice(&std::fs::read(&arguments[0]).unwrap()).unwrap();
    let connection = Connection::connect(&orders.amqp_url, ConnectionProperties::default()).await.unwrap();
    let (consuming, publishing) =
        (connection.create_channel().await.unwrap(), connection.create_channel().await.unwrap());
    publishing.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    consuming.basic_qos(orders.concurrency, BasicQosOptions::default()).await.unwrap();
    let (options, queue) = (BasicConsumeOptions::default(), orders.queue.as_str());
    let mut consumer = consuming.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let redis = redis::Client::open(orders.redis_url.as_str()).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let redis = redis.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
    let floor =
        Floor { redis: Some(redis), replies: Some(publishing), ..Floor::new(orders.recording, &orders.upstream_url) };
    let floor = Arc::new(floor);
    println!("ready");
    while let Some(delivery) = consumer.next().await {
        let (floor, delivery) = (Arc::clone(&floor), delivery.unwrap());
        tokio::spawn(async move {
            let properties = &delivery.properties;
            let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
            floor.run(&text(properties.correlation_id()), &text(properties.reply_to())).await;
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        });
    }
    panic!("the broker is gone");
}

/// What it works with.
pub(crate) struct Floor {
    steps: Vec<Planned>,
    id: String,
    token: String,
    reply: String,
    client: reqwest::Client,
    redis: Option<MultiplexedConnection>,
    replies: Option<Channel>,
}

/// A step with all made ready that is the same for each job.
enum Planned {
    Redis(Vec<String>),
    Http(Box<reqwest::Request>, Bytes),
    Reply,
}

impl Floor {
    /// Sends to Scalekit and the model alone.
    #[expect(clippy::disallowed_methods, reason = "the bare loop is no part of the program")]
    pub(crate) fn new(recording: Recording, upstream_url: &str) -> Self {
        let client = reqwest::Client::builder().http1_only().build().unwrap();
        let plan = |step| match step {
            Step::Redis(arguments) => Planned::Redis(arguments),
            Step::Reply => Planned::Reply,
            Step::Http(call) => {
                let method = reqwest::Method::from_bytes(call.method.as_bytes()).unwrap();
                let mut request = client.request(method, format!("{upstream_url}{}", call.target));
                for (name, value) in &call.headers {
                    request = request.header(name, value);
                }
                Planned::Http(Box::new(request.build().unwrap()), call.body.into())
            }
        };
        let Recording { steps, reply, id, token } = recording;
        let steps = steps.into_iter().map(plan).collect();
        Self { steps, id, token, reply, client, redis: None, replies: None }
    }

    /// One job.
    pub(crate) async fn run(&self, id: &str, reply_to: &str) {
        let mut token = None;
        for step in &self.steps {
            match step {
                Planned::Redis(arguments) => {
                    let Some(redis) = &self.redis else { continue };
                    let mut command = redis::cmd(&arguments[0]);
                    for argument in &arguments[1..] {
                        match &token {
                            Some(token) if *argument == self.token => command.arg(token),
                            // A key holds the id, and little else.
                            _ if argument.len() < 200 && argument.contains(&self.id) => {
                                command.arg(argument.replace(&self.id, id))
                            }
                            _ => command.arg(argument),
                        };
                    }
                    let answer: redis::Value = command.query_async(&mut redis.clone()).await.unwrap();
                    if let redis::Value::Array(parts) = &answer
                        && let Some(redis::Value::Int(claimed)) = parts.get(1)
                    {
                        token.get_or_insert(claimed.to_string());
                    }
                }
                Planned::Http(request, body) => {
                    let mut request = request.try_clone().unwrap();
                    if !body.is_empty() {
                        *request.body_mut() = Some(body.clone().into());
                    }
                    let answer = self.client.execute(request).await.unwrap();
                    assert!(answer.status().is_success());
                    answer.bytes().await.unwrap();
                }
                Planned::Reply => {
                    let Some(channel) = &self.replies else { continue };
                    let properties = BasicProperties::default()
                        .with_delivery_mode(2)
                        .with_message_id(id.into())
                        .with_correlation_id(id.into())
                        .with_content_type("application/cloudevents+json; charset=utf-8".into())
                        .with_type(crate::load::COMPLETED.into());
                    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                    let confirm =
                        channel.basic_publish("".into(), reply_to.into(), options, self.reply.as_bytes(), properties);
                    assert!(confirm.await.unwrap().await.unwrap().is_ack());
                }
            }
        }
    }
}
