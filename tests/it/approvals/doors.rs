//! The doors by which people decide, on a real broker and a real Redis: messages, tokens, links, commands.

use agentkit_worker::internals::approval::Writes;
use agentkit_worker::internals::clock::SystemClock;
use agentkit_worker::internals::http_server::{Scope, TokenConfig};
use agentkit_worker::internals::queue::amqp::ReplyInbox;
use agentkit_worker::reply::{ApprovalEntry, Reply, ReplyEvent};
use agentkit_worker::{Client, Config};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::sandbox_peer::plain_client;
use crate::support::webhooked_service::{JobReplies, WebhookedService, WebhookedWorker};
use crate::support::{eventually, soon, unique};

const KEY: &str = "b25lb25lb25lb25lb25lb25lb25lb25lb25lb25lb24=";
const OTHER_KEY: &str = "dHdvdHdvdHdvdHdvdHdvdHdvdHdvdHdvdHdvdHdvdHc=";
const PUBLIC: &str = "https://approvals.example.com";
const TOKEN: &str = "a token of sixteen or more";

/// A service with one worker, and a job of it that waits for a person.
struct Waiting {
    service: WebhookedService,
    worker: WebhookedWorker,
    config: Config,
    job: String,
    replies: JobReplies,
    call: ApprovalEntry,
}

impl Waiting {
    async fn start(wait_seconds: u64) -> Self {
        let service = WebhookedService::start(|options| options.initial_status = Some("ACTIVE".into())).await;
        let config = configured(service.both());
        let worker = Box::pin(service.worker(config.clone())).await;
        let (job, mut replies) = ask(&service, wait_seconds).await;
        let call = asked(&mut replies).await;
        service.parked(&job).await;
        Self { service, worker, config, job, replies, call }
    }

    fn decision(&self, decision: &str) -> Value {
        let ApprovalEntry { id, arguments_digest, .. } = &self.call;
        json!({
            "job": self.job, "approval": id, "arguments_digest": arguments_digest, "decision": decision, "by": "ann"
        })
    }

    /// `POST /v1/approvals/{id}`.
    async fn post(&self, token: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/v1/approvals/{}", self.worker.address, self.call.id);
        let sent = plain_client().post(url).bearer_auth(token).body(body.to_string()).send().await.unwrap();
        (sent.status().as_u16(), sent.json().await.unwrap())
    }

    /// What is posted: neither job nor approval.
    fn body(&self, decision: &str) -> Value {
        json!({"arguments_digest": self.call.arguments_digest, "decision": decision})
    }

    /// A request to the link's page, or to one that is like it.
    async fn page(&self, method: Method, link: &str, form: &'static str) -> Response {
        let url = link.replace(PUBLIC, &format!("http://{}", self.worker.address));
        let request = plain_client().request(method, url);
        request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await.unwrap()
    }

    fn link(&self) -> String {
        self.call.link.clone().unwrap()
    }

    async fn end(self) -> Value {
        let end = serde_json::to_value(self.replies.rest().await.pop().unwrap()).unwrap()["data"].clone();
        let sent = sent(&self.service).await;
        assert_eq!(sent, usize::from(end["effects"][0]["state"] == "done"), "{end:#}");
        self.worker.stop().await;
        end
    }
}

fn configured(mut config: Config) -> Config {
    config.approval.writes = Writes::All;
    config.approval.link_key = KEY.into();
    config.approval.public_url = PUBLIC.into();
    let token = |token: &str, scopes: Vec<Scope>, identifiers: &str| TokenConfig {
        token: token.into(),
        token_file: None,
        scopes,
        identifiers: vec![identifiers.to_owned()],
    };
    config.http.tokens = [
        ("operator".to_owned(), token(TOKEN, vec![Scope::Approvals], "*")),
        ("reader".to_owned(), token("a token without the scope", vec![Scope::JobsRead], "*")),
        ("producer".to_owned(), token("a token of a producer", vec![Scope::Approvals], "*")),
        ("foreigner".to_owned(), token("a token for other users", vec![Scope::Approvals], "acme_*")),
    ]
    .into();
    config
}

