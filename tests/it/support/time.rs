//! Waiting for something to become true, never for a while.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longest wait for anything; generous, as test machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is there; panics with `what` after 30 seconds.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
