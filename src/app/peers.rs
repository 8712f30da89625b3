//! Whom a worker connects to, and what an operator is told of the way there.

use std::borrow::Cow;

use tracing::warn;

use crate::config::Config;
use crate::transport::{Peer, Protection, TlsConfig};

/// A peer, what it is, and the certificates for it.
pub(crate) struct NamedPeer<'a> {
    /// For people.
    pub(crate) name: Cow<'static, str>,
    /// How its address begins where it is encrypted.
    pub(crate) scheme: &'static str,
    /// Where it is.
    pub(crate) peer: Peer,
    /// Whom it is trusted by.
    pub(crate) tls: &'a TlsConfig,
}

/// Scalekit, the models' providers, and MCP servers.
pub(crate) fn run_peers(config: &Config) -> Vec<NamedPeer<'_>> {
    fn peer(name: impl Into<Cow<'static, str>>, peer: Option<Peer>, tls: &TlsConfig) -> Option<NamedPeer<'_>> {
        Some(NamedPeer { name: name.into(), scheme: "https://", peer: peer?, tls })
    }
    let (scalekit, model) = (&config.scalekit, &config.model);
    let both = [peer("Scalekit", scalekit.peer(), &scalekit.tls), peer("the model", model.peer(), &model.tls)];
    let providers = config.providers.0.iter();
    let providers = providers.map(|(name, provider)| peer(format!("provider {name}"), provider.peer(), &provider.tls));
    let servers = config.mcp.iter();
    let servers = servers.map(|(name, server)| peer(format!("the MCP server {name}"), server.peer(), &server.tls));
    both.into_iter().chain(providers).chain(servers).flatten().collect()
}

/// What the service needs besides.
pub(crate) fn service_peers(config: &Config) -> Vec<NamedPeer<'_>> {
    let (amqp, redis) = (&config.amqp, &config.redis);
    let all = [
        ("RabbitMQ", "amqps://", amqp.peers(), &amqp.tls),
        ("RabbitMQ's management API", "https://", amqp.management_peers(), &amqp.tls),
        ("Redis", "rediss://", redis.peers(), &redis.tls),
    ];
    let named = |(name, scheme, peers, tls): (&'static str, _, Vec<Peer>, _)| {
        peers.into_iter().map(move |peer| NamedPeer { name: Cow::Borrowed(name), scheme, peer, tls })
    };
    all.into_iter().flat_map(named).collect()
}

/// One line for each that is reached over the network in plain text.
pub(crate) fn warn_of_plain(peers: &[NamedPeer<'_>]) {
    for NamedPeer { name, scheme, peer, .. } in peers.iter().filter(|named| named.peer.protection == Protection::Plain)
    {
        warn!(peer = %peer.address, "{name} is reached in plain text: whoever is on the way can read and change all of it; use {scheme}");
    }
}
