//! Conversations that grow beyond what their model takes: old tool results are left out, and the model and the caller are told.

use std::sync::atomic::{AtomicUsize, Ordering};

use agentkit_worker::Config;
use serde_json::{Value, json};

use crate::support::chat_model::{says, tool_results};
use crate::support::embedded_worker::{EmbeddedWorker, job, with};
use crate::support::http_peer::{Answer, HttpPeer, Received};

/// A model that no table knows, which is believed to have room for 32,768 tokens.
const SMALL: &str = "house-model";
const LARGE: &str = "gpt-4o";
/// What a page of mails has, in bytes: below what a result may have.
const PAGE: usize = 14_000;
/// So many pages are read.
const PAGES: usize = 12;

/// As these models count: a token for four bytes.
fn tokens(request: &Received) -> usize {
    request.body.len() / 4
}

fn too_long() -> Answer {
    Answer::json(400, &json!({"error": {"message": "too long", "code": "context_length_exceeded"}}))
}

/// Reads page after page, each with a size that is counted, then answers.
fn reads(request: &Received) -> Answer {
    let page = tool_results(request);
    if page == PAGES {
        return says("read it all");
    }
    let arguments = json!({"max_results": 1, "query": format!("page {page}")}).to_string();
    let function = json!({"name": "gmail_fetch_mails", "arguments": arguments});
    let call = json!({"id": format!("call_{page}"), "type": "function", "function": function});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let counted = tokens(request);
    Answer::json(
        200,
        &json!({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": counted, "completion_tokens": 20, "total_tokens": counted + 20}}),
    )
}

async fn completed(peer: &HttpPeer, change: impl FnOnce(&mut Config)) -> Value {
    let worker = EmbeddedWorker::with(None, |config| {
        config.model.base_url.clone_from(&peer.url);
        change(config);
    })
    .await;
    let long = json!({"on": "execute", "kind": "big_answer", "big_answer_bytes": PAGE, "times": PAGES});
    worker.peer.fault(long).await;
    worker.completed(&with(job("read them all"), "limits", json!({"tokens": 2_000_000}))).await
}

/// The results in the last request: how many were left out, and whether the newest one is whole.
fn left_out(peer: &HttpPeer) -> (usize, bool) {
    let last = peer.requests("/chat/completions").pop().unwrap().json();
    let contents: Vec<&str> = last["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].as_str().unwrap())
        .collect();
    assert_eq!(contents.len(), PAGES, "every call has its answer");
    let is_marker =
        |text: &&&str| text.starts_with("[Left out") && text.contains("`gmail_fetch_mails`") && text.contains(" bytes");
    (contents.iter().filter(is_marker).count(), contents[PAGES - 1].len() > PAGE)
}

fn notice(data: &Value) -> bool {
    data["notices"].as_array().is_some_and(|all| all.iter().any(|notice| notice["code"] == "history_compacted"))
}

#[tokio::test]
async fn a_conversation_that_would_be_too_long_loses_its_oldest_results_and_says_so() {
    // The model is known to have room for 32,768 tokens, and takes no more.
    let peer = HttpPeer::start(|request| if tokens(request) > 32_768 { too_long() } else { reads(request) }).await;
    let data = completed(&peer, |config| SMALL.clone_into(&mut config.model.model)).await;
    let (out, newest) = left_out(&peer);
    assert!(notice(&data) && newest && (4..PAGES).contains(&out), "{out} {data:#}");
    let requests = peer.requests("/chat/completions");
    assert_eq!(requests.len(), PAGES + 1, "none was refused");
    // What was left out once stays so: between two times the conversation only grows, which the provider's cache wants.
    let shrunk = requests.windows(2).filter(|pair| pair[1].body.len() < pair[0].body.len()).count();
    assert!((1..=4).contains(&shrunk), "{shrunk} times");

    // It takes less than anybody knows of.
    let peer = HttpPeer::start(|request| if tokens(request) > 12_000 { too_long() } else { reads(request) }).await;
    let data = completed(&peer, |config| SMALL.clone_into(&mut config.model.model)).await;
    assert!(notice(&data) && left_out(&peer).0 > 6, "{data:#}");
    assert_eq!(data["usage"]["unknown"], false, "what is refused costs nothing: {data:#}");

    // Another one takes over, that has less room.
    let (asked, refused) = (AtomicUsize::new(0), std::sync::Arc::new(AtomicUsize::new(0)));
    let counted = refused.clone();
    let peer = HttpPeer::start(move |request| match request.json()["model"].as_str() {
        Some(LARGE) if asked.fetch_add(1, Ordering::Relaxed) < 10 => reads(request),
        Some(LARGE) => Answer::json(503, &json!({})),
        _ if tokens(request) > 32_768 => {
            counted.fetch_add(1, Ordering::Relaxed);
            too_long()
        }
        _ => reads(request),
    })
    .await;
    let data = completed(&peer, |config| config.model.fallback = Some(vec![SMALL.to_owned()])).await;
    assert_eq!((&data["models"][1]["model"], refused.load(Ordering::Relaxed)), (&json!(SMALL), 0), "{data:#}");
    assert!(notice(&data) && left_out(&peer).0 >= 4, "{data:#}");

    // Where there is room, nothing changes.
    let peer = HttpPeer::start(reads).await;
    let data = completed(&peer, |_| {}).await;
    assert_eq!((notice(&data), left_out(&peer)), (false, (0, true)));
}
