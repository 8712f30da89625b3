//! How a client is built.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Config, HttpError};

/// What builds a client: bounded, over HTTP/1.1 alone, and without anything that repeats or follows.
#[expect(clippy::disallowed_methods, reason = "the one place where a client is built")]
pub(super) fn builder(config: &Config, proxy: Option<reqwest::Proxy>) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("agentkit-worker/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_millis(config.connect_timeout_milliseconds))
        .pool_idle_timeout(Duration::from_millis(config.pool_idle_milliseconds))
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy();
    match proxy {
        Some(proxy) => builder.proxy(proxy),
        None => builder,
    }
}

/// The proxy at this address.
pub(super) fn proxy(address: &SecretString) -> Result<reqwest::Proxy, HttpError> {
    let proxy = reqwest::Proxy::all(address.expose_secret());
    let loopback = reqwest::NoProxy::from_string("localhost,127.0.0.0/8,::1");
    proxy
        .map(|proxy| proxy.no_proxy(loopback))
        .map_err(|_| HttpError::Invalid("the proxy's address is not `http://[user:password@]host:port`".into()))
}
