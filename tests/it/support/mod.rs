//! What several tests need.

pub(crate) mod broker;
pub(crate) mod broker_cluster;
mod broker_node;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod chat_model;
pub(crate) mod cluster_load;
pub(crate) mod collector;
pub(crate) mod embedded_worker;
pub(crate) mod fused_worker;
pub(crate) mod http_peer;
pub(crate) mod least_rights;
pub(crate) mod mcp_peer;
pub(crate) mod process_usage;
pub(crate) mod program;
pub(crate) mod proxied_service;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod redis_cluster;
pub(crate) mod redis_journal_worker;
pub(crate) mod redis_sentinels;
pub(crate) mod replica;
pub(crate) mod sandbox_peer;
pub(crate) mod schedulers;
pub(crate) mod scripted_model;
pub(crate) mod still_clock_worker;
pub(crate) mod tls_front;
mod used_queues;
pub(crate) mod webhooked_service;
pub(crate) mod webhooks;

use std::time::Duration;

use agentkit_worker::{Config, Sources};

/// Longest time that anything in a test may take; on a busy machine a broker needs half a minute to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Longest time for what no broker has to start for.
const SHORT_PATIENCE: Duration = Duration::from_secs(30);

/// A name nobody else has.
#[expect(clippy::disallowed_methods, reason = "tests that share a server must not meet")]
pub(crate) fn unique(stem: &str) -> String {
    format!("{stem}-{}", uuid::Uuid::new_v4().simple())
}

/// Where the test shall find a server of its own kind, from the environment.
#[expect(clippy::disallowed_methods, reason = "the only setting of the tests")]
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

/// Asks again and again until the answer is there.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    soon(what, answered(ask)).await
}

/// The same, of what should take a moment only: fails after half a minute.
pub(crate) async fn shortly<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    let answer = tokio::time::timeout(SHORT_PATIENCE, answered(ask)).await;
    answer.unwrap_or_else(|_| panic!("{what} took longer than {SHORT_PATIENCE:?}"))
}

async fn answered<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The configuration of a file with these lines.
pub(crate) fn configured(lines: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    std::fs::write(&file, lines).unwrap();
    Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap()
}
