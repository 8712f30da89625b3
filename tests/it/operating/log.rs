//! What a worker's log says of users and of what is theirs: nothing above `debug`, unless it is told to.

use std::sync::Arc;

use agentkit_worker::internals::queue::amqp::{AmqpPublisher, AmqpQueue, ReplyInbox};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::scripted_model::{ScriptedModel, Turn, turn};
use crate::support::soon;

/// A worker's surroundings, with a model that follows a script.
struct Scene {
    peer: SandboxPeer,
    program: Program,
    model: ScriptedModel,
    publisher: Arc<AmqpPublisher>,
    inbox: ReplyInbox,
    _redis: Redis,
}

impl Scene {
    async fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
        let (amqp, redis) = (Broker::shared().await.config(), Redis::start().await);
        let peer = SandboxPeer::with_active_accounts_in_real_time().await;
        let model = ScriptedModel::start(turns).await;
        let program = Program::of_service(&peer.sandbox, &amqp, &redis.url()).set("OPENAI_BASE_URL", &model.base_url());
        let publisher = AmqpQueue::connect(amqp.clone()).await.unwrap().publisher();
        let inbox = ReplyInbox::open(&amqp).await.unwrap();
        Self { peer, program, model, publisher, inbox, _redis: redis }
    }

    /// Sends a job, and gives its reply and the code of its error.
    async fn ask(&mut self, identifier: &str, prompt: &str) -> (Value, String) {
        let job = json!({
            "identifier": identifier, "connections": ["gmail"], "prompt": prompt, "authorization": {"wait_seconds": 0}
        });
        let properties = Properties { reply_to: Some(self.inbox.name().to_owned()), ..Properties::default() };
        let message = Message { body: job.to_string().into(), properties };
        self.publisher.publish(&Destination::Jobs, message).await.unwrap();
        let reply: Value = serde_json::from_slice(&soon("a reply", self.inbox.next()).await.unwrap().body).unwrap();
        let code = reply["data"]["error"]["code"].as_str().unwrap_or_default().to_owned();
        (reply, code)
    }
}

fn lines_of<'a>(log: &'a [String], text: &str) -> Vec<&'a String> {
    log.iter().filter(|line| line.contains(text)).collect()
}

#[tokio::test]
async fn neither_users_nor_what_they_say_nor_what_others_answer_them_is_in_the_log() {
    let said = |status: u16, words: &str| turn::status(status).body(json!({"error": {"message": words}}).to_string());
    let mut scene = Scene::new([
        said(500, "newt-words"),
        turn::status(200).body("<html>gecko-page"),
        turn::fetch_mails(),
        turn::text("heron-answer"),
        turn::refusal("ibis-refusal"),
        said(400, "lemur-words"),
    ])
    .await;
    let worker = scene.program.worker().await;
    let fault =
        |on: &str, status: u16, words: &str| json!({"on": on, "kind": "status", "status": status, "message": words});
    scene.peer.fault(fault("execute", 503, "platypus-words")).await;
    scene.peer.fault(fault("scoped", 503, "dingo-words")).await;
    let (reply, _) = scene.ask("okapi-user", "a walrus-prompt").await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    let (reply, code) = scene.ask("okapi-user", "a second walrus-prompt").await;
    assert_eq!(code, "refused", "{reply:#}");
    let (reply, code) = scene.ask("okapi-user", "a third walrus-prompt").await;
    assert_eq!(code, "model_rejected", "{reply:#}");
    scene.peer.set_account("gmail", "tapir-user", "EXPIRED").await;
    let (reply, _) = scene.ask("tapir-user", "a fourth walrus-prompt").await;
    assert_eq!(reply["type"], "agentkit.job.authorization_required", "{reply:#}");

    let (_, log) = worker.stop().await;
    for passed in ["a call to Scalekit is repeated", "the tool call is repeated", "authorization required", "job ended"]
    {
        assert!(!lines_of(&log, passed).is_empty(), "{passed} is missing in {log:#?}");
    }
    assert_eq!(lines_of(&log, "the model call is repeated").len(), 2, "{log:#?}");
    let words = ["newt", "gecko", "heron", "ibis", "lemur", "platypus", "dingo", "okapi", "walrus", "tapir"];
    for word in words {
        assert_eq!(lines_of(&log, word), Vec::<&String>::new(), "{word} is in the log");
    }
    scene.model.finish();
}

#[tokio::test]
async fn users_have_pseudonyms_or_their_names_in_the_log_where_that_is_asked_for() {
    let mut scene = Scene::new((0..6).map(|_| turn::text("done"))).await;
    let mut users = Vec::new();
    for (variable, value) in
        [("IDENTIFIERS", "pseudonym"), ("IDENTIFIERS", "plain"), ("FILTER", "agentkit_worker=debug")]
    {
        let settings = [
            (format!("AGENTKIT_WORKER__LOG__{variable}"), value.to_owned()),
            ("AGENTKIT_WORKER__LOG__PSEUDONYM_KEY".to_owned(), "hunter2".to_owned()),
        ];
        let settings: Vec<(&str, String)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let worker = scene.program.start_with(&["worker"], &settings);
        for (user, prompt) in [("user_123", "one"), ("okapi-user", "two")] {
            let (reply, _) = scene.ask(user, &format!("{prompt} with {value}")).await;
            assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
        }
        worker.signal("TERM");
        let (_, log) = worker.end().await;
        let received: Vec<Value> =
            lines_of(&log, "job received").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(received.len(), 2, "{log:#?}");
        users.push(received.iter().map(|line| line["span"]["job.identifier"].clone()).collect::<Vec<_>>());
        let named = !lines_of(&log, "okapi-user").is_empty();
        assert_eq!(named, value != "pseudonym", "{value}: {log:#?}");
        assert!(lines_of(&log, "hunter2").is_empty(), "{log:#?}");
    }
    // printf %s user_123 | openssl dgst -sha256 -hmac hunter2
    assert_eq!(users[0][0], "user_0a95b8ce336ca85b");
    assert_ne!(users[0][1], users[0][0]);
    assert_eq!(users[1], ["user_123", "okapi-user"]);
    assert_eq!(users[2], [Value::Null, Value::Null], "in lines at debug only");
    scene.model.finish();
}
