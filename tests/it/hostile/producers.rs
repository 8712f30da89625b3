//! Who may hand over jobs: users of a real broker, which vouches for them.

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config as Amqp, Tier};
use agentkit_worker::internals::queue::{Destination, Message, Publisher as _};
use agentkit_worker::internals::worker::HeaderKey;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::{Program, WorkerProcess};
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::scripted_model::{ScriptedModel, Turn, turn};
use crate::support::{eventually, unique};

/// A user of the broker.
pub(super) struct Producer {
    pub(super) name: String,
    connection: Connection,
}

impl Producer {
    pub(super) async fn new(broker: &Broker, stem: &str) -> Self {
        let name = unique(stem);
        broker.control(&["add_user", &name, "secret"]).await;
        broker.control(&["set_permissions", &name, ".*", ".*", ".*"]).await;
        let url = format!("amqp://{name}:secret@{}", broker.address());
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        Self { name, connection }
    }

    /// Publishes a job as `user`, with these headers; false where the broker refuses to.
    pub(super) async fn publish(&self, queue: &str, job: &Value, user: Option<&str>) -> bool {
        let channel = self.connection.create_channel().await.unwrap();
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.unwrap();
        let properties = BasicProperties::default();
        let properties = match user {
            Some(user) => properties.with_user_id(user.into()),
            None => properties,
        };
        let body = job.to_string();
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await;
        match published {
            Ok(confirm) => confirm.await.is_ok(),
            Err(_) => false,
        }
    }
}

impl Producer {
    /// Publishes a job under its own name, with headers.
    pub(super) async fn publish_with(&self, queue: &str, job: &Value, headers: &[(&str, &str)]) {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        let properties = BasicProperties::default().with_user_id(self.name.as_str().into()).with_headers(table);
        self.send(queue, job, properties).await;
    }

    async fn send(&self, queue: &str, body: &Value, properties: BasicProperties) {
        let channel = self.connection.create_channel().await.unwrap();
        let (body, options) = (body.to_string(), BasicPublishOptions::default());
        channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await.unwrap();
    }
}

/// Lets `billing` act for some users, reading only.
fn rules(program: &Program, billing: &Producer, replies: &str) {
    let lines = format!(
        "[producers.billing]\namqp_users = [\"{}\"]\nidentifiers = [\"{USER}\", \"acme_*\"]\nconnections = [\"gmail\"]\n\
         models = [\"gpt-4o\"]\neffects = \"read\"\nreply_to = [\"{replies}\"]\n",
        billing.name
    );
    std::fs::create_dir_all(program.folder().join("config")).unwrap();
    std::fs::write(program.folder().join("config").join("producers.toml"), lines).unwrap();
}

/// Everything around a worker that takes jobs of `billing`, and whose model is this script.
async fn surroundings(
    script: impl IntoIterator<Item = Turn>,
) -> (ProxiedService<'static>, ScriptedModel, Producer, WorkerProcess) {
    let service = ProxiedService::new(Broker::shared().await).await;
    let (model, billing) = (ScriptedModel::start(script).await, Producer::new(service.broker, "billing").await);
    let program = service.program(&[]).set("OPENAI_BASE_URL", &model.base_url());
    rules(&program, &billing, &service.amqp.names().replies());
    let worker = program.worker().await;
    (service, model, billing, worker)
}

fn job(id: &str) -> Value {
    json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": "x", "tools": {"effects": "read"}})
}

fn with(mut job: Value, field: &str, value: Value) -> Value {
    job[field] = value;
    job
}