async fn ask(service: &WebhookedService, wait_seconds: u64) -> (String, JobReplies) {
    let id = unique("job");
    let mail = json!({"to": "sam@example.com", "subject": "a secret subject", "body": "a secret body"});
    let replies = service.ask(json!({
        "id": id, "identifier": "user_123", "connections": ["gmail"],
        "prompt": format!("call gmail_send_message with {mail}"), "approval": {"wait_seconds": wait_seconds}
    }));
    (id, replies.await)
}

async fn asked(replies: &mut JobReplies) -> ApprovalEntry {
    let reply = replies.next().await;
    let ReplyEvent::ApprovalRequired(required) = reply.event else { panic!("{reply:?}") };
    required.approvals[0].clone()
}

async fn sent(service: &WebhookedService) -> usize {
    service.control("world/user_123").await["effects"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_message_decides_and_one_that_cannot_be_read_is_answered() {
    let waiting = Waiting::start(3600).await;
    let client = Client::connect(waiting.config.amqp.clone(), std::sync::Arc::new(SystemClock)).await.unwrap();
    let mut inbox = ReplyInbox::open(&waiting.config.amqp).await.unwrap();
    let name = inbox.name().to_owned();
    for (decision, code) in [
        (json!("approve"), "unreadable"),
        (json!({"job": waiting.job, "decision": "approve"}), "unreadable"),
        (json!({"job": "nobody's", "approval": "ap_x", "arguments_digest": "x", "decision": "deny"}), "unknown"),
    ] {
        client.decide(&decision, Some(&name)).await.unwrap();
        let answer = soon("an answer", inbox.next()).await.unwrap();
        assert_eq!(answer.properties.kind.as_deref(), Some("agentkit.decision.refused"));
        let answer: Reply = serde_json::from_slice(&answer.body).unwrap();
        let ReplyEvent::DecisionRefused(refused) = answer.event else { panic!("{answer:?}") };
        assert_eq!(refused.code, code);
    }
    client.decide(&waiting.decision("approve"), None).await.unwrap();
    let end = waiting.end().await;
    assert_eq!((&end["approvals"][0]["door"], &end["approvals"][0]["by"]), (&json!("amqp"), &json!("ann")));
}

#[tokio::test]
async fn whoever_only_looks_at_a_link_decides_nothing_and_its_button_decides_once() {
    let waiting = Waiting::start(3600).await;
    let (link, before) = (waiting.link(), waiting.service.journal(&waiting.job).await);
    for method in [Method::GET, Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
        let page = waiting.page(method.clone(), &link, "").await;
        assert_eq!(page.status(), 200);
        let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
        assert_eq!((header("referrer-policy"), header("cache-control")), ("no-referrer".into(), "no-store".into()));
        let text = page.text().await.unwrap();
        assert!(method == Method::HEAD || text.contains("a secret body") && text.contains("Deny"), "{text}");
        assert!(!text.contains("<script"));
    }
    assert_eq!(waiting.service.journal(&waiting.job).await, before);
    let token = link.split("t=").nth(1).unwrap();
    let reversed: String = token.chars().rev().collect();
    for forged in [link.replace(token, ""), link.replace(token, &reversed), link.replace("ap_", "ap_x")] {
        for method in [Method::GET, Method::POST] {
            assert_eq!(waiting.page(method, &forged, "decision=approve").await.status(), 403, "{forged}");
        }
    }
    assert_eq!(waiting.page(Method::POST, &link, "decision=perhaps").await.status(), 400);
    assert_eq!(waiting.service.journal(&waiting.job).await, before);
    assert_eq!(waiting.page(Method::POST, &link, "decision=deny").await.status(), 200);
    assert_eq!(waiting.page(Method::POST, &link, "decision=deny").await.status(), 200, "the same again");
    assert_eq!(waiting.page(Method::POST, &link, "decision=approve").await.status(), 409);
    let shown = waiting.page(Method::GET, &link, "").await.text().await.unwrap();
    assert!(shown.contains("does not wait any more: deny"), "{shown}");
    let end = waiting.end().await;
    assert_eq!((&end["approvals"][0]["door"], &end["effects"][0]["state"]), (&json!("link"), &json!("denied")));
}

#[tokio::test]
async fn a_link_of_the_key_that_is_being_replaced_is_good_and_one_of_a_key_that_is_gone_is_not() {
    let mut waiting = Waiting::start(3600).await;
    let link = waiting.link();
    for (keys, status) in [(OTHER_KEY.to_owned(), 403), (format!("{OTHER_KEY},{KEY}"), 200)] {
        let mut config = waiting.config.clone();
        config.approval.link_key = keys.into();
        let next = waiting.service.worker(config).await;
        std::mem::replace(&mut waiting.worker, next).stop().await;
        assert_eq!(waiting.page(Method::GET, &link, "").await.status(), status);
    }
    assert_eq!(waiting.page(Method::POST, &link, "decision=approve").await.status(), 200);
    assert_eq!(waiting.end().await["approvals"][0]["decision"], "approve");
}

#[tokio::test]
async fn a_token_decides_for_the_users_and_the_things_that_it_is_good_for() {
    let mut waiting = Waiting::start(3600).await;
    let approve = waiting.body("approve");
    // A producer's is good for its own jobs alone, and this is none.
    let mut config = waiting.config.clone();
    let producers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&producers, "[producers.billing]\ntokens = [\"producer\"]\n").unwrap();
    config.producers.file = Some(producers.path().to_owned());
    assert!(config.producers.read(None).unwrap());
    let next = waiting.service.worker(config).await;
    std::mem::replace(&mut waiting.worker, next).stop().await;
    for (token, status) in [
        ("nobody's token at all", 401),
        ("a token without the scope", 403),
        ("a token for other users", 404),
        ("a token of a producer", 404),
    ] {
        assert_eq!(waiting.post(token, &approve).await.0, status, "{token}");
    }
    let other = json!({"arguments_digest": "sha256:00", "decision": "approve"});
    let wrong = json!({"arguments_digest": waiting.call.arguments_digest, "decision": "edit", "arguments": {"to": 7}});
    for (body, status, code) in [
        (other, 409, "other_arguments"),
        (wrong, 422, "invalid_arguments"),
        (waiting.decision("approve"), 400, "unreadable"),
    ] {
        let (found, answer) = waiting.post(TOKEN, &body).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)));
    }
    let (status, answer) = waiting.post(TOKEN, &approve).await;
    assert_eq!((status, &answer["already"]), (200, &Value::Null), "{answer}");
    let (status, answer) = waiting.post(TOKEN, &approve).await;
    assert_eq!((status, &answer["already"]), (200, &json!(true)));
    let (status, answer) = waiting.post(TOKEN, &waiting.body("deny")).await;
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("already_decided")));
    let end = waiting.end().await;
    assert_eq!((&end["approvals"][0]["door"], &end["approvals"][0]["by"]), (&json!("http"), &json!("operator")));
}

