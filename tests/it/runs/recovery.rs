//! What becomes of a run whose journal is lost, past its time, newer than the worker, or no journal at all.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{Append, Claim, ClaimMode, Journal};
use agentkit_worker::internals::worker::AfterLoss;
use agentkit_worker::job::JobId;
use serde_json::json;
use tokio::sync::Notify;

use crate::support::eventually;
use crate::support::redis_journal_worker::{RedisJournalWorker, notices};
use crate::support::scripted_model::{ScriptedModel, turn};

async fn start(model: &ScriptedModel, after_loss: AfterLoss) -> RedisJournalWorker {
    RedisJournalWorker::start(model, |config| config.worker.after_journal_loss = after_loss).await
}

#[tokio::test]
async fn a_run_that_only_read_starts_again_when_its_journal_is_lost_and_says_so() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([
        turn::calls([("gmail_fetch_mails", json!({}))]),
        turn::text("never heard").released_by(&gate),
        turn::text("started again"),
    ])
    .await;
    let mut worker = start(&model, AfterLoss::Restart).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.redis_command(&["FLUSHALL"]);
    gate.notify_one();
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    assert!(worker.metrics.render().contains("agentkit_journals_lost_total 1"));
    model.finish();
}

#[tokio::test]
async fn a_run_that_is_known_to_have_written_fails_when_its_journal_is_lost() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::send_mail(), turn::text("never heard").released_by(&gate)]).await;
    let mut worker = start(&model, AfterLoss::Restart).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.redis_command(&["FLUSHALL"]);
    gate.notify_one();
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!(
        (data["error"]["code"].as_str(), notices(&data)),
        (Some("internal"), vec!["journal_lost", "cost_unknown"])
    );
    assert_eq!(worker.peer.effects().await, 1, "the mail was not sent again");
    model.finish();
}

#[tokio::test]
async fn the_policy_fail_lets_no_run_start_again() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate)]).await;
    let mut worker = start(&model, AfterLoss::Fail).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.redis_command(&["FLUSHALL"]);
    gate.notify_one();
    assert_eq!(worker.reply("agentkit.job.failed").await["error"]["code"], "internal");
    model.finish();
}

fn journal_of(worker: &RedisJournalWorker) -> RedisJournal {
    RedisJournal::new(worker.redis.lock().unwrap().client())
}

/// Writes `line` as the journal of `job-1`.
async fn write(journal: &RedisJournal, line: &str) {
    let (id, lease) = (JobId::new("job-1").unwrap(), Duration::from_secs(5));
    let Claim::Granted { token, .. } = journal.claim(&id, "before", lease, ClaimMode::IfFree).await.unwrap() else {
        panic!("nobody else has it")
    };
    let entries = [line.to_owned()];
    let append = Append {
        token,
        sequence: 0,
        entries: &entries,
        lease,
        retain: Duration::from_secs(600),
        remains: None,
        index: None,
    };
    journal.append(&id, append).await.unwrap();
    journal.renew(&id, token, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_journal_of_a_newer_worker_is_left_untouched_and_the_job_waits() {
    let model = ScriptedModel::start([]).await;
    let worker = start(&model, AfterLoss::Restart).await;
    let line = r#"{"at":"2027-01-01T00:00:00Z","event":{"started":{"schema":99,"shape":"unknown"}}}"#;
    eventually("the beginning of the data is marked", || async {
        (worker.redis_command(&["DBSIZE"]) == "1").then_some(())
    })
    .await;
    write(&journal_of(&worker), line).await;
    let untouched = worker.redis_command(&["DBSIZE"]);
    let epoch = || worker.redis_command(&["HGET", "agentkit:run:{job-1}", "epoch"]);
    let before = epoch();
    worker.publish(&[]).await;
    // The claim leaves its mark in the epoch; the lease is given back afterwards.
    let id = JobId::new("job-1").unwrap();
    eventually("the job was looked at and put off", || async {
        (epoch() != before && worker.queue.waiting() == 1).then_some(())
    })
    .await;
    assert_eq!(journal_of(&worker).read(&id).await.unwrap(), [line]);
    assert_eq!(worker.redis_command(&["DBSIZE"]), untouched);
    assert_eq!(worker.queue.dead_letters(), []);
    model.finish();
}

#[tokio::test]
async fn a_damaged_journal_becomes_a_dead_letter_with_its_reason() {
    let model = ScriptedModel::start([]).await;
    let mut worker = start(&model, AfterLoss::Restart).await;
    write(&journal_of(&worker), r#"{"at":"2026-11-22T00:00:00Z","event":"delivered"}"#).await;
    worker.publish(&[]).await;
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!(data["error"]["code"], "internal", "{data:#}");
    let letter = eventually("a dead letter", || async { worker.queue.dead_letters().pop() }).await;
    assert_eq!(letter.properties.headers["x-agentkit-dead-reason"], "damaged_journal");
    model.finish();
}

/// Bytes that the keys of `job-1` take in Redis.
fn bytes(worker: &RedisJournalWorker, kind: &str) -> usize {
    worker
        .redis_command(&["MEMORY", "USAGE", &format!("agentkit:{kind}:{{job-1}}"), "SAMPLES", "0"])
        .parse()
        .unwrap_or(0)
}

#[tokio::test]
async fn a_duplicate_that_comes_after_the_journals_time_gets_the_same_reply_and_is_not_run() {
    let words = "word ".repeat(20_000);
    let answer = "five mails".repeat(20);
    let model =
        ScriptedModel::start([turn::fetch_mails().with_text(&words), turn::send_mail(), turn::text(&answer)]).await;
    let mut worker = start(&model, AfterLoss::Restart).await;
    worker.publish(&[]).await;
    let first = worker.reply("agentkit.job.completed").await;
    assert_eq!(first["text"], answer);
    worker.idle().await;
    let (whole, remains) = (bytes(&worker, "run"), bytes(&worker, "sealed"));
    assert!(whole > 100_000 && (500..4000).contains(&remains), "{whole} bytes, of which {remains} remain");
    let kept: u64 = worker.redis_command(&["TTL", "agentkit:sealed:{job-1}"]).parse().unwrap();
    assert!((604_000..=604_800).contains(&kept), "{kept}");

    // The day is over.
    assert_eq!(worker.redis_command(&["DEL", "agentkit:run:{job-1}"]), "1");
    // A wake-up of ours that was redelivered late, and the caller asking again.
    worker.publish(&[("x-agentkit-turn", "1"), ("x-agentkit-reason", "continue")]).await;
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.completed").await, first);
    eventually("both are done with", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.mails().await, 1);
    assert!(worker.metrics.render().contains("agentkit_replies_total{type=\"agentkit.job.completed\"} 2"));
    model.finish();
}
