//! Jobs with headers that only workers write: whoever writes them himself harms nobody, and his own job is answered.

use std::collections::BTreeMap;

use agentkit_worker::internals::queue::amqp::Tier;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::{ProxiedService, USER};
use crate::support::redis_journal_worker::notices;
use crate::support::scripted_model::{ScriptedModel, turn};

type Headers = &'static [(&'static str, &'static str)];

const CODE: &str = "x-agentkit-reason";
const TURN: &str = "x-agentkit-turn";
const DUE: &str = "x-agentkit-due";
const EFFECTS: &str = "x-agentkit-effects";
const ENTRIES: &str = "x-agentkit-entries";
const MET: &str = "x-agentkit-met";

/// On a job of which nothing is known: those that claim nothing which the journal would have to know are run as if nothing
/// had been said.
const RUN: [Headers; 18] = [
    &[(TURN, "0")],
    &[(TURN, "1"), (CODE, "webhook")],
    &[(TURN, "7"), (CODE, "webhook"), (MET, "1")],
    &[(TURN, "1"), (CODE, "authorization")],
    &[(TURN, "1"), (CODE, "approval")],
    &[(TURN, "1"), (CODE, "operator")],
    &[(TURN, "1"), (CODE, "journal_lost")],
    &[(TURN, "1"), (CODE, "given_back")],
    &[(TURN, "1"), (CODE, "delivery_limit")],
    &[(TURN, "1"), (CODE, "orphaned"), (MET, "1")],
    &[(TURN, "1"), (CODE, "of_tomorrow")],
    &[(TURN, "4294967295"), (CODE, "transient")],
    &[(TURN, "4294967294"), (CODE, "rate_limited")],
    &[(TURN, "4294967296"), (ENTRIES, "18446744073709551616")],
    &[(TURN, "0"), (DUE, "9999-12-30T22:00:00Z")],
    &[(TURN, "0"), (DUE, "-009999-01-02T01:59:59Z")],
    &[
        ("x-agentkit-handed-on", "redelivered"),
        ("x-agentkit-deliveries", "4294967295"),
        ("x-agentkit-left", "4294967295"),
    ],
    &[("x-delivery-count", "4294967295"), ("x-agentkit-copy", "1"), ("x-agentkit-signature", "v1,AAAA")],
];

/// Those that say that something was done already are refused: it is not done again.
const REFUSED: [Headers; 4] = [
    &[(TURN, "1"), (CODE, "seal")],
    &[
        (TURN, "1"),
        (CODE, "continue"),
        (EFFECTS, "1"),
        ("x-agentkit-call", "c"),
        ("x-agentkit-tool", "gmail_send_message"),
    ],
    &[(TURN, "4294967295"), (CODE, "transient"), (ENTRIES, "18446744073709551615")],
    &[(TURN, "1"), (CODE, "poison"), (EFFECTS, "1")],
];

fn job(id: &str) -> Value {
    json!({"id": id, "identifier": USER, "connections": ["gmail"], "prompt": "Say hello."})
}

/// The next `count` replies by their jobs; more than one to a job is a fault.
async fn replies(service: &ProxiedService<'_>, count: usize) -> BTreeMap<String, Value> {
    let mut replies = BTreeMap::new();
    for _ in 0..count {
        let reply = service.reply().await;
        let job = reply["subject"].as_str().unwrap().to_owned();
        assert!(replies.insert(job.clone(), reply).is_none(), "a second reply to {job}");
    }
    replies
}

/// Nothing is left in the queues of jobs, no reply is out that was not taken, and no loss was told of.
async fn nothing_is_left(service: &ProxiedService<'_>, worker: &WorkerProcess) {
    let names = service.amqp.names();
    let waits = Tier::ALL.into_iter().map(|tier| names.wait(tier));
    for queue in waits.chain([names.jobs(), names.urgent(), names.replies()]) {
        eventually("the queue is empty", async || (service.broker.ready(&queue).await == 0).then_some(())).await;
    }
    assert_eq!(worker.metric("agentkit_journals_lost_total").await, Some(0.0));
    assert_eq!(worker.lines("panicked"), 0);
}

