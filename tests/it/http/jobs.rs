//! What a job goes through that came by HTTP.

use agentkit_worker::internals::queue::{Destination, Message};
use reqwest::Method;
use serde_json::{Value, json};

use super::door::{ALL, Answered, Door, FOREIGNER, MOST, NOTHING, READER, STREAMS, job, send_mail};
use super::events::{
    a_job_is_followed_to_its_reply_and_none_of_it_is_told_twice,
    places_are_bounded_and_free_when_whoever_follows_is_gone,
};
use super::reply_url::{
    replies_are_posted_with_a_signature_and_again_where_nobody_took_them,
    what_cannot_be_posted_goes_to_a_queue_and_no_forged_message_is_posted,
};
use super::settling::an_unknown_effect_is_settled_once_and_its_caller_told_where_the_reply_went;
use crate::support::{eventually, shortly};

#[tokio::test]
async fn jobs_are_taken_seen_and_ended_with_everything_in_memory() {
    let unseen = everything(Door::in_memory(|_| {}).await).await;
    // What needs a service that is away, a damaged journal, or somebody slow.
    let elsewhere = |answer: &String| ["408", "500", "503"].iter().any(|status| answer.ends_with(status));
    let rest: Vec<String> = unseen.into_iter().filter(|answer| !elsewhere(answer)).collect();
    // Shown by the tests of approvals and of producers.
    let shown = ["post /v1/approvals/{id} 400", "post /v1/approvals/{id} 401", "post /v1/approvals/{id} 403"];
    let more = ["409", "410", "422"].map(|status| format!("post /v1/approvals/{{id}} {status}"));
    let shown = shown.into_iter().map(str::to_owned).chain(more);
    // A damaged journal.
    let known: Vec<String> = shown.chain(["post /v1/dead/{id}/replay 409".to_owned()]).collect();
    assert_eq!(rest, known, "documented, and never answered");
}

#[tokio::test]
async fn jobs_are_taken_seen_and_ended_on_a_broker_and_a_redis() {
    let door = Door::of_service(|_| {}).await;
    a_broker_that_is_away_is_said_and_the_same_again_does_no_harm(&door).await;
    everything(door).await;
}

async fn everything(mut door: Door) -> std::collections::BTreeSet<String> {
    what_is_no_job_is_refused_in_words(&door).await;
    a_job_is_known_before_a_worker_has_it_and_can_be_cancelled_then(&door).await;
    door.run();
    what_was_cancelled_before_its_run_is_not_run_and_the_others_are(&door).await;
    a_job_ends_with_its_reply_which_is_given_again(&door).await;
    a_waiting_job_says_what_for_and_goes_on_or_is_cancelled(&door).await;
    who_must_authorize_finds_the_link_at_the_job(&door).await;
    jobs_are_listed_to_whoever_may_see_them(&door).await;
    a_job_is_followed_to_its_reply_and_none_of_it_is_told_twice(&door).await;
    places_are_bounded_and_free_when_whoever_follows_is_gone(&door, STREAMS).await;
    dead_letters_are_seen_by_whose_they_are_and_run_again(&door).await;
    replies_are_posted_with_a_signature_and_again_where_nobody_took_them(&door).await;
    what_cannot_be_posted_goes_to_a_queue_and_no_forged_message_is_posted(&door).await;
    an_unknown_effect_is_settled_once_and_its_caller_told_where_the_reply_went(&door).await;
    door.stop().await
}

async fn a_broker_that_is_away_is_said_and_the_same_again_does_no_harm(door: &Door) {
    let proxy = door.to_broker.as_ref().unwrap();
    proxy.freeze(true);
    let refused = door.post("/v1/jobs", ALL, &job("away", "Fetch my last 3 unread emails")).await;
    assert_eq!((refused.status, refused.code()), (503, "not_now"), "{refused:?}");
    assert!(refused.retry_after.unwrap().parse::<u32>().unwrap() > 0);
    proxy.freeze(false);
    let taken = eventually("the broker is back", async || {
        let taken = door.post("/v1/jobs", ALL, &job("away", "Fetch my last 3 unread emails")).await;
        (taken.status == 202).then_some(taken)
    });
    assert_eq!(taken.await.body["id"], "away");
}

