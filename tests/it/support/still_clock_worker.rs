//! A worker in this process that waits for its users by a clock which moves only where the test moves it.

use std::sync::Arc;

use agentkit_worker::Config;
use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use agentkit_worker::reply::{Reply, ReplyEvent};
use agentkit_worker::{Embedded, Replies};
use serde_json::{Value, json};

use super::sandbox_peer::{NOW, config_of, plain_client};

/// A worker in memory, a sandbox, and a clock for both that stands still.
pub(crate) struct StillClockWorker {
    embedded: Embedded,
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Arc<ManualClock>,
}

impl StillClockWorker {
    pub(crate) async fn start(change: impl FnOnce(&mut SandboxOptions)) -> Self {
        Self::with(change, |_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut SandboxOptions), configure: impl FnOnce(&mut Config)) -> Self {
        let clock = Arc::new(ManualClock::new(NOW.parse().unwrap()));
        let mut options = SandboxOptions::new(clock.clone());
        change(&mut options);
        let sandbox = Sandbox::start(options).await.unwrap();
        let mut config = every_second(&sandbox);
        configure(&mut config);
        let embedded = Embedded::start(config, clock.clone()).unwrap();
        Self { embedded, sandbox, clock }
    }

    pub(crate) async fn set_account(&self, identifier: &str, status: &str) {
        self.order("accounts", json!({"connector": "gmail", "identifier": identifier, "status": status})).await;
    }

    pub(crate) async fn order(&self, path: &str, body: Value) {
        let url = format!("{}/{path}", self.sandbox.control_url());
        assert!(plain_client().post(url).json(&body).send().await.unwrap().status().is_success());
    }

    pub(crate) async fn ask(&self, job: Value) -> Replies {
        self.embedded.submit(&serde_json::from_value(job).unwrap()).await.unwrap()
    }
}

/// Uses the sandbox, and looks at accounts every second.
pub(crate) fn every_second(sandbox: &Sandbox) -> Config {
    let mut config = config_of(sandbox);
    config.authorization.poll_seconds = 1;
    config.authorization.poll_seconds_at_most = 1;
    config
}

/// The link that a reply asks the user to open, and until when the run waits for that.
pub(crate) fn links(reply: &Reply) -> (String, jiff::Timestamp) {
    let ReplyEvent::AuthorizationRequired(required) = &reply.event else { panic!("{reply:?}") };
    (required.authorizations[0].link.clone().unwrap(), required.waiting_until.unwrap())
}
