//! A worker in this process with everything in memory, for whole runs against the sandbox or a scripted model.

use std::sync::Arc;

use agentkit_worker::Config;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::schema::Schema;
use agentkit_worker::reply::Reply;
use agentkit_worker::{Embedded, Job};
use serde_json::{Value, json};

use super::sandbox_peer::{SandboxPeer, config_of};
use super::scripted_model::ScriptedModel;
use super::soon;

/// A worker in this process, and the stand-ins around it.
pub(crate) struct EmbeddedWorker {
    pub(crate) peer: SandboxPeer,
    embedded: Embedded,
}

impl EmbeddedWorker {
    /// The sandbox's own model; every account is active.
    pub(crate) async fn new() -> Self {
        Self::with(None, |_| {}).await
    }

    pub(crate) async fn scripted(model: &ScriptedModel) -> Self {
        Self::with(Some(model), |_| {}).await
    }

    pub(crate) async fn with(model: Option<&ScriptedModel>, change: impl FnOnce(&mut Config)) -> Self {
        let peer = SandboxPeer::with_active_accounts().await;
        let mut config = config_of(&peer.sandbox);
        if let Some(model) = model {
            config.model.base_url = model.base_url();
        }
        for policy in [
            &mut config.scalekit.control_retry,
            &mut config.scalekit.tool_retry,
            &mut config.model.retry,
            &mut config.worker.transient,
        ] {
            policy.initial_milliseconds = 5;
            policy.max_milliseconds = 10;
        }
        config.worker.transient.attempts = 3;
        change(&mut config);
        let embedded = Embedded::start(config, Arc::new(SystemClock)).unwrap();
        Self { peer, embedded }
    }

    /// All replies to a job, the terminal one last, each as `schema reply` promises.
    pub(crate) async fn replies(&self, job: &Value) -> Vec<Value> {
        let job: Job = serde_json::from_value(job.clone()).unwrap();
        let mut replies = self.embedded.submit(&job).await.unwrap();
        let schema = Schema::compile(&Reply::schema()).unwrap();
        let mut all = Vec::new();
        loop {
            let reply = soon("a reply", replies.next()).await.unwrap();
            let value = serde_json::to_value(&reply).unwrap();
            assert_eq!(schema.problems(&value), Vec::<String>::new(), "{value:#}");
            all.push(value);
            if reply.event.is_terminal() {
                return all;
            }
        }
    }

    /// The worker itself.
    pub(crate) fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    /// What the worker counts, as it is shown.
    pub(crate) fn metrics(&self) -> String {
        self.embedded.metrics().render()
    }

    /// The terminal reply.
    pub(crate) async fn run(&self, job: &Value) -> Value {
        self.replies(job).await.pop().unwrap()
    }

    /// The data of the completed reply.
    pub(crate) async fn completed(&self, job: &Value) -> Value {
        let reply = self.run(job).await;
        assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
        reply["data"].clone()
    }

    /// The data of the failed reply; every failure says what to do.
    pub(crate) async fn failed(&self, job: &Value) -> Value {
        let reply = self.run(job).await;
        assert_eq!(reply["type"], "agentkit.job.failed", "{reply:#}");
        assert!(reply["data"]["error"]["hint"].as_str().unwrap().len() > 10, "{reply:#}");
        assert_eq!(reply["data"]["stop_reason"], reply["data"]["error"]["code"]);
        reply["data"].clone()
    }

    /// The code of the failed reply.
    pub(crate) async fn code(&self, job: &Value) -> String {
        self.failed(job).await["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// A job of `user_123` with Gmail.
pub(crate) fn job(prompt: &str) -> Value {
    json!({"identifier": "user_123", "connections": ["gmail"], "prompt": prompt})
}

/// The job with another field.
pub(crate) fn with(mut job: Value, field: &str, value: Value) -> Value {
    job[field] = value;
    job
}
