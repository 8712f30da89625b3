//! Deletes the queues of a test that is over: a node that keeps those of five hundred tests spends a tenth of a processor on
//! them, and most of the memory that it may have; then it takes nothing more from anybody.

use std::cell::RefCell;
use std::sync::OnceLock;

use agentkit_worker::internals::queue::amqp::{QueueNames, Tier};
use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The queues that begin with a prefix, at a broker.
#[derive(Debug)]
struct Used {
    url: String,
    prefix: String,
}

thread_local! {
    static USED: RefCell<UsedByThread> = RefCell::default();
}

/// What the test of this thread has used: a test has a thread of its own.
#[derive(Debug, Default)]
struct UsedByThread(Vec<Used>);

impl Drop for UsedByThread {
    fn drop(&mut self) {
        for used in self.0.drain(..) {
            let _ = deleter().send(used);
        }
    }
}

/// Remembers that the test of this thread uses queues that begin with `prefix`.
pub(super) fn remember(url: &str, prefix: &str) {
    let used = Used { url: url.to_owned(), prefix: prefix.to_owned() };
    USED.with_borrow_mut(|thread| thread.0.push(used));
}

fn deleter() -> &'static UnboundedSender<Used> {
    static DELETER: OnceLock<UnboundedSender<Used>> = OnceLock::new();
    DELETER.get_or_init(|| {
        let (sender, receiver) = unbounded_channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(delete(receiver));
        });
        sender
    })
}

/// One connection is kept. What cannot be deleted stays, as all of it would otherwise.
async fn delete(mut receiver: UnboundedReceiver<Used>) {
    let mut kept: Option<(String, Connection)> = None;
    while let Some(Used { url, prefix }) = receiver.recv().await {
        if kept.as_ref().is_none_or(|(known, connection)| *known != url || !connection.status().connected()) {
            kept = Connection::connect(&url, ConnectionProperties::default()).await.ok().map(|opened| (url, opened));
        }
        let Some((_, connection)) = &kept else { continue };
        let Ok(channel) = connection.create_channel().await else { continue };
        let names = QueueNames::new(&prefix);
        let waits = Tier::ALL.into_iter().map(|tier| names.wait(tier));
        let others = [names.jobs(), names.urgent(), names.decisions(), names.dead(), names.replies()];
        for name in others.into_iter().chain(waits) {
            if channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.is_err() {
                break;
            }
        }
        let _ = channel.close(200, "deleted".into()).await;
    }
}
