//! A worker with everything in memory: who is asked, and what a decision does to its run.

use agentkit_worker::internals::approval::{ApprovalConfig, Writes};
use agentkit_worker::reply::{ApprovalEntry, ReplyEvent};
use agentkit_worker::{Config, Replies};
use serde_json::{Value, json};

use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::scripted_model::{ScriptedModel, Turn, turn};
use crate::support::soon;

fn careful(config: &mut Config) {
    config.approval = ApprovalConfig { writes: Writes::Untrusted, ..ApprovalConfig::default() };
}

/// A job of a worker whose model reads, then sends a mail to Sam, and then says what is left of its script.
struct Waiting {
    model: ScriptedModel,
    worker: EmbeddedWorker,
    replies: Replies,
    calls: Vec<ApprovalEntry>,
}

impl Waiting {
    async fn start(job: Value, rest: impl IntoIterator<Item = Turn>) -> Self {
        Self::of([turn::fetch_mails(), turn::send_mail()].into_iter().chain(rest), job).await
    }

    /// Until a person was asked.
    async fn of(turns: impl IntoIterator<Item = Turn>, job: Value) -> Self {
        let model = ScriptedModel::start(turns).await;
        let worker = EmbeddedWorker::with(Some(&model), careful).await;
        let mut replies = worker.embedded().submit(&serde_json::from_value(job).unwrap()).await.unwrap();
        let asked = soon("the question", replies.next()).await.unwrap();
        let ReplyEvent::ApprovalRequired(required) = asked.event else { panic!("{asked:?}") };
        Self { model, worker, replies, calls: required.approvals }
    }

    fn decision(&self, call: usize, change: impl FnOnce(&mut Value)) -> Value {
        let entry = &self.calls[call];
        let mut decision = json!({
            "job": "j", "approval": entry.id, "arguments_digest": entry.arguments_digest,
            "decision": "approve", "by": "ann"
        });
        change(&mut decision);
        decision
    }

    async fn decide(&self, call: usize, change: impl FnOnce(&mut Value)) {
        self.worker.embedded().decide(&self.decision(call, change), None).await.unwrap();
    }

    /// What is said to a decision that changes nothing.
    async fn refused(&self, decision: &Value) -> String {
        let mut answers = self.worker.embedded().replies_to("decider");
        self.worker.embedded().decide(decision, Some("decider")).await.unwrap();
        let answer = soon("an answer", answers.next()).await.unwrap();
        let ReplyEvent::DecisionRefused(refused) = answer.event else { panic!("{answer:?}") };
        assert!(refused.reason.len() > 5);
        refused.code
    }

    /// The terminal reply's data.
    async fn end(&mut self) -> Value {
        let reply = soon("the end", self.replies.terminal()).await.unwrap();
        serde_json::to_value(&reply).unwrap()["data"].clone()
    }

    /// To whom mails were sent.
    async fn sent(&self) -> Vec<String> {
        let world = self.worker.peer.world().await;
        let effects = world["effects"].as_array().unwrap().iter();
        effects.map(|effect| effect["params"]["to"].as_str().unwrap().to_owned()).collect()
    }
}

fn named(prompt: &str) -> Value {
    with(job(prompt), "id", json!("j"))
}

