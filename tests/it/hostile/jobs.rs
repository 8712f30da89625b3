//! Messages that are no jobs, and made to take memory or to come again and again.

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config as Amqp, Tier};
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher as _};
use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::embedded_worker::{job, with};
use crate::support::eventually;
use crate::support::process_usage::ProcessUsage;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};

/// Sends these bytes as a job, with a queue for the reply.
async fn send(service: &ProxiedService<'_>, body: Vec<u8>) {
    let amqp = Amqp { max_message_bytes: 16 << 20, ..service.amqp.clone() };
    let publisher = AmqpQueue::connect(amqp).await.unwrap().publisher();
    let properties = Properties { reply_to: Some(service.amqp.names().replies()), ..Properties::default() };
    publisher.publish(&Destination::Jobs, Message { body: body.into(), properties }).await.unwrap();
}

async fn refusal(service: &ProxiedService<'_>) -> String {
    let reply = service.reply().await;
    assert_eq!(reply["data"]["error"]["code"], "invalid_job", "{reply:#}");
    reply["data"]["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_body_that_no_queue_of_ours_takes_again_is_answered_and_dead_lettered_by_the_broker_at_once() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::text("fine")]).await;
    let worker = service.worker(&model, &[]).await;
    let size = (8 << 20) + 1;
    send(&service, vec![b'['; size]).await;
    assert!(refusal(&service).await.contains(&format!("the body has {size} bytes")));
    let dead = service.amqp.names().dead();
    let (body, properties) = eventually("the dead letter", || service.broker.take(&dead)).await;
    assert_eq!(body.len(), size);
    let reason = properties.headers().as_ref().unwrap().inner().get("x-first-death-reason").cloned();
    assert_eq!(reason, Some(AMQPValue::LongString("rejected".into())));
    service.send("honest", "x").await;
    assert_eq!(service.only_reply().await["type"], "agentkit.job.completed");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn lists_of_hundreds_of_thousands_are_refused_without_being_kept() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::text("fine")]).await;
    let worker = service.worker(&model, &[]).await;
    let before = ProcessUsage::by(worker.running.process());
    let many = || vec![Value::from(""); 300_000];
    let lists = [with(job("x"), "connections", many().into()), with(job("x"), "tools", json!({"allow": many()}))];
    for job in lists.iter().cycle().take(8) {
        send(&service, job.to_string().into_bytes()).await;
    }
    for _ in 0..8 {
        let message = refusal(&service).await;
        assert!(message.contains("JSON values allowed") && message.len() < 200, "{message}");
    }
    let thousands = with(job("x"), "tools", json!({"deny": vec![Value::from(1); 20_000]}));
    send(&service, thousands.to_string().into_bytes()).await;
    assert!(refusal(&service).await.starts_with("tools.deny: has 20000 items"));
    let more = ProcessUsage::peak(worker.running.process()).saturating_sub(before.memory);
    assert!(more < 50 << 10, "the worker needed {more} KiB more");
    service.send("honest", "x").await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn a_reply_address_that_is_one_of_the_workers_own_queues_is_refused_and_the_common_queue_says_so() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([turn::text("fine")]).await;
    let worker = service.worker(&model, &[]).await;
    let names = service.amqp.names();
    let ours =
        [names.jobs(), names.urgent(), names.decisions(), names.dead(), names.wait(Tier::ALL[0]), names.held("x")];
    let dead = names.dead();
    for (index, queue) in ours.iter().enumerate() {
        let asked = with(job("x"), "progress", true.into());
        service.send_job(&format!("own-{index}"), with(asked, "reply_to", queue.as_str().into())).await;
        let reply = service.reply().await;
        assert_eq!(reply["data"]["error"]["code"], "invalid_job", "{reply:#}");
        let message = reply["data"]["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("reply_to: `{queue}` is a queue of the worker's own")), "{message}");
        let (body, _) = eventually("the dead letter", || service.broker.take(&dead)).await;
        assert!(String::from_utf8(body).unwrap().contains(queue), "the letter is the job, and no reply");
    }
    service.send("honest", "x").await;
    assert_eq!(service.only_reply().await["type"], "agentkit.job.completed");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn a_model_that_nobody_knows_is_refused_where_models_are_listed_and_is_no_metric_of_its_own() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start((0..4).map(|_| turn::text("fine"))).await;
    let worker = service.worker(&model, &[]).await;
    for name in ["invented-1", "invented-2", "gpt-4o-mini-2024-07-18"] {
        service.send_job(name, with(job("x"), "model", name.into())).await;
        assert_eq!(service.reply().await["type"], "agentkit.job.completed", "{name}");
    }
    let metrics = worker.page("/metrics", 200).await;
    let series =
        |name: &str| metrics.contains(&format!("agentkit_model_calls_total{{model=\"{name}\",outcome=\"answered\"}}"));
    assert!(series("other") && series("gpt-4o-mini") && !metrics.contains("invented"), "{metrics}");
    worker.stop().await;

    let program = service.program(&[]).set("OPENAI_BASE_URL", &model.base_url());
    program.write_settings("[model]\nallow = [\"invented-2\", \"gpt-6-*\"]\n");
    let worker = program.worker().await;
    let refused = with(job("x"), "reply_to", service.amqp.names().replies().into());
    service.send_job("refused", with(refused, "model", "invented-1".into())).await;
    assert!(refusal(&service).await.starts_with("model: `invented-1` is none that the operator allows"));
    service.send_job("allowed", with(job("x"), "model", "invented-2".into())).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    worker.stop().await;
    model.finish();
}
