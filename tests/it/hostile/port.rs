//! The HTTP port, which whoever can reach it can open connections to: without a secret nothing of it is kept busy for long.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::broker::Broker;
use crate::support::program::WorkerProcess;
use crate::support::proxied_service::ProxiedService;
use crate::support::sandbox_peer::plain_client;
use crate::support::scripted_model::ScriptedModel;
use crate::support::{eventually, soon};

async fn said(worker: &WorkerProcess, words: &str) -> TcpStream {
    let mut stream = TcpStream::connect(worker.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(words.as_bytes()).await.unwrap();
    stream
}

/// What comes until the other side closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end, too.
    let _ = soon("the end of a connection", stream.read_to_end(&mut all)).await;
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn connections_that_say_half_of_something_or_nothing_are_closed() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([]).await;
    let worker = service.worker(&model, &[("HTTP__TIMEOUT_SECONDS", "1")]).await;
    let mut half = Vec::new();
    for _ in 0..300 {
        half.push(said(&worker, "GET /livez HTTP/1.1\r\nhost: x\r\nx-half").await);
    }
    let nothing = said(&worker, "").await;
    let idle = said(&worker, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let body = said(&worker, "POST /webhooks/scalekit HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf").await;
    assert_eq!(worker.get("/livez").await.0, 200, "the others are served meanwhile");
    for stream in half {
        rest(stream).await;
    }
    rest(nothing).await;
    let answered = rest(idle).await;
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    let refused = rest(body).await;
    assert!(refused.starts_with("HTTP/1.1 408 "), "{refused}");
    let far = format!("/v1/approvals/{}", "x".repeat(60_000));
    for target in [
        "/approvals/%00",
        "/approvals/..%2f..%2fetc%2fpasswd?t=x",
        "/approvals/ap_%F0%28?t=%zz",
        "/approvals/ap_AA.x?t=&t=%",
        "/approvals/ap_YmlsbGluZwBh.x?t=x",
        "/v1/approvals/%2e%2e",
        "//livez",
        "/livez/",
        "/livez%00",
        "*",
        "livez",
        "/\u{7f}é",
        "",
        &far,
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let request =
                format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let answer = rest(said(&worker, &request).await).await;
            let is_refusal = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
            assert!(is_refusal, "{method} {target:.100}: {answer}");
        }
    }
    let long = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    let refused = rest(said(&worker, &long).await).await;
    assert!(!refused.starts_with("HTTP/1.1 200 "), "{refused}");
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn a_connection_too_many_is_closed_as_it_comes() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([]).await;
    let settings = [("HTTP__TIMEOUT_SECONDS", "3600"), ("HTTP__MAX_CONNECTIONS", "3")];
    let worker = service.worker(&model, &settings).await;
    let held = eventually("all places are taken", async || {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(said(&worker, "GET /livez HTTP/1.1\r\n").await);
        }
        (worker.get("/livez").await.0 == 0).then_some(held)
    })
    .await;
    assert!(rest(said(&worker, "").await).await.is_empty());
    drop(held);
    worker.page("/livez", 200).await;
    worker.stop().await;
    model.finish();
}

#[tokio::test]
async fn what_comes_from_outside_can_have_an_address_of_their_own_and_no_answer_is_a_page_for_others() {
    let service = ProxiedService::new(Broker::shared().await).await;
    let model = ScriptedModel::start([]).await;
    let worker = service.worker(&model, &[("HTTP__PUBLIC_BIND", "127.0.0.1:0")]).await;
    let line: Value = serde_json::from_str(&worker.running.line("HTTP: /webhooks/scalekit, /approvals").await).unwrap();
    let webhooks = format!("http://{}", line["address"].as_str().unwrap());
    let client = plain_client();
    for (url, expected) in [(&worker.url, 404), (&webhooks, 503)] {
        let answer = client.post(format!("{url}/webhooks/scalekit")).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{url}");
    }
    for path in ["/metrics", "/livez", "/readyz", "/v1/approvals/x"] {
        assert_eq!(client.get(format!("{webhooks}{path}")).send().await.unwrap().status(), 404, "{path}");
    }
    for path in ["/metrics", "/nothing"] {
        let answer = client.get(format!("{}{path}", worker.url)).send().await.unwrap();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!((header("x-content-type-options"), header("cache-control")), ("nosniff", "no-store"), "{path}");
        assert!(header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
    worker.stop().await;
    model.finish();
}
