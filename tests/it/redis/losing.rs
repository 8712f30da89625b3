//! Redis loses what it had, all of it or the end, at the worst moments: nothing is done twice, and the loss is said.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::Config;
use agentkit_worker::internals::queue::{Consumer, Destination, Message, Published, Publisher, QueueError};
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::proxied_service::ProxiedService;
use crate::support::redis_journal_worker::{RedisJournalWorker, SharedRedis, notices};
use crate::support::scripted_model::{ScriptedModel, Turn, turn};

/// Kills Redis when the terminal reply is out.
struct RedisKiller(Arc<dyn Publisher>, SharedRedis);

#[async_trait]
impl Publisher for RedisKiller {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let is_reply = message.properties.kind.is_some();
        let published = self.0.publish(destination, message).await;
        if is_reply {
            self.1.lock().unwrap().kill();
        }
        published
    }
}

/// Tells of each message that is deferred.
struct DeferralWatcher(Arc<dyn Publisher>, Arc<Notify>);

#[async_trait]
impl Publisher for DeferralWatcher {
    async fn publish(&self, destination: &Destination, message: Message) -> Result<Published, QueueError> {
        let published = self.0.publish(destination, message).await;
        if matches!(destination, Destination::Wait(_)) {
            self.1.notify_one();
        }
        published
    }
}

/// A loss is noticed soon: the lease is short, and Redis is asked again at once.
fn quick(config: &mut Config) {
    config.redis.breaker_open_milliseconds = 100;
    config.worker.lease_seconds = 3;
}

/// The same, and a run may lose no worker.
fn quick_and_strict(config: &mut Config) {
    quick(config);
    config.worker.strikes = 1;
}

#[tokio::test]
async fn a_mail_is_not_sent_again_by_a_run_whose_redis_went_away_and_came_back_empty() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::send_mail(), turn::text("never heard").released_by(&gate)]).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.without_redis(&gate, false).await;
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!(
        (data["error"]["code"].as_str(), notices(&data)),
        (Some("internal"), vec!["journal_lost", "cost_unknown"])
    );
    assert_eq!(worker.mails().await, 1);
    assert!(worker.metrics.render().contains("agentkit_journals_lost_total 1"));
    model.finish();
}

#[tokio::test]
async fn a_run_that_only_read_starts_again_when_redis_comes_back_empty_and_says_so() {
    let gate = Arc::new(Notify::new());
    let script = [turn::text("never heard").released_by(&gate), turn::text("started again")];
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.without_redis(&gate, false).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    model.finish();
}

#[tokio::test]
async fn a_run_whose_reply_is_out_is_not_run_again_though_nothing_is_left_of_its_journal() {
    let model = ScriptedModel::start([turn::send_mail(), turn::text("sent")]).await;
    let killer = |publisher, redis| Arc::new(RedisKiller(publisher, redis)) as Arc<dyn Publisher>;
    let mut worker = RedisJournalWorker::start_with(&model, quick, killer).await;
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.completed").await["text"], "sent");
    worker.idle().await;
    worker.restart_redis(false).await;
    eventually("the message is gone", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.mails().await, 1);
    assert!(tokio::time::timeout(Duration::from_millis(300), worker.inbox.next()).await.is_err(), "one reply");
    model.finish();
}

