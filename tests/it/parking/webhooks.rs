//! `POST /webhooks/scalekit`: who is believed, and what follows from it.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::broker::Broker;
use crate::support::proxy::Proxy;
use crate::support::shortly;
use crate::support::webhooked_service::{JobReplies, WebhookedService, job, outcome};
use crate::support::webhooks::{KEY, event, now, send, signed, tell};

/// The identifiers whose accounts were looked at, in order.
async fn looks(service: &WebhookedService) -> Vec<String> {
    let requests = service.control("requests").await;
    let details = requests["recent"].as_array().unwrap().iter().filter(|request| request["group"] == "details");
    let query = details.map(|request| request["query"].as_str().unwrap().to_owned());
    query
        .map(|query| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.find(|(name, _)| name == "identifier").unwrap().1.into_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_it_is_refused_and_wakes_nobody() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    asked.authorization().await;
    service.parked("j").await;
    let before = looks(&service).await.len();
    let (body, address) = (event("user_123", Some("gmail")), worker.address);
    let good = signed("msg_1", now(), KEY, &body);
    let with = |name: &str, value: &str| {
        let mut headers = good.to_vec();
        headers.iter_mut().filter(|(key, _)| *key == name).for_each(|header| header.1 = value.to_owned());
        headers
    };
    let without = |name: &str| good.iter().filter(|(key, _)| *key != name).cloned().collect::<Vec<_>>();
    let late = SignedDuration::from_secs(310);
    for (what, headers) in [
        ("another key", signed("msg_1", now(), b"another key", &body).to_vec()),
        ("too old", signed("msg_1", now() - late, KEY, &body).to_vec()),
        ("too new", signed("msg_1", now() + late, KEY, &body).to_vec()),
        ("another id", with("webhook-id", "msg_2")),
        ("another time", with("webhook-timestamp", &(now().as_second() - 7).to_string())),
        ("no time", with("webhook-timestamp", "soon")),
        ("no signature", without("webhook-signature")),
        ("no id", without("webhook-id")),
        ("no headers", vec![]),
        ("rubbish", with("webhook-signature", "v1 v1, v1,!!! v2,AAAA garbage")),
        ("hexadecimal", with("webhook-signature", "v1,00ff00ff00ff")),
    ] {
        assert_eq!(send(address, &headers, body.clone()).await, 401, "{what}");
    }
    assert_eq!(send(address, &good, event("user_124", Some("gmail"))).await, 401, "another body");
    let huge = event(&"x".repeat(300_000), None);
    assert_eq!(send(address, &signed("msg_1", now(), KEY, &huge), huge).await, 413);

    // Rubbish beside the right one does no harm; and only this one wakes.
    let beside = with("webhook-signature", &format!("v1,!!! v1a,AAAA {} v1", good[2].1));
    assert_eq!(send(address, &beside, body.clone()).await, 204);
    assert_eq!(looks(&service).await.len(), before + 1);

    // The same again is known; the next one is not, and shows by its look that the same one was passed over.
    assert_eq!(send(address, &good, body.clone()).await, 204);
    assert_eq!(tell(&worker, &body).await, 204);
    assert_eq!(looks(&service).await.len(), before + 2);
    service.set_status("gmail", "user_123", "ACTIVE").await;
    assert_eq!(tell(&worker, &body).await, 204);
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_genuine_and_strange_is_taken_and_ignored() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    for body in [
        String::new(),
        "not json".to_owned(),
        "null".to_owned(),
        "[".repeat(100_000),
        json!({"trigger_type": "gmail.new_mail", "subscription_id": "s", "payload_state": "INLINE"}).to_string(),
        json!({"type": "connected_account.deleted"}).to_string(),
        json!({"type": "connected_account.from_the_future", "data": {"identifier": {"name": "x"}}}).to_string(),
        json!({"type": "directory.updated", "data": {"identifier": "user_123"}}).to_string(),
        event("nobody waits for this one", None),
    ] {
        assert_eq!(tell(&worker, &body).await, 204, "{body:.60}");
    }
    assert_eq!(looks(&service).await, Vec::<String>::new());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_nobody_is_believed() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.polling_alone()).await;
    let body = event("user_123", None);
    assert_eq!(tell(&worker, &body).await, 503);
    // The key of an empty secret.
    assert_eq!(send(worker.address, &signed("msg_1", now(), b"", &body), body.clone()).await, 503);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_wakes_the_runs_of_its_user_and_connection_and_no_other() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let users = ["a:b", "a%3Ab", "a", "a:b:gmail", "*"];
    let mut asked = Vec::new();
    for (number, user) in users.iter().enumerate() {
        let mut replies = service.ask(job(&format!("j{number}"), user)).await;
        replies.authorization().await;
        service.parked(&format!("j{number}")).await;
        asked.push(replies);
        service.set_status("gmail", user, "ACTIVE").await;
    }
    let before = looks(&service).await.len();
    // Another connection of the same user: nobody waits for that.
    assert_eq!(tell(&worker, &event("a:b", Some("slack"))).await, 204);
    for (user, connection) in [("a%3Ab", Some("gmail")), ("*", None)] {
        let index = users.iter().position(|name| *name == user).unwrap();
        assert_eq!(tell(&worker, &event(user, connection)).await, 204);
        assert_eq!(outcome(&asked[index].next().await), "completed", "{user}");
    }
    let mut woken: Vec<String> = looks(&service).await.split_off(before);
    // A look of the webhook, which the woken run shares while it is young.
    woken.dedup();
    assert_eq!(woken, ["a%3Ab", "*"], "nobody else");
    assert_eq!(worker.metric("agentkit_parked_jobs{reason=\"authorization\"}").await.as_deref(), Some("3"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_makes_the_next_job_ask_for_the_tools_again() {
    let service = WebhookedService::start(|options| {
        options.webhook = None;
        options.initial_status = Some("ACTIVE".into());
    })
    .await;
    let worker = service.worker(service.webhooks_alone()).await;
    for (id, lists) in [("first", 1), ("second", 1)] {
        assert_eq!(outcome(&service.ask(job(id, "user_123")).await.next().await), "completed");
        assert_eq!(service.count("scoped").await, lists);
    }
    assert_eq!(tell(&worker, &event("user_123", Some("gmail"))).await, 204);
    shortly("the list is forgotten", async || {
        (service.redis.command(&["EXISTS", "agentkit:tools:user_123:gmail"]) == "0").then_some(())
    })
    .await;
    assert_eq!(outcome(&service.ask(job("third", "user_123")).await.next().await), "completed");
    assert_eq!(service.count("scoped").await, 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_only_the_webhook_claims_wakes_nobody_for_good() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    asked.authorization().await;
    service.parked("j").await;
    let (journal, before) = (service.journal("j").await, looks(&service).await.len());
    assert_eq!(tell(&worker, &event("user_123", Some("gmail"))).await, 204);
    assert_eq!(looks(&service).await.len(), before + 1);
    assert_eq!(service.journal("j").await, journal, "Scalekit itself says that the user has not authorized");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_ended_is_not_woken_even_where_its_journal_is_gone() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("j", "user_123")).await;
    asked.authorization().await;
    service.parked("j").await;
    // The index as it would be if the worker had died before taking the run out of it.
    let stale: Value = service.redis.command(&["HGET", "agentkit:parked:user_123", "j"]).into();
    service.set_status("gmail", "user_123", "ACTIVE").await;
    assert_eq!(tell(&worker, &event("user_123", None)).await, 204);
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    service.redis.command(&["HSET", "agentkit:parked:user_123", "j", stale.as_str().unwrap()]);
    service.redis.command(&["DEL", "agentkit:run:{j}", "agentkit:sealed:{j}"]);
    assert_eq!(tell(&worker, &event("user_123", None)).await, 204);
    shortly("the entry is gone", async || {
        (service.redis.command(&["EXISTS", "agentkit:parked:user_123"]) == "0").then_some(())
    })
    .await;
    assert_eq!(service.journal("j").await, Vec::<String>::new(), "it did not begin anew");
    worker.stop().await;
}

/// A run that waits, and whose account is active by now; nobody has told the worker.
async fn ready_to_be_woken(service: &WebhookedService) -> JobReplies {
    let mut asked = service.ask(job("j", "user_123")).await;
    asked.authorization().await;
    service.parked("j").await;
    service.set_status("gmail", "user_123", "ACTIVE").await;
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_to_be_sent_again_while_the_broker_is_away() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let proxy = Proxy::to(Broker::shared().await.address()).await;
    let mut config = service.webhooks_alone();
    config.amqp.url = format!("amqp://guest:guest@{}", proxy.address()).into();
    config.amqp.reconnect_max_milliseconds = 200;
    let worker = service.worker(config).await;
    let asked = ready_to_be_woken(&service).await;
    let body = event("user_123", Some("gmail"));
    let headers = signed("msg_1", now(), KEY, &body);
    proxy.shut(true);
    let since = Instant::now();
    assert_eq!(send(worker.address, &headers, body.clone()).await, 503);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    proxy.shut(false);
    shortly("the webhook is taken", async || (send(worker.address, &headers, body.clone()).await == 204).then_some(()))
        .await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_to_be_sent_again_while_redis_does_not_answer() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let asked = ready_to_be_woken(&service).await;
    let body = event("user_123", Some("gmail"));
    let headers = signed("msg_1", now(), KEY, &body);
    service.redis.freeze();
    let since = Instant::now();
    assert_eq!(send(worker.address, &headers, body.clone()).await, 503);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    service.redis.thaw();
    shortly("the webhook is taken", async || (send(worker.address, &headers, body.clone()).await == 204).then_some(()))
        .await;
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_to_be_sent_again_while_a_journal_cannot_be_read() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let asked = ready_to_be_woken(&service).await;
    let body = event("user_123", Some("gmail"));
    let headers = signed("msg_1", now(), KEY, &body);
    assert_eq!(service.redis.command(&["RENAME", "agentkit:run:{j}", "elsewhere"]), "OK");
    assert_eq!(service.redis.command(&["SET", "agentkit:run:{j}", "no journal"]), "OK");
    assert_eq!(send(worker.address, &headers, body.clone()).await, 503);
    assert_eq!(service.redis.command(&["RENAME", "elsewhere", "agentkit:run:{j}"]), "OK");
    assert_eq!(send(worker.address, &headers, body.clone()).await, 204);
    assert_eq!(asked.rest().await.iter().map(outcome).collect::<Vec<_>>(), ["completed"]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_an_earlier_version_parked_is_woken() {
    let service = WebhookedService::start(|options| options.webhook = None).await;
    let worker = service.worker(service.webhooks_alone()).await;
    let mut asked = service.ask(job("order-4711", "user_123")).await;
    asked.authorization().await;
    service.parked("order-4711").await;
    let entry = include_str!("../../data/parked/0.1.0.json").trim();
    assert_eq!(service.redis.command(&["HSET", "agentkit:parked:user_123", "order-4711", entry]), "0");
    service.set_status("gmail", "user_123", "ACTIVE").await;
    assert_eq!(tell(&worker, &event("user_123", Some("gmail"))).await, 204);
    // Its reply goes where the entry says.
    shortly("the run ends", async || service.journal("order-4711").await.last()?.contains("delivered").then_some(()))
        .await;
    worker.stop().await;
}