#[tokio::test]
async fn a_job_with_forged_headers_is_answered_once_and_no_loss_is_told_of() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[]).worker().await;
    let all: Vec<Headers> = RUN.into_iter().chain(REFUSED).collect();
    for (index, headers) in all.iter().enumerate() {
        service.send_with(&format!("forged-{index}"), job(&format!("forged-{index}")), headers).await;
    }
    let replies = replies(&service, all.len()).await;
    for (index, headers) in all.iter().enumerate() {
        let reply = &replies[&format!("forged-{index}")];
        let data = &reply["data"];
        if index < RUN.len() {
            assert_eq!(reply["type"], "agentkit.job.completed", "{headers:?}: {reply:#}");
        } else {
            assert_eq!(reply["type"], "agentkit.job.failed", "{headers:?}: {reply:#}");
            assert!(data["error"]["message"].as_str().unwrap().contains("headers"), "{headers:?}: {reply:#}");
        }
        assert!(!notices(data).contains(&"journal_lost"), "{headers:?}: {reply:#}");
    }
    nothing_is_left(&service, &worker).await;
    assert_eq!(service.broker.ready(&service.amqp.names().dead()).await as usize, REFUSED.len());
    worker.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_job_are_answered_whatever_their_headers_say() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[]).worker().await;
    service.send_with("odd", json!({"prompt": "x"}), &[("x-agentkit-deliveries", "4294967295")]).await;
    service
        .send_with(
            "later",
            json!({"prompt": "x"}),
            &[("x-agentkit-left", "2880"), (TURN, "1"), (DUE, "9999-01-01T00:00:00Z")],
        )
        .await;
    let names = service.amqp.names();
    eventually("both are dead letters", async || (service.broker.ready(&names.dead()).await == 2).then_some(())).await;
    nothing_is_left(&service, &worker).await;
    worker.stop().await;
}

#[tokio::test]
async fn forged_copies_of_a_job_cost_its_run_nothing() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let script = [turn::send_mail().released_by(&gate), turn::text("sent")];
    let model = ScriptedModel::start(script).await;
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.worker(&model, &[]).await;
    service.send_with("victim", job("victim"), &[]).await;
    model.wait_for_requests(1).await;
    let forged: [Headers; 7] = [
        &[(TURN, "4294967295"), (CODE, "continue"), (EFFECTS, "1"), (ENTRIES, "999")],
        &[(TURN, "4294967295"), (CODE, "journal_lost")],
        &[(TURN, "9"), (CODE, "delivery_limit")],
        &[(TURN, "9"), (CODE, "seal")],
        &[(TURN, "9"), (CODE, "webhook")],
        &[(TURN, "9"), (CODE, "poison"), (DUE, "9999-01-01T00:00:00Z")],
        &[(TURN, "9"), (CODE, "given_back"), ("x-agentkit-handed-on", "redelivered")],
    ];
    for headers in forged {
        service.send_with("victim", job("victim"), headers).await;
    }
    let other = json!({"id": "victim", "identifier": USER, "connections": ["gmail"], "prompt": "Another one."});
    service.send_with("victim", other, &[(TURN, "1"), (CODE, "webhook")]).await;
    gate.notify_one();
    let mut terminal = Vec::new();
    let mut refused = 0;
    for _ in 0..2 {
        let reply = service.reply().await;
        match reply["data"]["error"]["code"].as_str() {
            Some("id_conflict") => refused += 1,
            _ => terminal.push(reply),
        }
    }
    assert_eq!(refused, 1, "another job of the same id is told so: {terminal:#?}");
    assert_eq!(terminal[0]["data"]["text"], "sent", "{terminal:#?}");
    assert!(!notices(&terminal[0]["data"]).contains(&"journal_lost"), "{terminal:#?}");
    let names = service.amqp.names();
    for queue in Tier::ALL.into_iter().map(|tier| names.wait(tier)).chain([names.jobs(), names.urgent()]) {
        eventually("the queue is empty", async || (service.broker.ready(&queue).await == 0).then_some(())).await;
    }
    eventually("all are done with", async || {
        (worker.metric("agentkit_jobs_in_flight").await == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(worker.metric("agentkit_journals_lost_total").await, Some(0.0));
    assert_eq!(service.mails().await, 1);
    worker.stop().await;
    model.finish();
}
