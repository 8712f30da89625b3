//! A plain HTTP client for the sandbox, and a sandbox with a clock that tests can move.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::Config;
use agentkit_worker::internals::approval::Writes;
use agentkit_worker::internals::clock::{ManualClock, SystemClock};
use agentkit_worker::internals::sandbox::{Sandbox, SandboxOptions};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

/// Sunday, 22 November 2026, 08:00 UTC.
pub(crate) const NOW: &str = "2026-11-22T08:00:00Z";

/// A sandbox, its clock, and a client that holds a token.
pub(crate) struct SandboxPeer {
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) client: Client,
    pub(crate) token: String,
}

impl SandboxPeer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut SandboxOptions)) -> Self {
        let clock = Arc::new(ManualClock::new(NOW.parse().unwrap()));
        let mut options = SandboxOptions::new(clock.clone());
        change(&mut options);
        let sandbox = Sandbox::start(options).await.unwrap();
        let client = plain_client();
        let mut peer = Self { sandbox, clock, client, token: String::new() };
        peer.token = peer.new_token().await;
        peer
    }

    /// Every account is active from the start.
    pub(crate) async fn with_active_accounts() -> Self {
        Self::start_with(|options| options.initial_status = Some("ACTIVE".to_owned())).await
    }

    /// Every account is active from the start, and the sandbox's time is the world's, as a worker's is that is a process.
    pub(crate) async fn with_active_accounts_in_real_time() -> Self {
        Self::start_with(|options| {
            options.initial_status = Some("ACTIVE".to_owned());
            options.clock = Arc::new(SystemClock);
        })
        .await
    }

    pub(crate) async fn new_token(&self) -> String {
        let form = format!(
            "client_id={}&client_secret={}&grant_type=client_credentials",
            self.sandbox.client_id(),
            self.sandbox.client_secret()
        );
        let request = self.client.post(format!("{}/oauth/token", self.sandbox.scalekit_url()));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// A client of a foreign program.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A request to the stand-in for Scalekit, with its token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.sandbox.scalekit_url())).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    /// A request to the stand-in for the models, below `/v1`.
    pub(crate) async fn model(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.sandbox.model_url()));
        answer(request.bearer_auth(self.sandbox.api_key()).json(&body)).await
    }

    pub(crate) async fn activate(&self, connector: &str, identifier: &str) {
        self.set_account(connector, identifier, "ACTIVE").await;
    }

    pub(crate) async fn set_account(&self, connector: &str, identifier: &str, status: &str) {
        let account = json!({"connector": connector, "identifier": identifier, "status": status});
        assert_eq!(self.post("/_sandbox/accounts", account).await.0, 200);
    }

    /// Runs a tool for `user_123` and gives status and body.
    pub(crate) async fn execute(&self, connector: &str, tool: &str, params: Value) -> (u16, Value) {
        let call = json!({
            "tool_name": tool, "connector": connector, "identifier": "user_123", "params": params, "agent_run_id": "run-1",
        });
        self.post("/api/v1/execute_tool", call).await
    }

    pub(crate) async fn fault(&self, fault: Value) {
        let (status, body) = self.post("/_sandbox/faults", fault).await;
        assert_eq!(status, 200, "{body}");
    }

    /// How many requests of a group came so far.
    pub(crate) async fn count(&self, group: &str) -> u64 {
        self.get("/_sandbox/requests").await.1["counts"][group].as_u64().unwrap_or(0)
    }

    /// The bodies of the latest requests of a group, oldest first.
    pub(crate) async fn bodies(&self, group: &str) -> Vec<Value> {
        let (_, log) = self.get("/_sandbox/requests").await;
        let recent = log["recent"].as_array().unwrap().iter();
        recent.filter(|request| request["group"] == group).map(|request| request["body"].clone()).collect()
    }

    pub(crate) async fn world(&self) -> Value {
        self.get("/_sandbox/world/user_123").await.1
    }

    /// How many effects tools have had on the world of `user_123`.
    pub(crate) async fn effects(&self) -> usize {
        self.world().await["effects"].as_array().unwrap().len()
    }
}

/// The built-in configuration, with the sandbox in place of Scalekit and the model.
pub(crate) fn config_of(sandbox: &Sandbox) -> Config {
    let mut config = Config::built_in();
    // What most tests are about is not whether somebody approves it.
    config.approval.writes = Writes::None;
    sandbox.scalekit_url().clone_into(&mut config.scalekit.environment_url);
    sandbox.client_id().clone_into(&mut config.scalekit.client_id);
    config.scalekit.client_secret = sandbox.client_secret().into();
    config.model.base_url = sandbox.model_url();
    config.model.api_key = sandbox.api_key().into();
    config
}

#[expect(clippy::disallowed_methods, reason = "a test plays a foreign client")]
pub(crate) fn plain_client() -> Client {
    Client::builder().timeout(Duration::from_secs(20)).redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
