//! The thread that writes: all that waits goes into the file together, and is synced once.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{error, info};

use super::file::ChainFile;
use super::{Unrecorded, Unwritten};

/// What is kept is tried again after this time at the latest.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// So many requests are written together.
const AT_ONCE: usize = 256;

/// Lines that somebody waits for.
pub(super) struct WriteRequest {
    pub(super) lines: Vec<String>,
    pub(super) unwritten: Unwritten,
    pub(super) answer: oneshot::Sender<Result<(), Unrecorded>>,
}

/// Writes what comes, until nobody is left who could send anything.
pub(super) fn write_all(mut file: ChainFile, requests: &Receiver<WriteRequest>) {
    let (mut kept, mut failed) = (Vec::new(), false);
    loop {
        let next = match kept.is_empty() {
            true => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => requests.recv_timeout(TRY_AGAIN),
        };
        let ended = matches!(next, Err(RecvTimeoutError::Disconnected));
        let batch: Vec<WriteRequest> = next.into_iter().chain(requests.try_iter()).take(AT_ONCE).collect();
        let lines: Vec<String> = kept.iter().chain(batch.iter().flat_map(|request| &request.lines)).cloned().collect();
        let written = if lines.is_empty() { Ok(()) } else { file.append(&lines) };
        match &written {
            Ok(()) if failed => info!("the audit record can be written again"),
            Err(problem) if !failed => {
                error!(%problem, "the audit record cannot be written: no call that is more than reading is made");
            }
            _ => {}
        }
        failed = written.is_err();
        if written.is_ok() {
            kept.clear();
        }
        let written = written.map_err(|problem| Unrecorded(problem.to_string()));
        for WriteRequest { lines, unwritten, answer } in batch {
            if written.is_err() && unwritten == Unwritten::Keep {
                kept.extend(lines);
            }
            // Whoever has gone makes no call.
            let _ = answer.send(written.clone());
        }
        if ended {
            return;
        }
    }
}
