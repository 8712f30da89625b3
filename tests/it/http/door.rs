//! A worker's HTTP door, which holds each answer to what `schema openapi` says of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use agentkit_worker::Config;
use agentkit_worker::internals::app::{App, Backends};
use agentkit_worker::internals::approval::Writes;
use agentkit_worker::internals::cli::openapi;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::http_server::{Scope, TokenConfig};
use agentkit_worker::internals::journal::Journal;
use agentkit_worker::internals::queue::Publisher;
use agentkit_worker::internals::queue::memory::MemoryQueue;
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::internals::schema::Schema;
use agentkit_worker::{Ended, Shutdown};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::broker::Broker;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::{config_of, plain_client};
use crate::support::soon;

/// Good for everything and everybody.
pub(super) const ALL: &str = "a token that is good for all";
/// Good for looking.
pub(super) const READER: &str = "a token that only looks at jobs";
/// Good for everything, of other users.
pub(super) const FOREIGNER: &str = "a token of other users";
/// Good for nothing.
pub(super) const NOTHING: &str = "a token that is good for nothing";

/// A job that is larger is refused.
pub(super) const MOST: usize = 20_000;

/// What replies are signed with, while one secret takes the place of the other.
pub(super) const SECRETS: &str = "whsec_bmV3IHNlY3JldCBvZiB0ZXN0cw==,whsec_b2xkIHNlY3JldCBvZiB0ZXN0cw==";
/// So many follow jobs at the same time.
pub(super) const STREAMS: usize = 3;

/// The door, its worker, and what stands around.
pub(super) struct Door {
    pub(super) sandbox: Sandbox,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) publisher: Arc<dyn Publisher>,
    queue: Option<MemoryQueue>,
    /// The name of the queue for replies without a place of their own, where there is a broker.
    replies: String,
    /// Before the broker, where there is one.
    pub(super) to_broker: Option<Proxy>,
    address: SocketAddr,
    app: Option<App>,
    running: Option<JoinHandle<Ended>>,
    shutdown: Shutdown,
    client: reqwest::Client,
    document: Value,
    /// Method, path and status of all answers so far.
    seen: Mutex<BTreeSet<String>>,
    _redis: Option<Redis>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: Value,
}

impl Answered {
    pub(super) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Door {
    /// Everything in memory. No job is run before [`Door::run`].
    pub(super) async fn in_memory(change: impl FnOnce(&mut Config)) -> Self {
        let (sandbox, mut config) = surroundings().await;
        change(&mut config);
        let queue = MemoryQueue::new(1000);
        let backends = Backends::memory(&queue, &(Arc::new(SystemClock) as _));
        let door = Self::of(sandbox, config, backends, None, None).await;
        Self { queue: Some(queue), ..door }
    }

    /// A broker behind a proxy, and a Redis.
    pub(super) async fn of_service(change: impl FnOnce(&mut Config)) -> Self {
        let (sandbox, mut config) = surroundings().await;
        let (broker, redis) = (Broker::shared().await, Redis::start().await);
        let to_broker = Proxy::to(broker.address()).await;
        config.amqp = broker.config();
        config.amqp.url = format!("amqp://guest:guest@{}", to_broker.address()).into();
        config.redis = redis.config();
        config.redis.connection_timeout_milliseconds = 10_000;
        config.redis.response_timeout_milliseconds = 10_000;
        change(&mut config);
        let backends = Backends::service(&config).await.unwrap();
        Self::of(sandbox, config, backends, Some(to_broker), Some(redis)).await
    }

    async fn of(
        sandbox: Sandbox,
        config: Config,
        backends: Backends,
        to_broker: Option<Proxy>,
        redis: Option<Redis>,
    ) -> Self {
        let (shutdown, journal, publisher) = (Shutdown::new(), backends.journal.clone(), backends.publisher.clone());
        let replies = config.amqp.names().replies();
        let app = App::build(config, backends, Arc::new(SystemClock), shutdown.clone()).unwrap();
        let address = app.serve_http().await.unwrap();
        Self {
            sandbox,
            journal,
            publisher,
            queue: None,
            replies,
            to_broker,
            address,
            app: Some(app),
            running: None,
            shutdown,
            client: plain_client(),
            document: openapi(),
            seen: Mutex::default(),
            _redis: redis,
        }
    }

    /// From now on jobs are run.
    pub(super) fn run(&mut self) {
        self.running = self.app.take().map(|app| tokio::spawn(app.run()));
    }

    /// Ends the worker; returns the answers that are documented and were not seen.
    pub(super) async fn stop(self) -> BTreeSet<String> {
        self.shutdown.stop();
        if let Some(running) = self.running {
            assert_eq!(soon("the worker's end", running).await.unwrap(), Ended::InOrder);
        }
        let seen = self.seen.into_inner().unwrap();
        documented(&self.document).into_iter().filter(|answer| !seen.contains(answer)).collect()
    }

    /// A request that is still to be sent.
    pub(super) fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address)).bearer_auth(token)
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> Answered {
        self.send(Method::GET, path, self.request(Method::GET, path, token)).await
    }

    pub(super) async fn delete(&self, path: &str, token: &str) -> Answered {
        self.send(Method::DELETE, path, self.request(Method::DELETE, path, token)).await
    }

    pub(super) async fn post(&self, path: &str, token: &str, body: &Value) -> Answered {
        self.send(Method::POST, path, self.request(Method::POST, path, token).json(body)).await
    }

    /// Sends it, and holds the answer to the document.
    pub(super) async fn send(&self, method: Method, path: &str, request: RequestBuilder) -> Answered {
        let answer = soon("an answer", request.send()).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let text = answer.text().await.unwrap();
        let body: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        self.check(&method, path, status, header("content-type").as_deref(), &body);
        Answered { status, retry_after: header("retry-after"), body }
    }

    fn check(&self, method: &Method, path: &str, status: u16, content_type: Option<&str>, body: &Value) {
        let method = method.as_str().to_lowercase();
        let place = place(&self.document, path).unwrap_or_else(|| panic!("{path} is not documented"));
        let documented = &self.document["paths"][place][&method]["responses"][status.to_string()];
        assert!(documented.is_object(), "{method} {path}: {status} is not documented: {body}");
        if let Some(content) = documented["content"].as_object() {
            let (media_type, content) = content.iter().next().unwrap();
            assert_eq!(content_type, Some(media_type.as_str()), "{method} {path}: {status}");
            let mut schema = content["schema"].clone();
            schema["components"] = self.document["components"].clone();
            let problems = Schema::compile(&schema).unwrap().problems(body);
            assert_eq!(problems, Vec::<String>::new(), "{method} {path}: {status}: {body:#}");
        }
        self.saw(&method, place, status);
    }

    /// An answer that is documented was given.
    pub(super) fn saw(&self, method: &str, place: &str, status: u16) {
        self.seen.lock().unwrap().insert(format!("{method} {place} {status}"));
    }

    /// Takes the replies that had no place of their own.
    pub(super) async fn common_replies(&self) -> Vec<Value> {
        let mut all = Vec::new();
        match &self.queue {
            Some(queue) => all.extend(queue.take_replies().into_iter().map(|message| message.body.to_vec())),
            None => {
                while let Some((body, _)) = Broker::shared().await.take(&self.replies).await {
                    all.push(body);
                }
            }
        }
        all.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
    }

    /// How a job stands at its end.
    pub(super) async fn end(&self, id: &str) -> Value {
        let ended = self.get(&format!("/v1/jobs/{id}?wait=60"), ALL).await.body;
        assert!(ended["reply"].is_object(), "{ended:#}");
        ended
    }
}