#[tokio::test]
async fn a_write_whose_start_was_lost_with_the_end_of_the_journal_is_not_made_again() {
    let gate = Arc::new(Notify::new());
    let script = [turn::send_mail(), turn::text("never heard").released_by(&gate), turn::text("it may have been sent")];
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    // As after a fail-over to a replica that lagged: the model's turn is there, the call's start is not.
    worker.lose_what_follows("model_replied");
    gate.notify_one();
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(
        (data["text"].as_str(), notices(&data)),
        (Some("it may have been sent"), vec!["journal_lost", "cost_unknown"])
    );
    assert_eq!(data["effects"][0]["state"], "unknown", "{data:#}");
    assert_eq!(worker.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn the_worker_that_has_a_run_is_asked_what_it_did_before_another_one_guesses() {
    let gate = Arc::new(Notify::new());
    let script = [turn::text("never heard").released_by(&gate), turn::text("started again")];
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    // As it stands for the delivery of a run that might have written by now.
    let stand_in = [("x-agentkit-turn", "1"), ("x-agentkit-reason", "continue"), ("x-agentkit-effects", "1")];
    worker.restart_redis(false).await;
    worker.publish(&stand_in).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["text"], "started again", "its owner knew that it had only read");
    assert!(notices(&data).contains(&"journal_lost"), "{data:#}");
    gate.notify_one();
    model.finish();
}

#[tokio::test]
async fn a_worker_that_gives_a_run_back_as_redis_is_away_has_not_died_with_it() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate), turn::text("done")]).await;
    let mut worker = RedisJournalWorker::start(&model, quick_and_strict).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.without_redis(&gate, true).await;
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!((data["text"].as_str(), notices(&data)), (Some("done"), vec!["answered_without_tools", "cost_unknown"]));
    assert_eq!(worker.queue.dead_letters(), []);
    model.finish();
}

#[tokio::test]
async fn a_copy_of_a_message_that_comes_after_a_dead_letter_makes_no_second_one() {
    let gate = Arc::new(Notify::new());
    let model = ScriptedModel::start([turn::text("never heard").released_by(&gate)]).await;
    let mut worker = RedisJournalWorker::start(&model, quick_and_strict).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    // Its journal looks as if its worker had died: another one has it now.
    let key = "agentkit:run:{job-1}";
    worker.redis_command(&["HSET", key, "owner", "nobody", "lease", "0", "epoch", "9999999999999"]);
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.failed").await["error"]["code"], "attempts_exhausted");
    for turn in ["1", "2"] {
        worker.publish(&[("x-agentkit-turn", turn), ("x-agentkit-reason", "continue")]).await;
    }
    eventually("the copies are gone", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.queue.dead_letters().len(), 1);
    gate.notify_one();
    model.finish();
}

#[tokio::test]
async fn a_worker_that_dies_together_with_the_journals_data_is_noticed_by_the_datas_age() {
    let model = ScriptedModel::start([turn::hang(), turn::text("started again")]).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.kill_worker(1).await;
    worker.kill_redis();
    worker.restart_redis(false).await;
    worker.start_worker();
    let data = worker.reply("agentkit.job.completed").await;
    assert!(data["text"] == "started again" && notices(&data).contains(&"journal_lost"), "{data:#}");
    model.finish();
}

/// What is left of a journal whose worker died in the model call after its mail was sent.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// All but the tool call and what follows.
    TheTurn,
    /// All but the turn of the call and what follows.
    TheTools,
    /// Nothing.
    Nothing,
}

impl Left {
    /// Redis loses the rest.
    fn of_the_journal(self, worker: &RedisJournalWorker) {
        match self {
            Self::TheTurn => worker.lose_what_follows("model_replied"),
            Self::TheTools => worker.lose_what_follows("tools_listed"),
            Self::Nothing => drop(worker.redis_command(&["FLUSHALL"])),
        }
    }
}

/// The worker dies when its mail is out, and Redis loses the end of the journal, as in a power cut or a fail-over.
async fn loses_the_end(left: Left, script: Vec<Turn>) -> serde_json::Value {
    let model = ScriptedModel::start(script).await;
    let mut worker = RedisJournalWorker::start(&model, quick).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    assert_eq!(worker.mails().await, 1, "the mail is out");
    worker.kill_worker(1).await;
    left.of_the_journal(&worker);
    worker.start_worker();
    let message = crate::support::soon("the reply", worker.inbox.next()).await.unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    worker.idle().await;
    assert_eq!(worker.mails().await, 1, "{left:?}: the mail was sent again");
    model.finish();
    reply
}

