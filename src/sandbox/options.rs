//! How the stand-ins are set up.

use std::fmt;
use std::time::Duration;

use crate::clock::SharedClock;

/// How a [`Sandbox`](super::Sandbox) is set up.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Where changes of an account's status are announced; nowhere if absent.
    pub webhook: Option<WebhookTarget>,
    /// Status of an account that was never seen. `None`: it does not exist (`/details` answers 404) until a magic link or
    /// a create call makes it `PENDING_AUTH`. `Some("ACTIVE")` suits callers who want no authorization at all.
    pub initial_status: Option<String>,
    /// Every magic link is consented to by itself after this long; `None` waits for a click on its page.
    pub consent_after: Option<Duration>,
    /// How long a magic link can be used.
    pub link_lifetime: Duration,
    /// How long an access token is good for.
    pub token_lifetime: Duration,
    /// The largest page of tools ever given; larger wishes are cut down silently.
    pub page_size_cap: usize,
    /// The time that tokens, links and the dates in the world follow.
    pub clock: SharedClock,
}

impl SandboxOptions {
    /// Any port, no webhook, unknown accounts, consent by hand, links for ten minutes, tokens for a day, pages of 100.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            port: 0,
            webhook: None,
            initial_status: None,
            consent_after: None,
            link_lifetime: Duration::from_mins(10),
            token_lifetime: Duration::from_secs(86_399),
            page_size_cap: 100,
            clock,
        }
    }
}

impl fmt::Debug for SandboxOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SandboxOptions")
            .field("port", &self.port)
            .field("webhook", &self.webhook)
            .field("initial_status", &self.initial_status)
            .field("consent_after", &self.consent_after)
            .finish_non_exhaustive()
    }
}

/// A receiver of signed events.
#[derive(Clone)]
pub struct WebhookTarget {
    /// Where to post.
    pub url: String,
    /// The signing secret: `whsec_` and base64.
    pub secret: String,
}

impl fmt::Debug for WebhookTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WebhookTarget").field("url", &self.url).finish_non_exhaustive()
    }
}
