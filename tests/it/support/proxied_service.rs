//! A worker's surroundings with a proxy before each of its services, and what a test asks of them.

use std::sync::Arc;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{AmqpPublisher, AmqpQueue, Config as Amqp, Tier};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::{Value, json};

use super::broker::Broker;
use super::eventually;
use super::program::{Program, WorkerProcess};
use super::proxy::Proxy;
use super::redis::Redis;
use super::sandbox_peer::SandboxPeer;
use super::scripted_model::ScriptedModel;

/// The user of all jobs here.
pub(crate) const USER: &str = "user_123";

/// The surroundings. Workers are started with [`ProxiedService::program`]; every account is active.
pub(crate) struct ProxiedService<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) amqp: Amqp,
    pub(crate) redis: Redis,
    pub(crate) peer: SandboxPeer,
    pub(crate) to_broker: Proxy,
    pub(crate) to_upstream: Proxy,
    publisher: Arc<AmqpPublisher>,
}

impl<'a> ProxiedService<'a> {
    pub(crate) async fn new(broker: &'a Broker) -> Self {
        let amqp = Amqp { reconnect_max_milliseconds: 500, ..broker.config() };
        let redis = Redis::start().await;
        let peer = SandboxPeer::with_active_accounts_in_real_time().await;
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        let to_broker = Proxy::to(broker.address()).await;
        let to_upstream = Proxy::to(peer.sandbox.scalekit_url().trim_start_matches("http://")).await;
        Self { broker, amqp, redis, peer, to_broker, to_upstream, publisher }
    }

    /// The program with these settings, `SECTION__KEY` and value; short leases and waits unless they say otherwise.
    pub(crate) fn program(&self, settings: &[(&str, &str)]) -> Program {
        let proxied =
            Amqp { url: format!("amqp://guest:guest@{}", self.to_broker.address()).into(), ..self.amqp.clone() };
        let upstream = format!("http://{}", self.to_upstream.address());
        let mut program = Program::of_service(&self.peer.sandbox, &proxied, &self.redis.url())
            .set("SCALEKIT_ENV_URL", &upstream)
            .set("OPENAI_BASE_URL", &format!("{upstream}/v1"));
        let usual = [
            ("WORKER__LEASE_SECONDS", "3"),
            ("WORKER__TRANSIENT__INITIAL_MILLISECONDS", "200"),
            ("WORKER__TRANSIENT__MAX_MILLISECONDS", "1000"),
            ("AMQP__HEARTBEAT_SECONDS", "2"),
            ("AMQP__RECONNECT_MAX_MILLISECONDS", "500"),
            ("REDIS__BREAKER_OPEN_MILLISECONDS", "500"),
        ];
        for (name, value) in usual.iter().chain(settings) {
            program = program.set(&format!("AGENTKIT_WORKER__{name}"), value);
        }
        program
    }

    /// A worker whose model is a script.
    pub(crate) async fn worker(&self, model: &ScriptedModel, settings: &[(&str, &str)]) -> WorkerProcess {
        self.program(settings).set("OPENAI_BASE_URL", &model.base_url()).worker().await
    }

    /// Hands a job over; its reply goes to the common queue.
    pub(crate) async fn send(&self, id: &str, prompt: &str) {
        self.send_job(id, json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": prompt})).await;
    }

    /// Hands over this job.
    pub(crate) async fn send_job(&self, id: &str, body: Value) {
        self.send_with(id, body, &[]).await;
    }

    /// Hands over this job with these headers.
    pub(crate) async fn send_with(&self, id: &str, body: Value, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let (message_id, timestamp) = (Some(id.to_owned()), Some(SystemClock.now()));
        let properties = Properties { message_id, timestamp, headers, ..Properties::default() };
        let message = Message { body: body.to_string().into(), properties };
        self.publisher.publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The next reply.
    pub(crate) async fn reply(&self) -> Value {
        let queue = self.amqp.names().replies();
        let (body, _) = eventually("a reply", || self.broker.take(&queue)).await;
        serde_json::from_slice(&body).unwrap()
    }

    /// The one reply to the one job: nothing else comes, and nothing is left in the queues.
    pub(crate) async fn only_reply(&self) -> Value {
        let reply = self.reply().await;
        self.only_reply_after(reply.clone()).await;
        reply
    }

    /// After the one reply to the one job nothing else comes but copies of it, which are counted, and nothing is left in
    /// the queues.
    pub(crate) async fn only_reply_after(&self, reply: Value) -> usize {
        let names = self.amqp.names();
        let queues: Vec<String> =
            Tier::ALL.into_iter().map(|tier| names.wait(tier)).chain([names.jobs(), names.dead()]).collect();
        eventually("the queues are empty", || async {
            for queue in &queues {
                if self.broker.ready(queue).await > 0 {
                    return None;
                }
            }
            Some(())
        })
        .await;
        let mut copies = 0;
        while let Some((body, _)) = self.broker.take(&names.replies()).await {
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), reply, "a second reply that differs");
            copies += 1;
        }
        copies
    }

    /// How many mails were really sent.
    pub(crate) async fn mails(&self) -> usize {
        self.peer.effects().await
    }
}
