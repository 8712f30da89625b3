//! The pages for people, of the program itself on a real broker and a real Redis: who sees what, what can be done by them, and
//! how they look in a real browser.

mod access;
mod screens;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::ProxiedService;

/// A token that is good for everything.
const ALL: &str = "a token that is good for all";
/// One that sees runs, and nothing of their content.
const READER: &str = "a token that reads and no more";
/// One for other users.
const FOREIGNER: &str = "a token for the users of acme";
const KEY: &str = "b25lb25lb25lb25lb25lb25lb25lb25lb25lb25lb24=";
const PUBLIC: &str = "https://approvals.example.com";
/// What a user's name could be.
const HOSTILE: &str = "\"><script>alert(1)</script>";

const TOKENS: &str = r#"
[http.tokens.operator]
token = "a token that is good for all"
scopes = ["jobs:write", "jobs:read", "approvals", "content", "operate"]
identifiers = ["*"]
[http.tokens.reader]
token = "a token that reads and no more"
scopes = ["jobs:read"]
identifiers = ["*"]
[http.tokens.foreigner]
token = "a token for the users of acme"
scopes = ["jobs:read", "approvals", "content", "operate"]
identifiers = ["acme_*"]
"#;

const DIGEST: &str = r#"
cron = "0 8 1 1 *"
timezone = "Europe/Berlin"
prompt = "Fetch my last 5 unread emails and summarize them."
connections = ["gmail"]
[recipients]
list = [{ identifier = "user_123" }]
"#;

/// A worker with a run that has ended, one that waits for approval, a dead letter and a digest.
struct Pages<'a> {
    service: ProxiedService<'a>,
    worker: WorkerProcess,
    client: Client,
    /// Where somebody without a token decides about the call of `waits-1`.
    link: String,
}

impl Pages<'_> {
    async fn start() -> Self {
        let service = ProxiedService::new(Broker::shared().await).await;
        let settings = [
            ("APPROVAL__WRITES", "all"),
            ("APPROVAL__LINK_KEY", KEY),
            ("APPROVAL__PUBLIC_URL", PUBLIC),
            ("WORKER__LEASE_SECONDS", "30"),
        ];
        let program = service.program(&settings);
        program.write_settings(TOKENS);
        let digests = program.folder().join("config/digests");
        std::fs::create_dir_all(&digests).unwrap();
        std::fs::write(digests.join("new-year.toml"), DIGEST).unwrap();
        let worker = program.worker().await;
        #[expect(clippy::disallowed_methods, reason = "a test plays a browser")]
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut pages = Self { service, worker, client, link: String::new() };
        pages.fill().await;
        pages
    }

    async fn fill(&mut self) {
        let job = |id: &str, identifier: &str, prompt: &str| json!({"id": id, "identifier": identifier, "connections": ["gmail"], "prompt": prompt});
        self.service
            .send_job("done-1", job("done-1", "user_123", "Fetch my last 5 unread emails and summarize them."))
            .await;
        self.end_of("done-1").await;
        let mail = json!({"to": "sam@example.com", "subject": HOSTILE, "body": "a secret body"});
        let prompt = format!("call gmail_send_message with {mail}");
        for (id, identifier) in [("waits-1", HOSTILE), ("waits/2 ü?&#%", "user_123")] {
            self.service.send_job(id, job(id, identifier, &prompt)).await;
        }
        while self.link.is_empty() {
            let reply = self.service.reply().await;
            let of_first = reply["subject"] == "waits-1";
            if let Some(link) = reply["data"]["approvals"][0]["link"].as_str().filter(|_| of_first) {
                self.link = link.replace(PUBLIC, &self.worker.url);
            }
        }
        self.service.send_with("no job", json!("<b>no job</b>"), &[]).await;
        eventually("two runs wait, and there is a dead letter", || async {
            let waiting = self.worker.metric("agentkit_parked_jobs{reason=\"approval\"}").await;
            let dead = self.service.broker.ready(&self.service.amqp.names().dead()).await;
            (waiting == Some(2.0) && dead == 1).then_some(())
        })
        .await;
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.worker.url))
    }

    /// A form as a page of ours sends it.
    fn post(&self, path: &str, form: &[(&str, &str)]) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.worker.url)).form(form).header("origin", &self.worker.url)
    }

    /// The terminal reply of the job whose id begins so.
    async fn end_of(&self, id: &str) -> Value {
        loop {
            let reply = self.service.reply().await;
            let kind = reply["type"].as_str().unwrap();
            let is_end = ["agentkit.job.completed", "agentkit.job.failed"].contains(&kind);
            if is_end && reply["subject"].as_str().unwrap().starts_with(id) {
                return reply;
            }
        }
    }

    async fn state(&self, id: &str) -> String {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string();
        let page = self.get(&format!("/job?id={id}")).bearer_auth(ALL).send().await.unwrap().text().await.unwrap();
        part(&page, "<p class=\"state ", "</p>").to_owned()
    }
}

/// Status and body.
async fn read(request: RequestBuilder) -> (u16, String) {
    let answer: Response = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// What stands between two texts, for the first time.
fn part<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).unwrap_or_else(|| panic!("no {after} in {rest}")).0
}

/// The value of an answer's header.
fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}
