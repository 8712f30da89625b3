//! Redis over TLS, with servers that let in only whoever shows a certificate of their authority.

use agentkit_worker::internals::redis_client::{Config, RedisClient};
use agentkit_worker::internals::transport::TlsConfig;

use crate::support::certificates::Authority;
use crate::support::redis::{Redis, free_port};

/// A server that speaks TLS at a port of its own.
pub(super) struct TlsRedis {
    pub(super) authority: Authority,
    _server: Redis,
    port: u16,
}

impl TlsRedis {
    pub(super) async fn start() -> Self {
        let (authority, port) = (Authority::new(), free_port());
        let files = authority.server();
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (number, ca, certificate, key) =
            (port.to_string(), path(&authority.file), path(&files.certificate), path(&files.key));
        let options = [
            ("--tls-port", number.as_str()),
            ("--tls-ca-cert-file", &ca),
            ("--tls-cert-file", &certificate),
            ("--tls-key-file", &key),
            ("--tls-auth-clients", "yes"),
        ];
        let options: Vec<&str> = options.iter().flat_map(|(name, value)| [*name, *value]).collect();
        Self { _server: Redis::start_with(&options).await, authority, port }
    }

    pub(super) fn config(&self, host: &str, tls: TlsConfig) -> Config {
        // Handshakes take a while on a busy machine.
        let url = format!("rediss://{host}:{}", self.port).into();
        Config { url, tls, connection_timeout_milliseconds: 10_000, ..Config::default() }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    async fn refusal(&self, host: &str, tls: TlsConfig) -> String {
        let client = RedisClient::new(&self.config(host, tls)).unwrap();
        let error = client.ping().await.unwrap_err().to_string();
        assert!(error.contains(&format!("{host}:{}", self.port)), "{error}");
        error
    }
}

#[tokio::test]
async fn a_redis_that_wants_our_certificate_is_used() {
    let redis = TlsRedis::start().await;
    let client = RedisClient::new(&redis.config("localhost", redis.authority.mutual())).unwrap();
    client.ping().await.unwrap();
    assert_eq!(client.facts().await.unwrap()[0].role, "master");
}

#[tokio::test]
async fn a_redis_of_another_authority_or_name_is_refused_with_its_name_and_the_cure() {
    let redis = TlsRedis::start().await;
    let other = Authority::new();
    for tls in [TlsConfig { ca_file: Some(other.file.clone()), ..redis.authority.mutual() }, TlsConfig::default()] {
        let refusal = redis.refusal("localhost", tls).await;
        assert!(refusal.contains("not trusted here") && refusal.contains("redis.tls.ca_file"), "{refusal}");
    }
    let refusal = redis.refusal("127.0.0.1", redis.authority.mutual()).await;
    assert!(refusal.contains("have the address name the host as its certificate does"), "{refusal}");
}

#[tokio::test]
async fn a_redis_that_misses_our_certificate_or_does_not_take_it_says_so() {
    let redis = TlsRedis::start().await;
    let refusal = redis.refusal("localhost", redis.authority.trusted()).await;
    assert!(refusal.contains("it wants a client certificate: set redis.tls.certificate_file"), "{refusal}");
    let other = Authority::new();
    let foreign = TlsConfig { ca_file: Some(redis.authority.file.clone()), ..other.mutual() };
    let refusal = redis.refusal("localhost", foreign).await;
    assert!(
        refusal.contains("client certificate") && refusal.contains("compare redis.tls.certificate_file"),
        "{refusal}"
    );
}
