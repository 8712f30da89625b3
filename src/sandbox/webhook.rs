//! Signed announcements of changed accounts, in the Standard Webhooks form that Scalekit's SDKs verify.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use serde_json::json;
use sha2::Sha256;

use super::accounts::Account;
use super::options::WebhookTarget;
use crate::clock::SharedClock;

/// A delivery is tried this often, as the real one is at least once.
const TRIES: u32 = 4;

/// Pause between two tries; a receiver that is restarting is back by then.
const PAUSE: Duration = Duration::from_millis(500);

/// A receiver is expected to answer within this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An account that went from one status to another.
pub(super) struct StatusChange {
    pub(super) number: u64,
    pub(super) account: Account,
    pub(super) old_status: String,
    pub(super) at: Timestamp,
}

/// Where announcements go, and the key that signs them.
#[derive(Clone)]
pub(super) struct Sender {
    url: String,
    key: Vec<u8>,
    client: reqwest::Client,
}

impl Sender {
    /// Fails when the secret is not `whsec_` and base64.
    #[expect(clippy::disallowed_methods, reason = "the stand-in plays a foreign server and shares nothing with `http`")]
    pub(super) fn new(target: &WebhookTarget) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the webhook secret is not whsec_ and base64");
        let encoded = target.secret.strip_prefix("whsec_").ok_or_else(invalid)?;
        let key = STANDARD.decode(encoded).map_err(|_| invalid())?;
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(io::Error::other)?;
        Ok(Self { url: target.url.clone(), key, client })
    }

    /// Tells the receiver, again and again until it agrees or the tries are used up.
    pub(super) async fn deliver(&self, change: &StatusChange, clock: &SharedClock) {
        let id = format!("msg_{}", change.number);
        let body = body(change);
        for attempt in 1..=TRIES {
            let timestamp = clock.now().as_second();
            let request = self
                .client
                .post(&self.url)
                .header("content-type", "application/json")
                .header("webhook-id", &id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", self.signature(&id, timestamp, &body))
                .body(body.clone());
            match request.send().await {
                Ok(response) if response.status().is_success() => return,
                _ if attempt == TRIES => return,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn signature(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key for hmac");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

fn body(change: &StatusChange) -> String {
    let account = &change.account;
    json!({
        "spec_version": "1",
        "id": format!("evt_{}", change.number),
        "type": "connected_account.status_updated",
        "object": "ConnectedAccount",
        "occurred_at": change.at,
        "environment_id": "env_sandbox",
        "data": {
            "id": account.id, "identifier": account.identifier, "connection_id": account.connection_id,
            "connection_name": account.connector, "provider": account.provider, "authorization_type": "OAUTH",
            "status": account.status, "old_status": change.old_status,
        },
    })
    .to_string()
}
