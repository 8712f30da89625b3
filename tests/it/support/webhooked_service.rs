//! The whole service on a broker, a Redis and a sandbox, for runs that wait for their users.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentkit_worker::Client;
use agentkit_worker::Config;
use agentkit_worker::internals::app::{App, Backends};
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::journal::Journal;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions, WebhookTarget};
use agentkit_worker::job::Job;
use agentkit_worker::reply::{AuthorizationRequired, Reply, ReplyEvent};
use agentkit_worker::{Ended, Shutdown};
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::broker::Broker;
use super::redis::Redis;
use super::sandbox_peer::{config_of, plain_client};
use super::webhooks::secret;
use super::{PATIENCE, shortly, soon};

/// An address that stays the same while workers come and go: passes webhooks on to the present one.
struct WebhookRelay {
    url: String,
    target: Arc<Mutex<Option<SocketAddr>>>,
    _server: AbortOnDropHandle<()>,
}

impl WebhookRelay {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let target = Arc::new(Mutex::new(None::<SocketAddr>));
        let (client, present) = (plain_client(), target.clone());
        let pass_on = move |headers: HeaderMap, body: Bytes| async move {
            let Some(address) = *present.lock().unwrap() else { return StatusCode::BAD_GATEWAY };
            let request = client.post(format!("http://{address}/webhooks/scalekit")).headers(headers).body(body);
            request.send().await.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status())
        };
        let router = Router::new().route("/hook", post(pass_on));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, target, _server: AbortOnDropHandle::new(server) }
    }
}

/// The services that outlive a worker.
pub(crate) struct WebhookedService {
    pub(crate) sandbox: Sandbox,
    pub(crate) redis: Redis,
    relay: WebhookRelay,
    config: Config,
    http: reqwest::Client,
}

/// A worker.
pub(crate) struct WebhookedWorker {
    pub(crate) address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<Ended>,
}

/// A job's replies, as they come.
pub(crate) struct JobReplies(mpsc::UnboundedReceiver<Reply>);

impl WebhookedService {
    pub(crate) async fn start(change: impl FnOnce(&mut SandboxOptions)) -> Self {
        Self::on(Broker::shared().await, change).await
    }

    /// On this broker.
    pub(crate) async fn on(broker: &Broker, change: impl FnOnce(&mut SandboxOptions)) -> Self {
        let relay = WebhookRelay::start().await;
        let mut options = SandboxOptions::new(Arc::new(SystemClock));
        options.webhook = Some(WebhookTarget { url: relay.url.clone(), secret: secret() });
        change(&mut options);
        let sandbox = Sandbox::start(options).await.unwrap();
        let redis = Redis::start().await;
        let mut config = config_of(&sandbox);
        config.amqp = broker.config();
        config.redis = redis.config();
        // The tests' machines are busy, and outages are not the subject.
        config.redis.connection_timeout_milliseconds = 10_000;
        config.redis.response_timeout_milliseconds = 10_000;
        config.scalekit.webhook_secret = secret().into();
        config.http.bind = "127.0.0.1:0".into();
        config.authorization.poll_seconds = 3600;
        config.authorization.poll_seconds_at_most = 3600;
        Self { sandbox, redis, relay, config, http: plain_client() }
    }

    /// Webhooks are taken, the poll comes once an hour.
    pub(crate) fn webhooks_alone(&self) -> Config {
        self.config.clone()
    }

    /// Webhooks are taken, the poll comes every second.
    pub(crate) fn both(&self) -> Config {
        let mut config = self.config.clone();
        config.authorization.poll_seconds = 1;
        config.authorization.poll_seconds_at_most = 1;
        config
    }

    /// Webhooks are refused, the poll comes every second.
    pub(crate) fn polling_alone(&self) -> Config {
        let mut config = self.both();
        config.scalekit.webhook_secret = String::new().into();
        config
    }

    /// Starts a worker; webhooks go to the one that was started last.
    pub(crate) async fn worker(&self, config: Config) -> WebhookedWorker {
        self.worker_with(config, |_| {}).await
    }

    /// The same, with something put around its edges.
    pub(crate) async fn worker_with(&self, config: Config, change: impl FnOnce(&mut Backends)) -> WebhookedWorker {
        let shutdown = Shutdown::new();
        let mut backends = Backends::service(&config).await.unwrap();
        change(&mut backends);
        let app = App::build(config, backends, Arc::new(SystemClock), shutdown.clone()).unwrap();
        let address = app.serve_http().await.unwrap();
        *self.relay.target.lock().unwrap() = Some(address);
        WebhookedWorker { address, shutdown, task: tokio::spawn(app.run()) }
    }