#[tokio::test]
async fn what_comes_after_its_time_is_gone() {
    let waiting = Waiting::start(1).await;
    eventually("the end of the wait", async || {
        let journal = waiting.service.journal(&waiting.job).await;
        journal.iter().any(|line| line.contains("approval_decided")).then_some(())
    })
    .await;
    assert_eq!(waiting.post(TOKEN, &waiting.body("approve")).await.0, 410);
    assert_eq!(waiting.page(Method::POST, &waiting.link(), "decision=approve").await.status(), 410);
    assert_eq!(waiting.end().await["approvals"][0]["decision"], "expired");
}

#[tokio::test]
async fn of_decisions_by_several_doors_at_once_one_stands() {
    let waiting = Waiting::start(3600).await;
    let client = Client::connect(waiting.config.amqp.clone(), std::sync::Arc::new(SystemClock)).await.unwrap();
    let (approve, deny, link) = (waiting.decision("approve"), waiting.body("deny"), waiting.link());
    let (_, by_token, by_link) = tokio::join!(
        client.decide(&approve, None),
        waiting.post(TOKEN, &deny),
        waiting.page(Method::POST, &link, "decision=approve"),
    );
    let end_of = waiting.end().await;
    let stands = end_of["approvals"].as_array().unwrap();
    assert_eq!(stands.len(), 1, "{end_of:#}");
    let denied = stands[0]["decision"] == "deny";
    assert_eq!(by_token.0, if denied { 200 } else { 409 });
    assert_eq!(by_link.status(), if denied { 409 } else { 200 });
}

