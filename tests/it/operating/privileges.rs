//! The least rights that a worker needs at the broker and in Redis, as deploy/README.md gives them.

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use crate::support::broker::Broker;
use crate::support::least_rights;
use crate::support::proxied_service::ProxiedService;
use crate::support::scripted_model::{ScriptedModel, turn};
use crate::support::unique;

#[tokio::test]
async fn a_worker_with_no_more_than_the_documented_rights_does_all_its_work() {
    let broker = Broker::shared().await;
    // Its queues are declared by somebody else.
    let service = ProxiedService::new(broker).await;
    let prefix = service.amqp.prefix.clone();
    let user = unique("worker");
    broker.control(&["add_user", &user, "secret"]).await;
    let rights = least_rights::at_the_broker(&prefix);
    let mut command = vec!["set_permissions", &user];
    command.extend(rights.iter().map(String::as_str));
    broker.control(&command).await;
    let rules = least_rights::in_redis(&prefix);
    let mut command = vec!["ACL", "SETUSER", "worker"];
    command.extend(rules.iter().map(String::as_str));
    assert_eq!(service.redis.command(&command).trim(), "OK");

    let call = turn::send_mail();
    let limited = turn::status(429).retry_after(3);
    let script = [turn::fetch_mails(), call, limited, turn::text("sent"), turn::text("read")];
    let model = ScriptedModel::start(script).await;
    let settings = [
        ("AMQP__URL", format!("amqp://{user}:secret@{}", broker.address())),
        ("AMQP__TOPOLOGY", "verify".to_owned()),
        ("REDIS__URL", service.redis.url().replace("redis://", "redis://worker:password@")),
        ("APPROVAL__WRITES", "none".to_owned()),
        ("AUTHORIZATION__POLL_SECONDS", "1".to_owned()),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let program = service.program(&settings).set("OPENAI_BASE_URL", &model.base_url());
    let doctor = program.run(&["doctor"]).await;
    assert!(!doctor.stdout.contains("NOPERM") && !doctor.stdout.contains("ACCESS_REFUSED"), "{}", doctor.stdout);
    let worker = program.worker().await;
    // A write, so that the broker is a witness; then a wait at the broker.
    service.send("writes", "x").await;
    let reply = service.reply().await;
    assert_eq!(reply["data"]["effects"][0]["state"], "done", "{reply:#}");
    // A run that waits for its user.
    service.peer.set_account("gmail", "user_456", "EXPIRED").await;
    let waits = json!({"id": "waits", "identifier": "user_456", "connections": ["gmail"], "prompt": "x"});
    service.send_job("waits", waits).await;
    assert_eq!(service.reply().await["type"], "agentkit.job.authorization_required");
    service.peer.activate("gmail", "user_456").await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    let (_, log) = worker.stop().await;
    let denied = log.iter().find(|line| line.contains("NOPERM") || line.contains("ACCESS_REFUSED"));
    assert_eq!(denied, None);
    assert_eq!(service.redis.command(&["ACL", "LOG"]).trim(), "", "nothing was tried that is not allowed");
    model.finish();
}

#[tokio::test]
async fn a_queue_that_somebody_else_made_otherwise_is_named_with_both_values_and_with_what_mends_it() {
    let broker = Broker::shared().await;
    let service = ProxiedService::new(broker).await;
    let (dead, connection) = (service.amqp.names().dead(), broker.connect().await);
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(dead.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare(dead.as_str().into(), options, arguments).await.unwrap();
    let named = |text: &str| {
        let mends = format!("rabbitmqctl delete_queue --vhost '/' --if-empty {dead}");
        [&format!("queue {dead} exists with another x-queue-type: classic at the broker, quorum here"), &mends]
            .iter()
            .all(|words| text.contains(*words))
    };
    let refused = service.program(&[]).run(&["doctor"]).await;
    assert!(refused.code == Some(1) && named(&refused.stdout), "{refused:?}");
    let program = service.program(&[("AMQP__TOPOLOGY", "verify")]);
    let doctor = program.run(&["doctor"]).await;
    assert!(doctor.code == Some(0) && named(&doctor.stdout), "{doctor:?}");
    let worker = program.worker().await;
    service.send("job", "Fetch my last 2 unread emails").await;
    assert_eq!(service.reply().await["type"], "agentkit.job.completed");
    let (_, log) = worker.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains("\"WARN\"") && named(line)).count(), 1, "{log:#?}");
}
