//! What is said, and what is refused, where the way to another machine is plain text. The other machine is 0.0.0.0, or 127.1
//! where a client does not take that: both lead to this one and do not say so.

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::SandboxPeer;

fn remote(url: &str) -> String {
    url.replace("127.0.0.1", "0.0.0.0")
}

#[tokio::test]
async fn keys_go_to_another_machine_in_plain_text_only_where_that_is_allowed() {
    let peer = SandboxPeer::start().await;
    let (scalekit, model) = (remote(peer.sandbox.scalekit_url()), remote(&peer.sandbox.model_url()));
    let program = Program::new()
        .pointed_to(&peer.sandbox)
        .set("SCALEKIT_ENV_URL", &scalekit)
        .set("OPENAI_BASE_URL", &model)
        .set("SCALEKIT_CLIENT_SECRET", "hunter2");
    let before = peer.count("token").await;
    let refused = program.run(&["worker"]).await;
    assert_eq!(refused.code, Some(64), "{}", refused.all());
    for key in
        ["scalekit.environment_url: the key would go to 0.0.0.0:", "model.base_url: the key would go to 0.0.0.0:"]
    {
        assert!(refused.stderr.contains(key), "{}", refused.all());
    }
    assert!(refused.stderr.contains("allow_plaintext_keys = true") && !refused.stderr.contains("hunter2"));
    assert_eq!(peer.count("token").await, before, "no key has left");
    // A server that wants no key is sent none.
    let keyless = program.set("OPENAI_API_KEY", "").set("AGENTKIT_WORKER__SCALEKIT__ALLOW_PLAINTEXT_KEYS", "true");
    let run = keyless.run(&["doctor"]).await;
    assert!(run.stdout.contains("ok      configuration: complete"), "{}", run.all());
}

#[tokio::test]
async fn plain_text_to_another_machine_is_warned_of_once_for_each_peer_and_to_this_one_never() {
    let (broker, redis) = (Broker::shared().await, Redis::start_with(&["--protected-mode", "no"]).await);
    let peer = SandboxPeer::with_active_accounts_in_real_time().await;
    let here = Program::of_service(&peer.sandbox, &broker.config(), &redis.url());
    let (_, log) = here.worker().await.stop().await;
    assert!(!log.iter().any(|line| line.contains("plain text")), "{log:#?}");

    let mut amqp = broker.config();
    amqp.url = remote(broker.url()).into();
    let there = Program::of_service(&peer.sandbox, &amqp, &redis.url().replace("127.0.0.1", "127.1"))
        .set("SCALEKIT_ENV_URL", &remote(peer.sandbox.scalekit_url()))
        .set("OPENAI_BASE_URL", &remote(&peer.sandbox.model_url()))
        .set("AGENTKIT_WORKER__SCALEKIT__ALLOW_PLAINTEXT_KEYS", "true")
        .set("AGENTKIT_WORKER__MODEL__ALLOW_PLAINTEXT_KEYS", "true");
    let worker = there.worker().await;
    let job =
        ["enqueue", "Fetch my last 3 unread emails", "--identifier", "user_123", "--connection", "gmail", "--wait"];
    let answer = there.run(&job).await;
    assert_eq!(answer.code, Some(0), "{}", answer.all());
    let (_, log) = worker.stop().await;
    let warned: Vec<&String> = log.iter().filter(|line| line.contains("plain text")).collect();
    assert_eq!(warned.len(), 4, "{warned:#?}");
    let names = [("RabbitMQ", "amqps://"), ("Redis", "rediss://"), ("Scalekit", "https://"), ("the model", "https://")];
    for (name, scheme) in names {
        let of_it = |line: &&&String| {
            line.contains(&format!("{name} is reached in plain text")) && line.contains(&format!("use {scheme}"))
        };
        let line = warned.iter().find(of_it).unwrap_or_else(|| panic!("{name} is missing in {warned:#?}"));
        assert!(line.contains("WARN") && line.contains("\"peer\":\""), "{line}");
    }
    let doctor = there.run(&["doctor"]).await;
    assert_eq!(doctor.stdout.matches("plain text: whoever is on it can read").count(), 4, "{}", doctor.all());
}
