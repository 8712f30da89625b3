//! Stopping in two steps: softly first (take nothing new, end the step under way), hard when the grace has run out or a
//! second signal comes. Whatever was not finished goes back to the queue.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// The word to stop, and everybody who has to hear it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
}

/// How the end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every task ended by itself.
    InOrder,
    /// The grace ran out or a second signal came; messages not settled come again by themselves.
    CutOff,
}

impl Shutdown {
    /// Nobody has said stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process shall stop.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// All tasks that must end before the process does.
    pub fn tracker(&self) -> TaskTracker {
        self.tracker.clone()
    }

    /// Says stop; the second time without any patience.
    pub fn stop(&self) {
        if self.soft.is_cancelled() {
            self.hard.cancel();
        }
        self.soft.cancel();
    }

    /// Says stop at SIGTERM or SIGINT, each signal once.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        // Not tracked: it ends with the process, and nothing depends on it.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => info!("SIGTERM: the worker stops"),
                    _ = interrupt.recv() => info!("SIGINT: the worker stops"),
                }
                shutdown.stop();
            }
        });
        Ok(())
    }

    /// Waits for the word to stop, then for all tasks, `grace` long at most.
    pub async fn wait(&self, grace: Duration) -> Ended {
        self.soft.cancelled().await;
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => Ended::InOrder,
            () = tokio::time::sleep(grace) => {
                warn!(tasks = self.tracker.len(), "the grace has run out; unfinished jobs come again");
                Ended::CutOff
            }
            () = self.hard.cancelled() => {
                warn!(tasks = self.tracker.len(), "second signal; unfinished jobs come again");
                Ended::CutOff
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_that_end_by_themselves_are_waited_for() {
        let shutdown = Shutdown::new();
        shutdown.tracker().spawn(tokio::time::sleep(Duration::from_secs(5)));
        shutdown.stop();
        assert_eq!(shutdown.wait(Duration::from_secs(10)).await, Ended::InOrder);
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_and_a_second_word_cut_off() {
        let shutdown = Shutdown::new();
        shutdown.tracker().spawn(std::future::pending::<()>());
        shutdown.stop();
        assert_eq!(shutdown.wait(Duration::from_secs(10)).await, Ended::CutOff);
        shutdown.stop();
        assert_eq!(shutdown.wait(Duration::MAX).await, Ended::CutOff);
    }
}
