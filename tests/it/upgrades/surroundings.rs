//! What workers of any version need around them, with a model of which a test says when it is silent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::{AmqpPublisher, AmqpQueue, Config as Amqp};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::chat_model::{prompt, says, tool_results, wants};
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::program::{Program, WorkerProcess};
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::webhooks;
use crate::support::{eventually, setting};

/// Has connected Gmail.
pub(super) const USER: &str = "user_123";

/// An earlier version of the program, built by `tests/run`.
pub(super) struct EarlierBuild {
    pub(super) commit: String,
    pub(super) file: PathBuf,
}

impl EarlierBuild {
    pub(super) fn of_environment() -> Self {
        let setting = |name| setting(name).expect("`tests/run` says which version, and where it is");
        Self { commit: setting("UPGRADE_COMMIT"), file: setting("UPGRADE_PROGRAM").into() }
    }
}

pub(super) struct Surroundings<'a> {
    pub(super) broker: &'a Broker,
    pub(super) amqp: Amqp,
    pub(super) redis: Redis,
    pub(super) peer: SandboxPeer,
    pub(super) model: HttpPeer,
    pub(super) publisher: Arc<AmqpPublisher>,
    silent: Arc<Mutex<BTreeSet<(String, usize)>>>,
    replies: Mutex<Vec<Value>>,
}

impl<'a> Surroundings<'a> {
    /// [`USER`] alone has an account.
    pub(super) async fn new(broker: &'a Broker, amqp: Amqp) -> Self {
        let peer = SandboxPeer::start_with(|options| options.clock = Arc::new(SystemClock)).await;
        peer.activate("gmail", USER).await;
        let silent: Arc<Mutex<BTreeSet<(String, usize)>>> = Arc::default();
        let hangs = silent.clone();
        let model = HttpPeer::start(move |request| {
            let (prompt, results) = (prompt(request), tool_results(request));
            let mail = |subject| json!({"to": "bob@example.com", "subject": subject, "body": "hello"});
            match prompt.strip_prefix("mail ") {
                _ if hangs.lock().unwrap().contains(&(prompt.clone(), results)) => Answer::Hang,
                Some(subject) if results == 0 => wants("call-1", "gmail_send_message", &mail(subject)),
                _ => says("done"),
            }
        })
        .await;
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        Self { broker, amqp, redis: Redis::start().await, peer, model, publisher, silent, replies: Mutex::default() }
    }

    /// The program, whose workers look at waiting accounts so seldom that nothing but a webhook wakes a run.
    pub(super) fn program(&self) -> Program {
        Program::of_service(&self.peer.sandbox, &self.amqp, &self.redis.url())
            .set("OPENAI_BASE_URL", &format!("{}/v1", self.model.url))
            .set("SCALEKIT_WEBHOOK_SECRET", &webhooks::secret())
            .set("AGENTKIT_WORKER__REDIS__KEY_PREFIX", &self.redis.config().key_prefix)
            .set("AGENTKIT_WORKER__REDIS__RESPONSE_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "5000")
            .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", "3")
            .set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS", "3600")
            .set("AGENTKIT_WORKER__AUTHORIZATION__POLL_SECONDS_AT_MOST", "3600")
    }

    /// The model does not answer what it is asked with this prompt after so many results.
    pub(super) fn silence(&self, prompt: &str, results: usize) {
        self.silent.lock().unwrap().insert((prompt.to_owned(), results));
    }

    /// The model answers everything again.
    pub(super) fn speak(&self) {
        self.silent.lock().unwrap().clear();
    }

    /// Waits until the model was asked that.
    pub(super) async fn asked(&self, wanted: &str, results: usize) {
        eventually("the model is asked", || async {
            let requests = self.model.requests("/chat/completions");
            let asked = |request| prompt(request) == wanted && tool_results(request) == results;
            requests.iter().any(asked).then_some(())
        })
        .await;
    }

    /// Hands a job over: one whose prompt is `mail` and a subject writes that mail, any other is answered at once. It waits a
    /// month for its user.
    pub(super) async fn send(&self, id: &str, identifier: &str, prompt: &str) {
        let job = json!({"id": id, "identifier": identifier, "connections": ["gmail"], "prompt": prompt,
            "authorization": {"wait_seconds": 30 * 86_400}});
        self.send_bytes(id, job.to_string(), None).await;
    }

    /// Hands over whatever it is.
    pub(super) async fn send_bytes(&self, id: &str, body: String, reply_to: Option<&str>) {
        let properties = Properties {
            message_id: Some(id.to_owned()),
            reply_to: reply_to.map(str::to_owned),
            timestamp: Some(SystemClock.now()),
            ..Properties::default()
        };
        let message = Message { body: body.into(), properties };
        self.publisher.publish(&Destination::Jobs, message).await.unwrap();
    }

    /// The subjects of the mails that were written for [`USER`].
    pub(super) async fn mails(&self) -> Vec<String> {
        let world = self.peer.world().await;
        let effects = world["effects"].as_array().unwrap().iter();
        effects.map(|effect| effect["params"]["subject"].as_str().unwrap().to_owned()).collect()
    }

    /// All replies so far that end something, of one job.
    pub(super) async fn ends(&self, id: &str) -> Vec<Value> {
        while let Some((body, _)) = self.broker.take(&self.amqp.names().replies()).await {
            self.replies.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        let replies = self.replies.lock().unwrap();
        let ends = |reply: &&Value| {
            let kind = reply["type"].as_str().unwrap();
            reply["subject"] == id && ["agentkit.job.completed", "agentkit.job.failed"].contains(&kind)
        };
        replies.iter().filter(ends).cloned().collect()
    }

    /// The only reply that ends this job.
    pub(super) async fn end(&self, id: &str) -> Value {
        let end = eventually(&format!("the end of {id}"), || async { self.ends(id).await.pop() }).await;
        assert_eq!(self.ends(id).await, std::slice::from_ref(&end));
        end
    }

    /// Waits until a worker has nothing more to do.
    pub(super) async fn idle(&self, worker: &WorkerProcess) {
        let jobs = self.amqp.names().jobs();
        eventually("the worker has nothing to do", || async {
            let waits = self.broker.ready(&jobs).await > 0;
            let works = worker.metric("agentkit_jobs_in_flight").await != Some(0.0);
            (!waits && !works).then_some(())
        })
        .await;
    }
}