#[tokio::test]
async fn commands_decide_also_while_no_worker_is_there_and_no_log_line_holds_what_was_asked() {
    let service = WebhookedService::start(|options| options.initial_status = Some("ACTIVE".into())).await;
    let amqp = Broker::shared().await.config();
    let program = Program::of_service(&service.sandbox, &amqp, &service.redis.url())
        .set("AGENTKIT_WORKER__APPROVAL__WRITES", "all")
        .set("AGENTKIT_WORKER__APPROVAL__LINK_KEY", KEY)
        .set("AGENTKIT_WORKER__APPROVAL__PUBLIC_URL", PUBLIC)
        .set("RUST_LOG", "agentkit_worker=debug");
    let client = Client::connect(amqp.clone(), std::sync::Arc::new(SystemClock)).await.unwrap();
    let mut inbox = ReplyInbox::open(&amqp).await.unwrap();
    for (command, state) in [("approve", "done"), ("deny", "denied")] {
        let worker = program.worker().await;
        let id = unique("job");
        let mail = json!({"to": "sam@example.com", "subject": "a secret subject", "body": "a secret body"});
        let job = json!({
            "id": id, "identifier": "user_123", "connections": ["gmail"], "reply_to": inbox.name(),
            "prompt": format!("call gmail_send_message with {mail}")
        });
        client.enqueue(&serde_json::from_value(job).unwrap()).await.unwrap();
        let asked: Value = serde_json::from_slice(&soon("the question", inbox.next()).await.unwrap().body).unwrap();
        let call = &asked["data"]["approvals"][0];
        eventually("the run is parked", async || {
            let shown = program.run(&["jobs", "show", &id]).await;
            shown.stdout.contains("waiting for a person's approval").then_some(())
        })
        .await;
        let metrics = worker.page("/metrics", 200).await;
        let log = worker.stop().await.1.concat();
        let token = call["link"].as_str().unwrap().split("t=").nth(1).unwrap().to_owned();
        for secret in ["a secret subject", "a secret body", "sam@example.com", &token, "approvals.example.com"] {
            assert!(!log.contains(secret), "the log holds {secret}");
            assert!(!metrics.contains(secret), "the metrics hold {secret}");
        }
        let wrong = program.run(&["jobs", command, &id, "--call", "another"]).await;
        assert_eq!(wrong.code, Some(1), "{}", wrong.all());
        let arguments = ["jobs", command, &id, "--call", call["call_id"].as_str().unwrap(), "--reason", "so"];
        let decided = program.run(&arguments).await;
        assert_eq!(decided.code, Some(0), "{}", decided.all());
        assert!(decided.stdout.contains("gmail_send_message"), "{}", decided.all());
        let again = program.run(&["jobs", command, &id]).await;
        assert_eq!(again.code, Some(1), "nothing waits any more: {}", again.all());
        let worker = program.worker().await;
        let end: Value = serde_json::from_slice(&soon("the end", inbox.next()).await.unwrap().body).unwrap();
        assert_eq!(
            (&end["data"]["effects"][0]["state"], &end["data"]["approvals"][0]["door"]),
            (&json!(state), &json!("cli"))
        );
        worker.stop().await;
    }
    let nobody = program.run(&["jobs", "approve", "nobody's"]).await;
    assert_eq!(nobody.code, Some(1), "{}", nobody.all());
}