    /// Publishes a job.
    pub(crate) async fn ask(&self, job: Value) -> JobReplies {
        let job: Job = serde_json::from_value(job).unwrap();
        let client = Client::connect(self.config.amqp.clone(), Arc::new(SystemClock)).await.unwrap();
        let (sender, replies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let seen = |reply: &Reply| drop(sender.send(reply.clone()));
            client.request(&job, PATIENCE, seen).await.unwrap();
        });
        JobReplies(replies)
    }

    /// Publishes jobs whose replies nobody waits for.
    pub(crate) async fn enqueue(&self, jobs: impl IntoIterator<Item = Value>) {
        let client = Client::connect(self.config.amqp.clone(), Arc::new(SystemClock)).await.unwrap();
        for job in jobs {
            client.enqueue(&serde_json::from_value(job).unwrap()).await.unwrap();
        }
    }

    /// What the sandbox was asked: one group's count.
    pub(crate) async fn count(&self, group: &str) -> u64 {
        self.control("requests").await["counts"][group].as_u64().unwrap_or(0)
    }

    pub(crate) async fn control(&self, path: &str) -> Value {
        let url = format!("{}/{path}", self.sandbox.control_url());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Sets an account's status; a change is announced by webhook.
    pub(crate) async fn set_status(&self, connection: &str, identifier: &str, status: &str) {
        self.order("accounts", json!({"connector": connection, "identifier": identifier, "status": status})).await;
    }

    pub(crate) async fn order(&self, path: &str, body: Value) {
        let url = format!("{}/{path}", self.sandbox.control_url());
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// The user opens the link and agrees.
    pub(crate) async fn consent(&self, link: &str) {
        let request = self.http.post(link).header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(request.body("decision=allow").send().await.unwrap().status(), 200);
    }

    /// The entries of a run's journal.
    pub(crate) async fn journal(&self, job: &str) -> Vec<String> {
        let client = agentkit_worker::internals::redis_client::RedisClient::new(&self.config.redis).unwrap();
        RedisJournal::new(client).read(&agentkit_worker::job::JobId::new(job).unwrap()).await.unwrap()
    }

    /// Waits until the run of a job has been parked to the last step.
    pub(crate) async fn parked(&self, job: &str) {
        shortly("the run is parked", async || {
            let last = self.journal(job).await.pop()?;
            last.contains("wake_up_published").then_some(())
        })
        .await;
    }
}

impl WebhookedWorker {
    pub(crate) async fn stop(self) {
        self.shutdown.stop();
        assert_eq!(soon("the worker's end", self.task).await.unwrap(), Ended::InOrder);
    }

    /// What `GET /metrics` says on one line.
    pub(crate) async fn metric(&self, name: &str) -> Option<String> {
        let text = plain_client().get(format!("http://{}/metrics", self.address)).send().await.unwrap();
        let text = text.text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    }
}

impl JobReplies {
    /// The next reply.
    pub(crate) async fn next(&mut self) -> Reply {
        soon("a reply", self.0.recv()).await.expect("a reply")
    }

    /// The next reply, which says that the user must authorize.
    pub(crate) async fn authorization(&mut self) -> (Reply, AuthorizationRequired) {
        let reply = self.next().await;
        let ReplyEvent::AuthorizationRequired(required) = &reply.event else { panic!("{reply:?}") };
        (reply.clone(), (**required).clone())
    }

    /// All replies that are left, up to the terminal one.
    pub(crate) async fn rest(mut self) -> Vec<Reply> {
        let mut rest = Vec::new();
        while let Some(reply) = soon("the terminal reply", self.0.recv()).await {
            rest.push(reply);
        }
        rest
    }
}

/// A job that reads mails.
pub(crate) fn job(id: &str, identifier: &str) -> Value {
    json!({
        "id": id, "identifier": identifier, "connections": ["gmail"], "prompt": "Fetch my last 5 unread emails and summarize them.",
        "authorization": {"wait_seconds": 86_400},
    })
}

/// The error's code of a failed reply, `completed` of a completed one.
pub(crate) fn outcome(reply: &Reply) -> &'static str {
    match &reply.event {
        ReplyEvent::Completed(_) => "completed",
        ReplyEvent::Failed(failed) => failed.error.code.as_str(),
        other => panic!("{other:?}"),
    }
}

/// Longer than a webhook may take to wake a run.
pub(crate) const A_SECOND: Duration = Duration::from_secs(1);