async fn what_is_no_job_is_refused_in_words(door: &Door) {
    let good = job("refused", "Fetch my last 3 unread emails");
    let with = |field: &str, value: Value| {
        let mut job = good.clone();
        job[field] = value;
        job
    };
    for (token, body, status, words) in [
        ("nobody's token", &good, 401, "bearer token"),
        (NOTHING, &good, 403, "`jobs:write`"),
        (READER, &good, 403, "`jobs:write`"),
        (FOREIGNER, &good, 403, "`identifier`"),
        (ALL, &with("promt", "a typo".into()), 422, "promt"),
        (ALL, &with("connections", json!([])), 422, "connections"),
        (ALL, &with("prompt", "x".repeat(MOST).into()), 413, "at most 20000 bytes"),
        (ALL, &json!([1]), 422, "not a job"),
    ] {
        let refused = door.post("/v1/jobs", token, body).await;
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(refused.status == status && message.contains(words), "{refused:?}");
        assert_eq!(refused.body["problems"].is_array(), status == 422, "{refused:?}");
    }
    let two = door.post("/v1/jobs", ALL, &json!({"identifier": "", "connections": ["gmail"]})).await;
    assert_eq!(two.body["problems"].as_array().unwrap().len(), 2, "each problem: {two:?}");
    let long = "k".repeat(201);
    for (headers, body, status) in [
        (&[("content-type", "application/x-www-form-urlencoded")][..], "{}", 415),
        (&[("content-type", "text/json")], "{}", 415),
        (&[("content-type", "application/json; charset=utf-8")], "{", 400),
        (&[], "", 400),
        (&[("idempotency-key", "")], "{}", 400),
        (&[("idempotency-key", &long)], "{}", 400),
        (&[("idempotency-key", "\"\"")], "{}", 400),
        (&[("authorization", "Basic YTpi")], "{}", 401),
    ] {
        let mut request = door.request(Method::POST, "/v1/jobs", ALL);
        for (name, value) in headers {
            // Not beside, but instead of the token.
            request = request.headers([(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect());
        }
        let refused = door.send(Method::POST, "/v1/jobs", request.body(body)).await;
        assert_eq!(refused.status, status, "{headers:?} {body}: {refused:?}");
    }
    for path in
        ["/v1/jobs/refused", "/v1/jobs/", "/v1/jobs/%00"].map(str::to_owned).iter().chain([&format!("/v1/jobs/{long}")])
    {
        for token in [ALL, READER] {
            assert_eq!(door.request(Method::GET, path, token).send().await.unwrap().status(), 404, "{path}");
        }
    }
    assert_eq!(door.delete("/v1/jobs/refused", ALL).await.status, 404);
    assert_eq!(door.delete("/v1/jobs/refused", READER).await.status, 403);
    assert_eq!(door.delete("/v1/jobs/refused", "nobody's token").await.status, 401);
    assert_eq!(door.get("/v1/jobs/refused", "nobody's token").await.status, 401);
    assert_eq!(door.get("/v1/jobs/refused", NOTHING).await.status, 403);
    assert_eq!(door.get("/v1/jobs/refused?wait=soon", ALL).await.status, 400);
}

/// The jobs that are taken here before there is a worker.
const HOSTILE: &str = "a/b ü?#%2F";

async fn a_job_is_known_before_a_worker_has_it_and_can_be_cancelled_then(door: &Door) {
    let mut nameless = job("", "Fetch my last 3 unread emails");
    nameless.as_object_mut().unwrap().remove("id");
    let by_key = async |key: &str, body: &Value| {
        let request = door.request(Method::POST, "/v1/jobs", ALL).header("idempotency-key", key).json(body);
        door.send(Method::POST, "/v1/jobs", request).await
    };
    let taken = by_key("key-1", &nameless).await;
    assert_eq!((taken.status, &taken.body["id"]), (202, &json!("key-1")), "{taken:?}");
    assert_eq!(taken.body["status_url"], "/v1/jobs/key-1");
    assert_eq!(by_key("\"key-1\"", &nameless).await.status, 202, "as a structured field, and the same again");
    let mut other = nameless.clone();
    other["prompt"] = "something else".into();
    let conflict = by_key("key-1", &other).await;
    assert_eq!((conflict.status, conflict.code()), (409, "id_conflict"), "{conflict:?}");
    let derived = door.post("/v1/jobs", ALL, &nameless).await;
    assert_eq!((derived.status, &derived.body["derived_id"]), (202, &json!(true)), "{derived:?}");
    assert_eq!(derived.body["id"], door.post("/v1/jobs", ALL, &nameless).await.body["id"]);
    let hostile = door.post("/v1/jobs", ALL, &job(HOSTILE, "Fetch my last 3 unread emails")).await;
    for taken in [&taken, &derived, &hostile] {
        let path = taken.body["status_url"].as_str().unwrap();
        for token in [ALL, READER] {
            let found = door.get(path, token).await;
            let expected = json!({"id": taken.body["id"], "identifier": "user_123", "state": "queued"});
            assert_eq!((found.status, &found.body), (200, &expected), "{path}");
        }
        assert_eq!(door.get(path, FOREIGNER).await.status, 404);
        assert_eq!(door.delete(path, FOREIGNER).await.status, 404);
    }
    assert_eq!(door.get("/v1/jobs/key-1?wait=1", ALL).await.body["state"], "queued", "nobody runs it");
    for _ in 0..2 {
        let cancelled = door.delete(hostile.body["status_url"].as_str().unwrap(), ALL).await;
        assert_eq!((cancelled.status, &cancelled.body["state"]), (200, &json!("failed")), "{cancelled:?}");
        assert_eq!(cancelled.body["reply"]["data"]["error"]["code"], "cancelled");
    }
}

async fn what_was_cancelled_before_its_run_is_not_run_and_the_others_are(door: &Door) {
    assert_eq!(door.end("key-1").await["state"], "completed");
    let path = format!("/v1/jobs/{}", urlencoded(HOSTILE));
    let id = agentkit_worker::job::JobId::new(HOSTILE).unwrap();
    shortly("its message is done with", async || {
        let entries = door.journal.read(&id).await.unwrap();
        entries.last()?.contains("delivered").then_some(())
    })
    .await;
    assert_eq!(door.get(&path, ALL).await.body["reply"]["data"]["steps"], 0);
    assert_eq!(door.journal.announced(&id).await.unwrap(), None, "the note is gone with the first entry");
}

async fn a_job_ends_with_its_reply_which_is_given_again(door: &Door) {
    let mut asked = job("ends", "Fetch my last 3 unread emails");
    asked["metadata"] = json!({"order": 7});
    assert_eq!(door.post("/v1/jobs", ALL, &asked).await.status, 202);
    let ended = door.end("ends").await;
    assert_eq!((&ended["state"], &ended["identifier"]), (&json!("completed"), &json!("user_123")));
    assert!(ended["step"].as_u64() > Some(1), "{ended:#}");
    let reply = &ended["reply"];
    assert_eq!((&reply["subject"], &reply["data"]["metadata"]), (&json!("ends"), &json!({"order": 7})));
    let again = door.post("/v1/jobs", ALL, &asked).await;
    assert_eq!((again.status, &again.body), (200, reply));
    asked["metadata"] = json!({"order": 8});
    assert_eq!(door.post("/v1/jobs", ALL, &asked).await.code(), "id_conflict");
    assert_eq!(door.get("/v1/jobs/ends?wait=60", READER).await.body["reply"], *reply, "at once");
    assert_eq!(door.get("/v1/jobs/ends", FOREIGNER).await.status, 404);
    let late = door.delete("/v1/jobs/ends", ALL).await;
    assert_eq!((late.status, late.code()), (409, "ended"), "{late:?}");
}

async fn waiting(door: &Door, id: &str, reason: &str) -> Answered {
    shortly("the run waits", async || {
        let found = door.get(&format!("/v1/jobs/{id}"), ALL).await;
        (found.body["waiting"]["reason"] == reason).then_some(found)
    })
    .await
}

async fn a_waiting_job_says_what_for_and_goes_on_or_is_cancelled(door: &Door) {
    for (id, cancel) in [("approved", false), ("cancelled", true)] {
        assert_eq!(door.post("/v1/jobs", ALL, &job(id, &send_mail())).await.status, 202);
        let found = waiting(door, id, "approval").await.body;
        assert_eq!((&found["state"], &found["step"]), (&json!("waiting"), &json!(1)), "{found:#}");
        assert!(found["waiting"]["until"].is_string());
        let call = &found["waiting"]["approvals"][0];
        if cancel {
            assert_eq!(door.delete(&format!("/v1/jobs/{id}"), ALL).await.status, 200);
        } else {
            assert_eq!(door.post("/v1/jobs", ALL, &job(id, &send_mail())).await.status, 202, "it is under way");
            let decision = json!({"arguments_digest": call["arguments_digest"], "decision": "approve"});
            let path = format!("/v1/approvals/{}", call["id"].as_str().unwrap());
            assert_eq!(door.post(&path, FOREIGNER, &decision).await.status, 404);
            assert_eq!(door.post(&path, ALL, &decision).await.status, 200);
        }
        let ended = door.end(id).await;
        assert_eq!(ended["state"], if cancel { "failed" } else { "completed" }, "{ended:#}");
        assert_eq!(ended["reply"]["data"]["effects"].as_array().unwrap().len(), usize::from(!cancel), "{ended:#}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test plays a foreign client")]
async fn who_must_authorize_finds_the_link_at_the_job(door: &Door) {
    let client = reqwest::Client::new();
    let control = format!("{}/accounts", door.sandbox.control_url());
    let account = json!({"connector": "gmail", "identifier": "user_9", "status": "PENDING_AUTH"});
    assert!(client.post(control).json(&account).send().await.unwrap().status().is_success());
    let mut asked = job("unauthorized", "Fetch my last 3 unread emails");
    asked["identifier"] = "user_9".into();
    assert_eq!(door.post("/v1/jobs", ALL, &asked).await.status, 202);
    let found = waiting(door, "unauthorized", "authorization").await.body;
    assert_eq!(found["waiting"]["connections"], json!(["gmail"]));
    let link = found["waiting"]["links"][0]["link"].as_str().unwrap().to_owned();
    let seen = door.get("/v1/jobs/unauthorized", READER).await.body;
    assert_eq!(seen["waiting"]["links"], Value::Null, "who may not send jobs gets none");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let consent = client.post(link).header(form.0, form.1).body("decision=allow");
    assert_eq!(consent.send().await.unwrap().status(), 200);
    assert_eq!(door.end("unauthorized").await["state"], "completed");
}

async fn jobs_are_listed_to_whoever_may_see_them(door: &Door) {
    let ids = |answer: &Answered| -> Vec<String> {
        let rows = answer.body["jobs"].as_array().unwrap_or_else(|| panic!("{answer:?}")).iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = door.get("/v1/jobs?state=&limit=1000", READER).await;
    let (known, last) = (ids(&all), &all.body["jobs"][0]);
    assert_eq!(all.body["next_cursor"], Value::Null);
    assert_eq!(
        (&last["id"], &last["identifier"], &last["state"]),
        (&"unauthorized".into(), &"user_9".into(), &"completed".into())
    );
    let of_user = door.get("/v1/jobs?identifier=user_9&state=completed", READER).await;
    assert_eq!(ids(&of_user), ["unauthorized"]);
    assert!(known.len() > 2, "{known:?}");
    let (mut paged, mut place) = (Vec::new(), String::new());
    loop {
        let page = door.get(&format!("/v1/jobs?limit=2&cursor={place}"), READER).await;
        assert!(ids(&page).len() <= 2);
        paged.extend(ids(&page));
        match page.body["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut place),
            None => break,
        }
    }
    assert_eq!(paged, known, "each once, in the same order");
    assert_eq!(ids(&door.get("/v1/jobs", FOREIGNER).await), Vec::<String>::new(), "nobody else's");
    assert_eq!(ids(&door.get("/v1/jobs?since=2999-01-01T00:00:00Z", ALL).await), Vec::<String>::new());
    for (query, word) in [
        ("state=done", "running, waiting"),
        ("since=yesterday", "RFC 3339"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("cursor=%00", "next_cursor"),
        ("sate=completed", "sate"),
    ] {
        let refused = door.get(&format!("/v1/jobs?{query}"), ALL).await;
        assert!(
            refused.status == 400 && refused.body["error"]["message"].as_str().unwrap().contains(word),
            "{refused:?}"
        );
    }
    assert_eq!(door.get("/v1/jobs", NOTHING).await.status, 403);
    assert_eq!(door.get("/v1/jobs", "nobody's token").await.status, 401);
}

async fn dead_letters_are_seen_by_whose_they_are_and_run_again(door: &Door) {
    let letter = |id: &str, body: &Value| {
        let mut message = Message { body: body.to_string().into(), ..Message::default() };
        message.properties.message_id = Some(id.to_owned());
        message.properties.headers.insert("x-agentkit-dead-reason".into(), "poison".into());
        message
    };
    let ours = job("dead", "Fetch my last 3 unread emails");
    for (id, body) in [("dead", &ours), ("rubbish", &json!({"no": "job"}))] {
        door.publisher.publish(&Destination::Dead, letter(id, body)).await.unwrap();
    }
    let seen = shortly("both letters", async || {
        let seen = door.get("/v1/dead", ALL).await;
        (seen.body["dead"].as_array()?.len() == 2).then_some(seen)
    })
    .await;
    let first = &seen.body["dead"][0];
    assert_eq!((&first["id"], &first["reason"]), (&json!("dead"), &json!("poison")), "{seen:?}");
    assert!(!seen.body.to_string().contains("unread"), "no prompt: {seen:?}");
    assert_eq!(door.get("/v1/dead", FOREIGNER).await.body["dead"], json!([]));
    assert_eq!(door.get("/v1/dead", READER).await.status, 403);
    assert_eq!(door.get("/v1/dead", "nobody's token").await.status, 401);
    let nothing = Value::Null;
    for (token, path, status) in [
        ("nobody's token", "/v1/dead/dead/replay", 401),
        (READER, "/v1/dead/dead/replay", 403),
        (FOREIGNER, "/v1/dead/dead/replay", 404),
        (ALL, "/v1/dead/unknown/replay", 404),
    ] {
        assert_eq!(door.post(path, token, &nothing).await.status, status, "{path}");
    }
    let replayed = door.post("/v1/dead/dead/replay", ALL, &nothing).await;
    assert_eq!((replayed.status, &replayed.body["outcome"]), (200, &json!("anew")), "{replayed:?}");
    shortly("its run", async || (door.get("/v1/jobs/dead", ALL).await.status == 200).then_some(())).await;
    assert_eq!(door.end("dead").await["state"], "completed");
    assert_eq!(door.post("/v1/dead/dead/replay", ALL, &nothing).await.status, 404, "it is gone");
    assert_eq!(door.get("/v1/dead", ALL).await.body["dead"].as_array().unwrap().len(), 1);
    assert_eq!(door.post("/v1/dead/rubbish/replay", ALL, &nothing).await.body["outcome"], "not_a_job");
}

fn urlencoded(text: &str) -> String {
    agentkit_worker::internals::key::encode(text)
}