async fn surroundings() -> (Sandbox, Config) {
    let mut options = SandboxOptions::new(Arc::new(SystemClock));
    options.initial_status = Some("ACTIVE".to_owned());
    let sandbox = Sandbox::start(options).await.unwrap();
    let mut config = config_of(&sandbox);
    config.http.bind = "127.0.0.1:0".into();
    config.reply_url.secret = SECRETS.into();
    config.reply_url.allowed_hosts = vec!["127.0.0.1".to_owned()];
    config.reply_url.retry.attempts = 3;
    config.reply_url.retry.initial_milliseconds = 100;
    config.reply_url.retry.max_milliseconds = 100;
    config.http.max_streams = STREAMS;
    config.worker.max_job_bytes = MOST;
    config.authorization.poll_seconds = 1;
    config.authorization.poll_seconds_at_most = 1;
    config.approval.writes = Writes::All;
    config.amqp.publish_timeout_milliseconds = 1000;
    let every = [Scope::JobsWrite, Scope::JobsRead, Scope::Approvals, Scope::Content, Scope::Operate];
    let tokens: [(&str, &str, &[Scope], &str); 4] = [
        ("all", ALL, &every, "*"),
        ("reader", READER, &[Scope::JobsRead], "*"),
        ("foreigner", FOREIGNER, &every, "acme_*"),
        ("nothing", NOTHING, &[], "*"),
    ];
    let configured = |(name, token, scopes, identifiers): (&str, &str, &[Scope], &str)| {
        let (scopes, identifiers) = (scopes.to_vec(), vec![identifiers.to_owned()]);
        (name.to_owned(), TokenConfig { token: token.into(), token_file: None, scopes, identifiers })
    };
    config.http.tokens = tokens.into_iter().map(configured).collect();
    (sandbox, config)
}

/// The documented path that a request's path is one of.
fn place<'d>(document: &'d Value, path: &str) -> Option<&'d str> {
    let asked: Vec<&str> = path.split('?').next()?.split('/').collect();
    let fits = |known: &str| {
        let known: Vec<&str> = known.split('/').collect();
        known.len() == asked.len() && known.iter().zip(&asked).all(|(known, asked)| known == asked || *known == "{id}")
    };
    document["paths"].as_object()?.keys().map(String::as_str).find(|known| fits(known))
}

fn documented(document: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let statuses = operation["responses"].as_object().unwrap().keys();
            all.extend(statuses.map(|status| format!("{method} {path} {status}")));
        }
    }
    all
}

/// A job of `user_123`.
pub(super) fn job(id: &str, prompt: &str) -> Value {
    json!({"id": id, "identifier": "user_123", "connections": ["gmail"], "prompt": prompt})
}

/// A prompt whose one call waits for approval.
pub(super) fn send_mail() -> String {
    let mail = json!({"to": "sam@example.com", "subject": "Hi", "body": "there"});
    format!("call gmail_send_message with {mail}")
}
