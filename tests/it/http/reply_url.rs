//! Replies that are POSTed to the address that their job names.

use std::sync::atomic::{AtomicUsize, Ordering};

use agentkit_worker::internals::queue::{Destination, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::door::{ALL, Door, SECRETS, job, send_mail};
use crate::support::http_peer::{Answer, HttpPeer, Received};
use crate::support::{eventually, shortly};

const PROMPT: &str = "Fetch my last 3 unread emails";

/// A peer that takes replies at `/taken`, at the third try at `/busy`, and at no time elsewhere.
async fn caller() -> HttpPeer {
    let tries = AtomicUsize::new(0);
    HttpPeer::start(move |request| match request.path() {
        "/taken" | "/elsewhere" => Answer::json(200, &json!({})),
        "/busy" if tries.fetch_add(1, Ordering::SeqCst) < 2 => Answer::json(503, &json!({})).header("retry-after", "1"),
        "/busy" => Answer::Endless,
        "/gone" => Answer::json(410, &json!({})),
        _ => Answer::json(302, &json!({})).header("location", "/elsewhere"),
    })
    .await
}

fn posted_to(id: &str, prompt: &str, url: &str) -> Value {
    let mut job = job(id, prompt);
    job["reply_url"] = url.into();
    job
}

fn signature(secret: &str, request: &Received) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let signed =
        [request.headers["webhook-id"].as_bytes(), b".", request.headers["webhook-timestamp"].as_bytes(), b"."];
    for part in signed {
        mac.update(part);
    }
    mac.update(&request.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

async fn metric(door: &Door, outcome: &str) -> Option<String> {
    let name = format!("agentkit_reply_posts_total{{outcome=\"{outcome}\"}}");
    let text = door.request(reqwest::Method::GET, "/metrics", ALL).send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.trim().to_owned())
}

pub(super) async fn replies_are_posted_with_a_signature_and_again_where_nobody_took_them(door: &Door) {
    let caller = caller().await;
    let url = |path: &str| format!("{}{path}", caller.url);
    assert_eq!(door.post("/v1/jobs", ALL, &posted_to("posted", &send_mail(), &url("/taken"))).await.status, 202);
    let question = eventually("the question", async || caller.requests("/taken").pop()).await;
    assert_eq!(question.json()["type"], "agentkit.job.approval_required");
    let call = &question.json()["data"]["approvals"][0];
    let decision = json!({"arguments_digest": call["arguments_digest"], "decision": "deny"});
    let approval = format!("/v1/approvals/{}", call["id"].as_str().unwrap());
    assert_eq!(door.post(&approval, ALL, &decision).await.status, 200);
    let answer = eventually("the answer", async || caller.requests("/taken").into_iter().nth(1)).await;
    assert_eq!(answer.json(), door.end("posted").await["reply"]);
    for request in [&question, &answer] {
        let header = |name: &str| request.headers[name].as_str();
        assert_eq!((request.method.as_str(), header("content-type")), ("POST", "application/cloudevents+json"));
        assert_eq!(request.json()["id"], header("webhook-id"));
        let signatures = SECRETS.split(',').map(|secret| signature(secret, request)).collect::<Vec<_>>();
        assert_eq!(header("webhook-signature"), signatures.join(" "));
    }
    assert_eq!(door.post("/v1/jobs", ALL, &posted_to("busy", PROMPT, &url("/busy"))).await.status, 202);
    let tries = eventually("the third try", async || {
        let tries = caller.requests("/busy");
        (tries.len() == 3).then_some(tries)
    })
    .await;
    assert!(tries.iter().all(|request| request.headers["webhook-id"] == tries[0].headers["webhook-id"]));
    assert_eq!(door.post("/v1/jobs", ALL, &posted_to("gone", PROMPT, &url("/gone"))).await.status, 202);
    shortly("it is noticed", async || (metric(door, "gone").await? == "1").then_some(())).await;
    assert_eq!(caller.requests("/gone").len(), 1);
    // The answer to the third try is larger than anybody reads: it was taken all the same.
    shortly("all are taken", async || (metric(door, "delivered").await? == "3").then_some(())).await;
    let left = door.common_replies().await;
    let strays = left.iter().filter(|reply| ["posted", "busy", "gone"].iter().any(|id| reply["subject"] == *id));
    assert_eq!(strays.count(), 0, "what was taken, and what nobody wants, goes to no queue");
}

pub(super) async fn what_cannot_be_posted_goes_to_a_queue_and_no_forged_message_is_posted(door: &Door) {
    let caller = caller().await;
    for refused in [
        "http://example.com/",
        "https://127.0.0.2/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://user:password@example.com/",
        "ftp://127.0.0.1/",
        "nowhere",
        "https://0x7f.2/",
    ] {
        let answer = door.post("/v1/jobs", ALL, &posted_to("refused", PROMPT, refused)).await;
        assert_eq!(answer.status, 422, "{refused}");
        assert!(answer.body["problems"][0].as_str().unwrap().starts_with("reply_url: "), "{answer:?}");
    }
    // The one is allowed and refuses; the other is found to be nobody's on the internet.
    let port = caller.url.rsplit(':').next().unwrap();
    for (id, url) in
        [("never", format!("{}/never", caller.url)), ("private", format!("https://localhost:{port}/taken"))]
    {
        assert_eq!(door.post("/v1/jobs", ALL, &posted_to(id, PROMPT, &url)).await.status, 202);
        let reply = eventually("the reply in the common queue", async || {
            door.common_replies().await.into_iter().find(|reply| reply["subject"] == id)
        })
        .await;
        assert_eq!(reply, door.end(id).await["reply"]);
    }
    assert_eq!(caller.requests("/never").len(), 3, "so many attempts");
    assert_eq!((caller.requests("/elsewhere").len(), caller.requests("/taken").len()), (0, 0));
    let mut forged = Message { body: "{\"a\": 1}".into(), ..Message::default() };
    forged.properties.message_id = Some("forged".to_owned());
    let headers = [("url", format!("{}/taken", caller.url)), ("attempts", "0".into()), ("signature", "v1,AAAA".into())];
    forged.properties.headers =
        headers.into_iter().map(|(name, value)| (format!("x-agentkit-post-{name}"), value)).collect();
    door.publisher.publish(&Destination::Jobs, forged).await.unwrap();
    shortly("it is given up", async || {
        let dead = door.get("/v1/dead", ALL).await.body;
        dead["dead"].as_array().unwrap().iter().any(|letter| letter["id"] == "forged").then_some(())
    })
    .await;
    assert_eq!(caller.requests("/taken").len(), 0);
}