#[tokio::test]
async fn a_write_after_a_read_waits_for_a_person_and_is_made_once_it_is_approved() {
    let mut waiting = Waiting::start(named("answer my mails"), [turn::text("sent")]).await;
    let entry = serde_json::to_value(&waiting.calls[0]).unwrap();
    assert_eq!(waiting.calls.len(), 1);
    let told = ["call_id", "tool", "connection", "effect", "editable", "read_before"].map(|field| &entry[field]);
    let expected = [
        &json!("call_1_0"),
        &json!("gmail_send_message"),
        &json!("gmail"),
        &json!("write"),
        &json!(true),
        &json!(["gmail_fetch_mails"]),
    ];
    assert_eq!(told, expected);
    assert_eq!(entry["arguments"], json!({"to": "sam@example.com", "subject": "Hi", "body": "hello"}));
    assert!(entry["id"].as_str().unwrap().starts_with("ap_"));
    assert!(entry["arguments_digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(entry["arguments_schema"]["type"], "object");
    assert!(entry["summary"].as_str().unwrap().contains("to: sam@example.com"));
    assert!(entry.get("link").is_none(), "no address is configured");
    assert_eq!(waiting.sent().await, [""; 0]);
    waiting.decide(0, |_| {}).await;
    let end = waiting.end().await;
    assert_eq!((&end["effects"][0]["state"], waiting.sent().await.len()), (&json!("done"), 1));
    let approval = &end["approvals"][0];
    let told = ["tool", "connection", "decision", "by", "door"].map(|field| approval[field].as_str().unwrap());
    assert_eq!(told, ["gmail_send_message", "gmail", "approve", "ann", "amqp"]);
    assert!(approval["at"].is_string() && approval["waited_seconds"].is_u64());
    let counted = "agentkit_approvals_total{decision=\"approve\",door=\"amqp\"} 1";
    assert!(waiting.worker.metrics().contains(counted));
    waiting.model.finish();
}

#[tokio::test]
async fn a_denied_write_is_not_made_and_the_model_and_the_caller_are_told() {
    let again = turn::send_mail();
    let mut waiting = Waiting::start(named("answer my mails"), [again, turn::text("not allowed")]).await;
    waiting
        .decide(0, |decision| (decision["decision"], decision["reason"]) = ("deny".into(), "not to Sam".into()))
        .await;
    let end = waiting.end().await;
    assert_eq!(end["text"], "not allowed");
    assert_eq!(end["effects"].as_array().unwrap().len(), 1);
    assert_eq!((&end["effects"][0]["state"], &end["approvals"][0]["decision"]), (&json!("denied"), &json!("deny")));
    assert_eq!(waiting.sent().await, [""; 0]);
    let requests = waiting.model.finish();
    let answers = requests.last().unwrap().tool_results();
    assert!(answers[1].contains("denied by a person") && answers[1].contains("not to Sam"), "{answers:?}");
    assert!(answers[2].contains("not allowed before"), "its repeat is fenced: {answers:?}");
}

#[tokio::test]
async fn an_edited_write_is_made_with_what_was_edited_and_the_model_is_told() {
    let mut waiting = Waiting::start(named("answer my mails"), [turn::text("sent")]).await;
    let edit = |arguments: Value| {
        move |decision: &mut Value| (decision["decision"], decision["arguments"]) = ("edit".into(), arguments)
    };
    let wrong = waiting.decision(0, edit(json!({"subject": "Hi"})));
    assert_eq!(waiting.refused(&wrong).await, "invalid_arguments");
    waiting.decide(0, edit(json!({"to": "tom@example.com", "subject": "Hi", "body": "bye"}))).await;
    let end = waiting.end().await;
    assert_eq!(waiting.sent().await, ["tom@example.com"]);
    assert_eq!(end["approvals"][0]["decision"], "edit");
    let requests = waiting.model.finish();
    let answer = requests.last().unwrap().tool_results().pop().unwrap();
    assert!(answer.contains("A person changed this call") && answer.contains("tom@example.com"), "{answer}");
}

#[tokio::test]
async fn what_may_not_be_edited_is_not() {
    let job = with(named("answer my mails"), "approval", json!({"edit": false}));
    let mut waiting = Waiting::start(job, [turn::text("sent")]).await;
    assert!(!waiting.calls[0].editable);
    let edit = waiting.decision(0, |decision| {
        (decision["decision"], decision["arguments"]) = ("edit".into(), json!({"to": "tom@example.com"}));
    });
    assert_eq!(waiting.refused(&edit).await, "not_editable");
    waiting.decide(0, |_| {}).await;
    waiting.end().await;
    assert_eq!(waiting.sent().await, ["sam@example.com"]);
    waiting.model.finish();
}

#[tokio::test]
async fn decisions_that_are_foreign_stale_or_unreadable_change_nothing_and_are_answered() {
    let mut waiting = Waiting::start(named("answer my mails"), [turn::text("sent")]).await;
    let table: [(&str, Value, &str); 8] = [
        ("job", json!("another"), "unknown"),
        ("approval", json!("ap_x.y"), "unknown"),
        ("arguments_digest", json!("sha256:00"), "other_arguments"),
        ("decision", json!("perhaps"), "unreadable"),
        ("decision", json!("edit"), "unreadable"),
        ("job", json!("\u{0}schedule"), "unreadable"),
        ("typo", json!(1), "unreadable"),
        ("approval", Value::Null, "unreadable"),
    ];
    for (field, value, code) in table {
        let decision = waiting.decision(0, |decision| decision[field] = value);
        assert_eq!(waiting.refused(&decision).await, code, "{decision}");
    }
    assert_eq!(waiting.sent().await, [""; 0]);
    waiting.decide(0, |_| {}).await;
    waiting.end().await;
    assert_eq!(waiting.sent().await.len(), 1);
    let deny = |decision: &mut Value| decision["decision"] = "deny".into();
    assert_eq!(waiting.refused(&waiting.decision(0, deny)).await, "already_decided");
    assert_eq!(waiting.refused(&waiting.decision(0, |_| {})).await, "already");
    assert_eq!(waiting.sent().await.len(), 1);
    waiting.model.finish();
}

#[tokio::test]
async fn all_calls_of_a_turn_are_asked_about_in_one_event_and_each_has_its_decision() {
    let mail = |to: &str| ("gmail_send_message", json!({"to": to, "subject": "Hi", "body": "hello"}));
    let turns = [
        turn::fetch_mails(),
        turn::calls([mail("a@example.com"), mail("b@example.com"), mail("c@example.com")]),
        turn::text("done"),
    ];
    let mut waiting = Waiting::of(turns, named("answer my mails to b@example.com")).await;
    let asked: Vec<_> = waiting.calls.iter().map(|call| call.arguments["to"].as_str().unwrap()).collect();
    assert_eq!(asked, ["a@example.com", "c@example.com"], "who stands in the prompt needs no approval");
    waiting.decide(1, |_| {}).await;
    waiting.decide(0, |decision| decision["decision"] = "deny".into()).await;
    let end = waiting.end().await;
    assert_eq!(waiting.sent().await, ["b@example.com", "c@example.com"]);
    let states: Vec<_> = end["effects"].as_array().unwrap().iter().map(|effect| effect["state"].clone()).collect();
    assert_eq!(states, ["denied", "done", "done"]);
    waiting.model.finish();
}

#[tokio::test]
async fn what_nobody_decides_in_time_is_denied_or_fails_the_run_as_the_job_says() {
    for (on_expiry, rest) in [("deny", vec![turn::text("nobody answered")]), ("fail", Vec::new())] {
        let job = with(named("answer my mails"), "approval", json!({"wait_seconds": 1, "on_expiry": on_expiry}));
        let mut waiting = Waiting::start(job, rest).await;
        let end = waiting.end().await;
        let approval = &end["approvals"][0];
        assert_eq!((&approval["decision"], &approval["door"]), (&json!("expired"), &json!("expiry")));
        assert_eq!(end["effects"][0]["state"], "denied");
        if on_expiry == "fail" {
            assert_eq!(end["error"]["code"], "approval_expired");
        } else {
            assert_eq!(end["text"], "nobody answered");
        }
        assert_eq!(waiting.sent().await, [""; 0]);
        assert_eq!(waiting.refused(&waiting.decision(0, |_| {})).await, "expired");
        waiting.model.finish();
    }
}

#[tokio::test]
async fn of_many_decisions_at_once_one_stands() {
    let mut waiting = Waiting::start(named("answer my mails"), [turn::text("done")]).await;
    let decisions: Vec<Value> = (0..20)
        .map(|number| {
            waiting.decision(0, |decision| {
                decision["by"] = json!(format!("person {number}"));
                decision["decision"] = json!(if number % 2 == 0 { "approve" } else { "deny" });
            })
        })
        .collect();
    let sent = decisions.iter().map(|decision| waiting.worker.embedded().decide(decision, None));
    futures_util::future::try_join_all(sent).await.unwrap();
    let end = waiting.end().await;
    assert_eq!(end["approvals"].as_array().unwrap().len(), 1, "{end:#}");
    let approved = end["approvals"][0]["decision"] == "approve";
    assert_eq!(waiting.sent().await.len(), usize::from(approved));
    waiting.model.finish();
}

#[tokio::test]
async fn the_account_is_looked_at_again_before_an_approved_call_is_made() {
    let mut waiting = Waiting::start(named("answer my mails"), []).await;
    waiting.worker.peer.set_account("gmail", "user_123", "DISCONNECTED").await;
    waiting.decide(0, |_| {}).await;
    let end = waiting.end().await;
    assert_eq!(end["error"]["code"], "account_disconnected", "{end:#}");
    assert_eq!(waiting.sent().await, [""; 0]);
    waiting.model.finish();
}

#[tokio::test]
async fn a_job_may_ask_for_more_than_its_operator_and_never_for_less() {
    let mail = json!({"to": "a@example.com", "subject": "Hi", "body": "hello"});
    let prompt = format!("call gmail_send_message with {mail}");
    let table = [
        (Writes::None, json!({}), false),
        (Writes::None, json!({"writes": "all"}), true),
        (Writes::None, json!({"tools": ["gmail_send_*"]}), true),
        (Writes::All, json!({"writes": "none"}), true),
        (Writes::Untrusted, json!({}), false),
    ];
    for (operator, wanted, waits) in table {
        let worker = EmbeddedWorker::with(None, |config| config.approval.writes = operator).await;
        let mut wanted = with(job(&prompt), "approval", wanted);
        wanted["approval"]["wait_seconds"] = json!(0);
        let replies = worker.replies(&wanted).await;
        let asked = replies.iter().any(|reply| reply["type"] == "agentkit.job.approval_required");
        assert_eq!(asked, waits, "{operator:?} {wanted}");
        assert_eq!(worker.peer.effects().await, usize::from(!waits), "{operator:?} {wanted}");
    }
}