#[tokio::test]
async fn a_producer_acts_for_those_it_may_and_nobody_without_a_user_that_the_broker_vouches_for() {
    let (service, model, billing, worker) = surroundings((0..2).map(|_| turn::text("fine"))).await;
    let shipping = Producer::new(service.broker, "shipping").await;
    let (jobs, replies, dead) = {
        let names = service.amqp.names();
        (names.jobs(), names.replies(), names.dead())
    };
    for id in ["allowed", "allowed-2"] {
        let job = with(with(job(id), "model", "gpt-4o".into()), "reply_to", replies.as_str().into());
        assert!(billing.publish(&jobs, &job, Some(&billing.name)).await);
        let reply = service.reply().await;
        assert_eq!((&reply["type"], &reply["subject"]), (&json!("agentkit.job.completed"), &json!(id)), "{reply:#}");
    }
    assert!(!shipping.publish(&jobs, &job("lie"), Some(&billing.name)).await, "the broker refuses a lie");
    let beyond = [
        (&billing, None, json!({}), "vouches for no producer"),
        (&shipping, Some(&shipping.name), json!({}), "vouches for no producer"),
        (&billing, Some(&billing.name), json!({"identifier": "other_1"}), "identifier: `other_1`"),
        (&billing, Some(&billing.name), json!({"connections": ["gmail", "slack"]}), "connections: `slack`"),
        (&billing, Some(&billing.name), json!({"model": "gpt-6-luna"}), "model: `gpt-6-luna`"),
        (&billing, Some(&billing.name), json!({"tools": {}}), "tools.effects"),
        (&billing, Some(&billing.name), json!({"reply_to": "shipping.replies"}), "reply_to: `shipping.replies`"),
    ];
    for (index, (producer, user, change, words)) in beyond.into_iter().enumerate() {
        let mut job = job(&format!("beyond-{index}"));
        job.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert!(producer.publish(&jobs, &job, user.map(String::as_str)).await);
        let reply = service.reply().await;
        assert_eq!(reply["data"]["error"]["code"], "producer_not_allowed", "{reply:#}");
        assert!(reply["data"]["error"]["message"].as_str().unwrap().contains(words), "{reply:#}");
        eventually("the dead letter", || service.broker.take(&dead)).await;
    }
    worker.stop().await;
    assert_eq!(model.finish().len(), 2, "none of the others got so far as the model");
}

#[tokio::test]
async fn a_run_of_a_producer_goes_on_by_messages_that_are_the_workers_own() {
    let (service, model, billing, worker) = surroundings([turn::status(429).retry_after(3), turn::text("fine")]).await;
    assert!(billing.publish(&service.amqp.names().jobs(), &job("waits"), Some(&billing.name)).await);
    let reply = service.only_reply().await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["attempts"], 2, "it was put off: {reply:#}");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn a_job_that_was_not_looked_at_yet_is_its_senders_in_every_copy_that_the_worker_makes_of_it() {
    let (service, model, billing, worker) = surroundings([]).await;
    let names = service.amqp.names();
    // Left to a newer worker, before anybody has looked what it asks for.
    let forbidden = with(job("newer"), "identifier", "other_1".into());
    let headers = [("x-agentkit-needs", "2")];
    billing.publish_with(&names.jobs(), &forbidden, &headers).await;
    let waiting = names.wait(Tier::ThirtySeconds);
    let (_, properties) = eventually("the message", || service.broker.take(&waiting)).await;
    assert_eq!(properties.user_id().as_ref().unwrap().as_str(), "guest", "the worker's own");
    let sender = properties.headers().as_ref().unwrap().inner().get("x-agentkit-sender").cloned();
    assert_eq!(sender, Some(AMQPValue::LongString(billing.name.as_str().into())));
    // As the worker puts off one whose refusal nobody took.
    let mut put_off = Message { body: forbidden.to_string().into(), ..Message::default() };
    put_off.properties.headers = [("x-agentkit-turn", "0"), ("x-agentkit-sender", billing.name.as_str())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    HeaderKey::of(&service.peer.sandbox.client_secret().into()).sign(&mut put_off);
    let own = Amqp { stated_user: Some("guest".to_owned()), ..service.amqp.clone() };
    AmqpQueue::connect(own).await.unwrap().publisher().publish(&Destination::Jobs, put_off).await.unwrap();
    assert_eq!(service.reply().await["data"]["error"]["code"], "producer_not_allowed");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn a_producer_decides_about_nothing_and_hears_so_where_it_may_hear_anything() {
    let (service, model, billing, worker) = surroundings([]).await;
    let names = service.amqp.names();
    let decision = json!({"job": "a", "approval": "ap_a", "arguments_digest": "sha256:a", "decision": "approve"});
    let properties = BasicProperties::default().with_user_id(billing.name.as_str().into());
    for (reply_to, heard) in [("shipping.replies".to_owned(), false), (names.replies(), true)] {
        let properties = properties.clone().with_reply_to(reply_to.into());
        billing.send(&names.decisions(), &decision, properties).await;
        if heard {
            let refused = service.reply().await;
            assert_eq!(
                refused["data"]["error"]["code"].as_str().or(refused["data"]["code"].as_str()),
                Some("not_a_decider"),
                "{refused:#}"
            );
        }
    }
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn headers_of_the_worker_are_not_believed_of_a_producer() {
    let (service, model, billing, worker) = surroundings([turn::text("fine")]).await;
    let headers = [("x-agentkit-turn", "3"), ("x-agentkit-reason", "seal"), ("x-agentkit-entries", "9")];
    billing.publish_with(&service.amqp.names().jobs(), &job("forged"), &headers).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    worker.stop().await;
    model.finish();
}
