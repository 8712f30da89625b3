//! Webhooks as Scalekit sends them, genuine and forged.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use serde_json::json;

use super::sandbox_peer::plain_client;
use super::unique;
use super::webhooked_service::WebhookedWorker;

/// The key of the tests' webhooks; `whsec_` and this in base64 is the secret.
pub(crate) const KEY: &[u8] = b"the key of the tests' webhooks";

pub(crate) fn secret() -> String {
    format!("whsec_{}", STANDARD.encode(KEY))
}

/// The headers of a webhook, made without a line of the product.
pub(crate) fn signed(id: &str, at: Timestamp, key: &[u8], body: &str) -> [(&'static str, String); 3] {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(format!("{id}.{}.{body}", at.as_second()).as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    [("webhook-id", id.to_owned()), ("webhook-timestamp", at.as_second().to_string()), ("webhook-signature", signature)]
}

#[expect(clippy::disallowed_methods, reason = "a foreign sender has a clock of its own")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Says that an account is active now.
pub(crate) fn event(identifier: &str, connection: Option<&str>) -> String {
    let mut event = json!({
        "spec_version": "1", "id": "evt_1", "type": "connected_account.status_updated", "object": "ConnectedAccount",
        "occurred_at": now(), "environment_id": "env_1",
        "data": {"id": "ca_1", "identifier": identifier, "provider": "GMAIL", "status": "ACTIVE"},
    });
    event["data"]["connection_name"] = connection.into();
    event.to_string()
}

/// Sends a webhook to a worker; gives the status of the answer.
pub(crate) async fn send(address: SocketAddr, headers: &[(&str, String)], body: impl Into<reqwest::Body>) -> u16 {
    let mut request = plain_client().post(format!("http://{address}/webhooks/scalekit")).body(body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.send().await.unwrap().status().as_u16()
}

/// A genuine webhook.
pub(crate) async fn tell(worker: &WebhookedWorker, body: &str) -> u16 {
    send(worker.address, &signed(&unique("msg"), now(), KEY, body), body.to_owned()).await
}
