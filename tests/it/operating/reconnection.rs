//! Broker, Redis, Scalekit or the model go away and come back: the worker goes on by itself, and says the truth meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::queue::amqp::AmqpQueue;
use agentkit_worker::reply::Timing;
use lapin::options::QueueDeleteOptions;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::support::broker::Broker;
use crate::support::eventually;
use crate::support::process_usage::ProcessUsage;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, Turn, turn};

/// A first turn that sends a mail once it is released, and a last one.
fn a_mail(released_by: &Arc<Notify>) -> [Turn; 2] {
    [turn::send_mail().released_by(released_by), turn::text("sent")]
}

fn assert_completed(reply: &Value) {
    assert_eq!(reply["type"], "agentkit.job.completed", "{reply:#}");
    assert_eq!(reply["data"]["status"], "completed", "{reply:#}");
}

#[tokio::test]
async fn a_run_goes_on_while_the_broker_is_restarted() {
    let broker = Broker::exclusive().await;
    let service = ProxiedService::new(&broker).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start(a_mail(&go)).await;
    let worker = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    assert_eq!(worker.get("/livez").await.0, 200);
    // A queue younger than a second does not survive the death of its only node.
    sleep(Duration::from_secs(3)).await;

    broker.stop().await;
    assert!(worker.page("/livez", 503).await.contains("not consuming"));
    go.notify_one();
    broker.start().await;
    worker.page("/livez", 200).await;
    worker.page("/readyz", 200).await;
    assert_completed(&service.only_reply().await);
    assert_eq!(service.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn connections_that_the_administrator_closes_are_made_again() {
    let broker = Broker::exclusive().await;
    let service = ProxiedService::new(&broker).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start(a_mail(&go)).await;
    let worker = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    broker.control(&["close_all_connections", "maintenance"]).await;
    worker.running.line("consuming connection lost").await;
    worker.running.line("publishing connection is back").await;
    worker.page("/readyz", 200).await;
    go.notify_one();
    assert_completed(&service.only_reply().await);
    assert_eq!(service.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed_and_left() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[]).worker().await;
    service.to_broker.freeze(true);
    assert!(worker.page("/livez", 503).await.contains("not consuming"));
    service.to_broker.freeze(false);
    worker.page("/readyz", 200).await;
    service.send("job-1", "Call gmail_fetch_mails with {\"max_results\": 1}").await;
    assert_completed(&service.only_reply().await);
}

#[tokio::test]
async fn a_worker_whose_queue_is_deleted_is_not_alive_until_there_is_a_queue_again() {
    let broker = Broker::shared().await;
    let service = ProxiedService::new(broker).await;
    let model = ScriptedModel::start([turn::text("done")]).await;
    // It must not make the queue itself.
    let worker = service.worker(&model, &[("AMQP__TOPOLOGY", "verify")]).await;
    let connection = broker.connect().await;
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(service.amqp.names().jobs().into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(worker.page("/livez", 503).await.contains("not consuming"));

    drop(AmqpQueue::connect(service.amqp.clone()).await.unwrap());
    worker.page("/livez", 200).await;
    service.send("job-1", "say it").await;
    assert_completed(&service.only_reply().await);
    model.finish();
}

#[tokio::test]
async fn a_broker_short_of_memory_makes_the_worker_unready_and_its_run_wait_without_using_up_its_time() {
    let broker = Broker::exclusive().await;
    let service = ProxiedService::new(&broker).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start(a_mail(&go)).await;
    let worker = service.worker(&model, &[("AMQP__PUBLISH_TIMEOUT_MILLISECONDS", "300")]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    // The broker blocks a connection when it publishes: that is the message that shall witness the mail.
    go.notify_one();
    assert!(worker.page("/readyz", 503).await.contains("memory"));
    assert_eq!(worker.get("/livez").await.0, 200, "it still consumes");
    // For longer than one publish waits: a message that went back each time would be taken for a killer of workers.
    worker.running.line("a message waits for the broker").await;
    let before = ProcessUsage::by(worker.running.process());
    sleep(Duration::from_secs(4)).await;
    assert!(before.processor_since(worker.running.process()) < Duration::from_millis(500), "it waits busily");
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    worker.page("/readyz", 200).await;
    let reply = service.only_reply().await;
    assert_completed(&reply);
    let timing: Timing = serde_json::from_value(reply["data"]["timing"].clone()).unwrap();
    let taken = timing.finished_at.unwrap().duration_since(timing.started_at.unwrap()).as_millis();
    assert!(taken - i128::from(timing.working_milliseconds) > 3_000, "it worked while it waited: {timing:?}");
    assert_eq!((worker.lines("job received"), worker.lines("was not confirmed")), (1, 0), "it was delivered once");
    assert_eq!(service.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn a_full_redis_takes_no_new_job_and_lets_the_one_under_way_end() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let go = Arc::new(Notify::new());
    let [mail, sent] = a_mail(&go);
    let model = ScriptedModel::start([mail, sent, turn::text("the second one")]).await;
    let worker = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    service.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    service.send("job-2", "say it").await;
    assert!(worker.page("/readyz", 503).await.contains("Redis is full"));
    assert_eq!(worker.get("/livez").await.0, 200, "it still consumes");
    worker.running.line("the job waits for the journal").await;
    // The lease of the first one is renewed meanwhile, and its mail journalled before and after.
    go.notify_one();
    let reply = service.reply().await;
    assert_completed(&reply);
    assert_eq!(reply["subject"], "job-1");
    worker.running.line("job ended").await;
    let exists = |key: &str| service.redis.command(&["EXISTS", &format!("{}:{key}", service.amqp.prefix)]) == "1";
    assert_eq!((exists("sealed:{job-1}"), exists("run:{job-2}")), (true, false));
    assert_eq!(worker.metric("agentkit_jobs_in_flight").await, Some(1.0), "the second one waits in its place");
    assert_eq!((worker.lines("job received"), worker.lines("redis is full")), (2, 1));

    service.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let reply = service.only_reply().await;
    assert_completed(&reply);
    assert_eq!(reply["subject"], "job-2");
    worker.page("/readyz", 200).await;
    assert_eq!((worker.lines("job received"), service.mails().await), (2, 1));
    model.finish();
}

#[tokio::test]
async fn a_broker_short_of_memory_for_long_takes_no_message_for_one_that_kills_its_workers() {
    let broker = Broker::exclusive().await;
    let service = ProxiedService::new(&broker).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start([(); 10].map(|()| turn::text("done").released_by(&go))).await;
    // Scaled: of the longest time for which a message is in hand a quarter of an hour becomes two seconds.
    let settings = [("AMQP__PUBLISH_TIMEOUT_MILLISECONDS", "300"), ("WORKER__HOLD_DELIVERY_SECONDS", "2")];
    let worker = service.worker(&model, &settings).await;
    for number in 0..10 {
        service.send(&format!("job-{number}"), "say it").await;
    }
    model.wait_for_requests(10).await;
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    (0..10).for_each(|_| go.notify_one());
    let waits = "a message waits for the broker";
    eventually("all wait", || async { (worker.lines(waits) >= 10).then_some(()) }).await;
    // For longer than three times as long as a message used to be kept.
    sleep(Duration::from_secs(10)).await;
    assert_eq!((worker.lines("job received"), worker.lines("was not confirmed")), (10, 0), "each is in hand");
    broker.control(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    // One whose confirm was lost in the alarm comes twice.
    let mut subjects = BTreeSet::new();
    while subjects.len() < 10 {
        let reply = service.reply().await;
        assert_completed(&reply);
        subjects.insert(reply["subject"].as_str().unwrap().to_owned());
    }
    assert_eq!(broker.ready(&service.amqp.names().dead()).await, 0);
    model.finish();
}

#[tokio::test]
async fn connections_cut_again_and_again_cost_neither_memory_nor_threads_nor_a_flood_of_lines() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[]).worker().await;
    let cut = async |times: usize| {
        for _ in 0..times {
            let known = worker.lines("consuming\"");
            service.to_broker.cut();
            eventually("it consumes again", || async { (worker.lines("consuming\"") > known).then_some(()) }).await;
            worker.page("/readyz", 200).await;
        }
    };
    cut(5).await;
    let (before, lines_before) = (ProcessUsage::by(worker.running.process()), worker.lines(""));
    // A leak grows with every cut. The library's buffers of 4 MiB each come and go with the connections, on any thread: until
    // the allocator has some for every thread, it takes more now and then.
    let (mut cuts, mut least_growth) = (0, u64::MAX);
    while least_growth >= 1024 && cuts < 56 {
        let memory = ProcessUsage::by(worker.running.process()).memory;
        cut(7).await;
        cuts += 7;
        least_growth = least_growth.min(ProcessUsage::by(worker.running.process()).memory.saturating_sub(memory));
    }
    let (after, lines_after) = (ProcessUsage::by(worker.running.process()), worker.lines(""));
    assert!(least_growth < 1024, "{least_growth} KiB more after each 7 cuts: {before:?} {after:?}");
    assert!(after.threads <= before.threads + 4, "{before:?} {after:?}");
    // Two of each of the three consumers and of what publishes, one of what holds messages, and one to spare.
    assert!(lines_after - lines_before <= cuts * 10, "{:#?}", worker.running.log());
    service.send("job-1", "Call gmail_fetch_mails with {\"max_results\": 1}").await;
    assert_completed(&service.only_reply().await);
}

#[tokio::test]
async fn a_run_survives_a_restart_of_redis() {
    let mut service = ProxiedService::new(Broker::shared().await).await;
    let go = Arc::new(Notify::new());
    let model = ScriptedModel::start(a_mail(&go)).await;
    let worker = service.worker(&model, &[]).await;
    service.send("job-1", "send it").await;
    model.wait_for_requests(1).await;
    service.redis.kill();
    service.redis.restart().await;
    go.notify_one();
    assert_completed(&service.only_reply().await);
    assert_eq!(worker.get("/livez").await.0, 200);
    assert_eq!(service.mails().await, 1);
    model.finish();
}

#[tokio::test]
async fn jobs_wait_quietly_for_a_redis_that_takes_no_writes() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let worker = service.program(&[("WORKER__CONCURRENCY", "8")]).worker().await;
    worker.running.line("worker takes jobs").await;
    // Nobody is there to follow: a replica refuses writes, and keeps its data.
    service.redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    for number in 0..20 {
        service.send(&format!("job-{number}"), "Call gmail_fetch_mails with {\"max_results\": 1}").await;
    }
    let wait = "the job waits for the journal";
    eventually("all it can hold wait", || async { (worker.lines(wait) == 8).then_some(()) }).await;
    let (before, lines_before) = (ProcessUsage::by(worker.running.process()), worker.lines(""));
    sleep(Duration::from_secs(5)).await;
    let (after, lines_after) = (ProcessUsage::by(worker.running.process()), worker.lines(""));
    assert!(
        after.processor.checked_sub(before.processor).unwrap() < Duration::from_millis(500),
        "{before:?} {after:?}"
    );
    assert!(lines_after - lines_before < 8, "a flood: {:#?}", worker.running.log());
    assert_eq!(worker.get("/livez").await.0, 200);

    service.redis.command(&["REPLICAOF", "NO", "ONE"]);
    let mut subjects = Vec::new();
    for _ in 0..20 {
        let reply = service.reply().await;
        assert_completed(&reply);
        subjects.push(reply["subject"].as_str().unwrap().to_owned());
    }
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), 20, "one reply each");
}

#[tokio::test]
async fn a_run_goes_on_where_it_was_when_scalekit_and_the_model_come_back() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let settings = [
        ("SCALEKIT__TOOL_RETRY__MAX_MILLISECONDS", "500"),
        ("MODEL__RETRY__MAX_MILLISECONDS", "500"),
        ("WORKER__TRANSIENT__ATTEMPTS", "100"),
    ];
    let worker = service.program(&settings).worker().await;
    service.peer.fault(json!({"on": "execute", "tool": "gmail_fetch_mails", "kind": "delay", "delay_ms": 3000})).await;
    let mail = json!({"to": "bob@example.com", "subject": "hello", "body": "hello"});
    service
        .send(
            "job-1",
            &format!("Call gmail_send_message with {mail}, then call gmail_fetch_mails with {{\"max_results\": 1}}"),
        )
        .await;
    // The mail is sent, the reading call is under way.
    eventually("the second call", || async { (service.peer.count("execute").await == 2).then_some(()) }).await;
    let asked = service.peer.count("model").await;
    service.to_upstream.shut(true);
    worker.running.line("run interrupted").await;
    assert_eq!(worker.get("/livez").await.0, 200, "it consumes, whatever happens upstream");
    sleep(Duration::from_secs(3)).await;
    service.to_upstream.shut(false);
    let reply = service.only_reply().await;
    assert_completed(&reply);
    assert_eq!(service.mails().await, 1);
    assert_eq!(service.peer.count("model").await, asked + 1, "no turn that is journalled is asked again");
}
