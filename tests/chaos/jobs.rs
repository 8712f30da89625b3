//! The jobs of the run: what each shall do, and how it is handed over.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::{Clock, SystemClock};
use agentkit_worker::internals::queue::amqp::AmqpPublisher;
use agentkit_worker::internals::queue::{Destination, Message, Properties, Publisher};
use serde_json::{Value, json};

use crate::random::Random;
use crate::support::sandbox_peer::SandboxPeer;

/// A job that the broker has accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) identifier: String,
    /// Of the mails that it shall send, each unlike any other.
    pub(crate) subjects: Vec<String>,
}

/// Hands jobs over.
pub(crate) struct Sender {
    pub(crate) publisher: Arc<AmqpPublisher>,
    pub(crate) peer: Arc<SandboxPeer>,
    /// Where the replies shall go.
    pub(crate) reply_to: String,
}

impl Sender {
    /// The job with this number, of a kind that chance decides.
    pub(crate) async fn send_any(&self, number: u64, random: &mut Random) -> Accepted {
        let read = "Call gmail_fetch_mails with {\"max_results\": 2}".to_owned();
        let subject = |index: u32| format!("job {number}, mail {index}");
        // Worlds are small if many users share the work.
        let identifier = format!("user-{}", number / 10);
        match random.below(100) {
            0..35 => self.send(number, identifier, &[read], &[]).await,
            35..70 => self.send(number, identifier, &[], &[subject(1)]).await,
            70..85 => self.send(number, identifier, &[read], &[subject(1), subject(2)]).await,
            _ => {
                let identifier = format!("newcomer-{number}");
                self.peer.set_account("gmail", &identifier, "PENDING_AUTH").await;
                let accepted = self.send(number, identifier.clone(), &[read], &[subject(1)]).await;
                self.authorize_after(identifier, Duration::from_millis(1000 + random.below(6000)));
                accepted
            }
        }
    }

    /// A job that its workers will die with.
    pub(crate) async fn send_poison(&self, number: usize) -> Accepted {
        let id = format!("poison-{number}");
        let body = json!({"id": id, "identifier": id, "connections": ["gmail"], "prompt": "hello"});
        self.publish(&id, &body).await;
        Accepted { identifier: id.clone(), id, subjects: Vec::new() }
    }

    /// A job that only reads.
    pub(crate) async fn send_simple(&self, number: u64) -> Accepted {
        let read = "Call gmail_fetch_mails with {\"max_results\": 1}".to_owned();
        self.send(number, format!("fresh-{number}"), &[read], &[]).await
    }

    async fn send(&self, number: u64, identifier: String, reads: &[String], subjects: &[String]) -> Accepted {
        let mails = subjects.iter().map(|subject| {
            let mail = json!({"to": "bob@example.com", "subject": subject, "body": "hello"});
            format!("Call gmail_send_message with {mail}")
        });
        let prompt = reads.iter().cloned().chain(mails).collect::<Vec<_>>().join(", then ");
        let id = format!("chaos-{number}");
        let body = json!({"id": id, "identifier": identifier, "connections": ["gmail"], "prompt": prompt});
        self.publish(&id, &body).await;
        Accepted { id, identifier, subjects: subjects.to_vec() }
    }

    /// Publishes until the broker confirms, as any careful caller does.
    async fn publish(&self, id: &str, body: &Value) {
        let properties = Properties {
            message_id: Some(id.to_owned()),
            reply_to: Some(self.reply_to.clone()),
            timestamp: Some(SystemClock.now()),
            ..Properties::default()
        };
        let message = Message { body: body.to_string().into(), properties };
        while self.publisher.publish(&Destination::Jobs, message.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn authorize_after(&self, identifier: String, wait: Duration) {
        let peer = Arc::clone(&self.peer);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            peer.activate("gmail", &identifier).await;
        });
    }
}