#[tokio::test]
async fn a_mail_whose_sending_the_journal_forgot_with_its_worker_is_not_sent_again_and_the_model_knows_the_doubt() {
    let script = vec![turn::send_mail(), turn::hang(), turn::text("I do not know whether it was sent")];
    let reply = loses_the_end(Left::TheTurn, script).await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    let data = &reply["data"];
    assert!(notices(data).contains(&"journal_lost"), "{data:#}");
    assert_eq!(data["effects"][0]["state"], "unknown", "{data:#}");
}

#[tokio::test]
async fn a_mail_whose_turn_the_journal_forgot_with_its_worker_is_not_sent_again_and_is_reported_as_unknown() {
    let reply = loses_the_end(Left::TheTools, vec![turn::send_mail(), turn::hang()]).await;
    assert_eq!(reply["type"], "agentkit.job.failed", "{reply:#}");
    let data = &reply["data"];
    assert!(notices(data).contains(&"journal_lost"), "{data:#}");
    assert_eq!(data["effects"][0]["state"], "unknown", "{data:#}");
}

#[tokio::test]
async fn a_mail_is_not_sent_again_by_a_run_whose_journal_and_worker_are_both_gone() {
    let reply = loses_the_end(Left::Nothing, vec![turn::send_mail(), turn::hang()]).await;
    assert_eq!(reply["type"], "agentkit.job.failed", "{reply:#}");
    let data = &reply["data"];
    assert!(notices(data).contains(&"journal_lost"), "{data:#}");
    let message = data["error"]["message"].as_str().unwrap();
    assert!(message.contains("gmail_send") && message.contains("unknown"), "{message}");
}

/// A worker finds out that the store has lost the end of a journal while another message of its run waits, which saw the run
/// before it wrote anything.
async fn finds_its_journal_cut_beside_a_copy(left: Left, end: Option<Turn>) -> serde_json::Value {
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let script = [turn::send_mail().released_by(&first), turn::text("never heard").released_by(&second)];
    let model = ScriptedModel::start(script.into_iter().chain(end)).await;
    let deferred = Arc::new(Notify::new());
    let watcher = |publisher, _| Arc::new(DeferralWatcher(publisher, deferred.clone())) as Arc<dyn Publisher>;
    let mut worker = RedisJournalWorker::start_with(&model, quick, watcher).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.publish(&[("x-agentkit-turn", "1"), ("x-agentkit-reason", "transient")]).await;
    crate::support::soon("it waits", deferred.notified()).await;
    first.notify_one();
    model.wait_for_requests(2).await;
    left.of_the_journal(&worker);
    second.notify_one();
    let message = crate::support::soon("the reply", worker.inbox.next()).await.unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
    worker.idle().await;
    assert_eq!(worker.mails().await, 1, "{left:?}: the mail was sent again: {reply:#}");
    assert!(notices(&reply["data"]).contains(&"journal_lost"), "{reply:#}");
    model.finish();
    reply
}

#[tokio::test]
async fn what_a_worker_did_before_it_found_its_journal_cut_is_not_done_again_by_another_message_of_its_run() {
    let end = turn::text("it may have been sent");
    let reply = finds_its_journal_cut_beside_a_copy(Left::TheTurn, Some(end)).await;
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
    let reply = finds_its_journal_cut_beside_a_copy(Left::TheTools, None).await;
    assert_eq!(reply["type"], "agentkit.job.failed", "{reply:#}");
    assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
    let reply = finds_its_journal_cut_beside_a_copy(Left::Nothing, None).await;
    assert_eq!(reply["type"], "agentkit.job.failed", "{reply:#}");
}

