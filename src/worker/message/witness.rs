//! The broker as the witness of what a run may have changed: before a call that is more than reading leaves, the message
//! that stands for the run says so, and how long the journal then is. A journal that is shorter has lost its end.
//!
//! The attempt asks; whoever holds the delivery answers, once the broker has confirmed the new message and the old one is
//! gone.

use tokio::sync::{mpsc, oneshot};

use super::wake_up::WitnessedCall;
use crate::queue::QueueError;

/// What the broker shall know.
#[derive(Debug)]
pub(crate) struct Testimony {
    /// How many entries the journal has, the start of the call among them.
    pub(crate) entries: u64,
    /// Number of the last wake-up that the journal knows.
    pub(crate) generation: u32,
    /// The call that is about to leave.
    pub(crate) call: WitnessedCall,
    answer: oneshot::Sender<Result<u32, QueueError>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Witness(mpsc::Sender<Testimony>);

#[derive(Debug)]
pub(crate) struct Testimonies(mpsc::Receiver<Testimony>);

/// The two ends.
pub(crate) fn witness() -> (Witness, Testimonies) {
    let (sender, receiver) = mpsc::channel(1);
    (Witness(sender), Testimonies(receiver))
}

impl Witness {
    /// Returns the generation of the wake-up that stands for the run from now on, once nothing else does.
    pub(crate) async fn testify(&self, entries: u64, generation: u32, call: WitnessedCall) -> Result<u32, QueueError> {
        let gone = || QueueError::Unavailable("the delivery is not held any more".to_owned());
        let (answer, answered) = oneshot::channel();
        self.0.send(Testimony { entries, generation, call, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Testimonies {
    /// The next one; never, once nobody can ask any more.
    pub(crate) async fn next(&mut self) -> Testimony {
        match self.0.recv().await {
            Some(testimony) => testimony,
            None => std::future::pending().await,
        }
    }
}

impl Testimony {
    /// Lets the call leave, or not.
    pub(crate) fn answer(self, result: Result<u32, QueueError>) {
        // An attempt that is gone makes no call.
        let _ = self.answer.send(result);
    }
}
