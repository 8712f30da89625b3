//! Stopping in two steps: softly first (take nothing new, end the step under way), hard when the grace has run out or a
//! second signal comes. Whatever was not finished goes back to the queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// The word to stop, and everybody who has to hear it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    crashed: Arc<AtomicBool>,
}

/// How the end came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every task ended by itself.
    InOrder,
    /// The grace ran out or a second signal came; messages not settled come again by themselves.
    CutOff,
    /// A task that the process cannot do without had crashed; all others ended by themselves.
    Crashed,
}

impl Ended {
    /// In words, for log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InOrder => "in order",
            Self::CutOff => "cut off",
            Self::Crashed => "after a crash",
        }
    }
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

    /// Starts a task that must go on until the process stops, and end then. Should it end before, or panic, the process
    /// stops in good order: nobody would notice otherwise that a part of it is missing.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.clone().supervise(name, task));
    }

    /// The same for a task that nothing but the stop ends.
    pub fn spawn_until_stop(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.soft.clone();
        self.spawn(name, async move {
            tokio::select! { () = task => {}, () = stop.cancelled() => {} }
        });
    }

    /// The same for a task that goes on up to the end of the process and is not waited for.
    pub fn spawn_detached(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.clone().supervise(name, task));
    }

    async fn supervise(self, name: &'static str, task: impl Future<Output = ()> + Send) {
        let ended = AssertUnwindSafe(task).catch_unwind().await;
        if ended.is_err() || !self.soft.is_cancelled() {
            error!(task = name, panicked = ended.is_err(), "a task that is always needed has ended: the process stops");
            self.crashed.store(true, Ordering::Relaxed);
            self.soft.cancel();
        }
    }

    /// Says stop at SIGTERM or SIGINT, each signal once.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        self.spawn_detached("signals", async move {
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
            () = self.tracker.wait() => {
                if self.crashed.load(Ordering::Relaxed) { Ended::Crashed } else { Ended::InOrder }
            }
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
    async fn a_task_that_crashes_or_ends_too_early_stops_the_process_in_good_order() {
        for crash in [true, false] {
            let shutdown = Shutdown::new();
            let stop = shutdown.soft();
            shutdown.spawn("obedient", async move { stop.cancelled().await });
            shutdown.spawn("faulty", async move { assert!(!crash, "a bug") });
            assert_eq!(shutdown.wait(Duration::from_secs(10)).await, Ended::Crashed, "{crash}");
        }
        let shutdown = Shutdown::new();
        shutdown.spawn_detached("faulty", async { panic!("a bug") });
        assert_eq!(shutdown.wait(Duration::from_secs(10)).await, Ended::Crashed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_when_told_to_is_no_crash() {
        let shutdown = Shutdown::new();
        let stop = shutdown.soft();
        shutdown.spawn("obedient", async move { stop.cancelled().await });
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