#[tokio::test]
async fn a_copy_that_saw_its_run_at_work_does_not_begin_it_anew_where_nothing_is_left_of_it() {
    let model = ScriptedModel::start([turn::send_mail(), turn::hang()]).await;
    let deferred = Arc::new(Notify::new());
    let watcher = |publisher, _| Arc::new(DeferralWatcher(publisher, deferred.clone())) as Arc<dyn Publisher>;
    let mut worker = RedisJournalWorker::start_with(&model, quick, watcher).await;
    worker.publish(&[]).await;
    model.wait_for_requests(2).await;
    worker.publish(&[]).await;
    deferred.notified().await;
    worker.kill_worker(2).await;
    worker.redis_command(&["FLUSHALL"]);
    // The copy is the first to come: the broker has not noticed yet that the worker with the run's own message is gone.
    let run_message = worker.queue.consumer().next().await.unwrap();
    assert!(run_message.message.properties.headers.contains_key("x-agentkit-call"));
    worker.start_worker();
    let data = worker.reply("agentkit.job.failed").await;
    assert_eq!(
        (data["error"]["code"].as_str(), notices(&data)),
        (Some("internal"), vec!["journal_lost", "cost_unknown"])
    );
    drop(run_message);
    eventually("both messages are gone", || async { (worker.queue.waiting() == 0).then_some(()) }).await;
    worker.idle().await;
    assert_eq!(worker.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_copy_that_redis_forgot_does_not_send_the_mail_that_the_other_one_sent_in_between() {
    let again = [turn::send_mail(), turn::text("I do not know whether it was sent")];
    let script = [turn::hang(), turn::send_mail(), turn::text("sent")].into_iter().chain(again);
    let model = ScriptedModel::start(script).await;
    let deferred = Arc::new(Notify::new());
    let watcher = |publisher, _| Arc::new(DeferralWatcher(publisher, deferred.clone())) as Arc<dyn Publisher>;
    let mut worker = RedisJournalWorker::start_with(&model, quick, watcher).await;
    worker.publish(&[]).await;
    model.wait_for_requests(1).await;
    worker.kill_worker(1).await;
    worker.redis_command(&["FLUSHALL"]);
    worker.start_worker();
    crate::support::soon("its owner is waited for", deferred.notified()).await;
    // As its caller sent it again, who had no confirm.
    worker.publish(&[]).await;
    assert_eq!(worker.reply("agentkit.job.completed").await["text"], "sent");
    worker.idle().await;
    worker.redis_command(&["FLUSHALL"]);
    let data = worker.reply("agentkit.job.completed").await;
    assert_eq!(data["status"], "completed_with_unknown_effects", "{data:#}");
    assert_eq!(
        (data["effects"][0]["state"].as_str(), notices(&data)),
        (Some("unknown"), vec!["journal_lost", "cost_unknown"])
    );
    assert_eq!(worker.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_mail_that_waited_for_its_witness_is_not_sent_again_where_the_journal_forgot_that_it_left_after_all() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let go = Arc::new(Notify::new());
    let script = [turn::send_mail().released_by(&go), turn::hang(), turn::text("I do not know")];
    let model = ScriptedModel::start(script).await;
    let worker = service.worker(&model, &[("AMQP__HEARTBEAT_SECONDS", "20")]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    let key = format!("{}:run:{{job-1}}", service.amqp.prefix);
    let journal = |text: &str| {
        let length: usize = service.redis.command(&["HGET", &key, "length"]).parse().unwrap();
        (0..length).find(|index| service.redis.command(&["HGET", &key, &index.to_string()]).contains(text))
    };
    service.to_broker.freeze(true);
    go.notify_one();
    eventually("the call has started", async || journal("tool_started")).await;
    let started = Instant::now();
    eventually("it waits", async || (started.elapsed() > Duration::from_millis(1500)).then_some(())).await;
    service.to_broker.freeze(false);
    model.wait_for_requests(2).await;
    assert_eq!(service.mails().await, 1, "the mail is out");
    worker.running.signal("KILL");
    worker.running.end().await;

    // That it waited and then left is one step, and lost as one.
    assert!(journal("not_witnessed").is_some());
    let started = journal("tool_started").unwrap();
    service.redis.command(&["HSET", &key, "length", &(started + 1).to_string()]);
    let worker = service.worker(&model, &[]).await;
    let reply = service.only_reply().await;
    assert_eq!(reply["data"]["effects"][0]["state"], "unknown", "{reply:#}");
    assert_eq!(service.mails().await, 1);
    worker.stop().await;
    model.finish();
}
