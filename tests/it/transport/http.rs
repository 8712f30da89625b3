//! Scalekit and the model over HTTPS, behind a front that lets in only whoever shows a certificate of its authority.

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::SystemClock;
use agentkit_worker::internals::http::{Client, Config, HttpError, Method, Request};
use agentkit_worker::internals::transport::TlsConfig;
use url::Url;

use crate::support::certificates::Authority;
use crate::support::http_peer::{Answer, HttpPeer};
use crate::support::tls_front::TlsFront;

struct Peer {
    authority: Authority,
    plain: HttpPeer,
    front: TlsFront,
}

impl Peer {
    async fn start() -> Self {
        let plain = HttpPeer::start(|_| Answer::of(200, "text/plain", "hello")).await;
        let authority = Authority::new();
        let front = TlsFront::to(plain.url.strip_prefix("http://").unwrap(), &authority).await;
        Self { authority, plain, front }
    }

    async fn ask(&self, tls: &TlsConfig) -> Result<Vec<u8>, HttpError> {
        let client = Client::with_tls(&Config::default(), tls, "model.tls", Arc::new(SystemClock))?;
        let url = Url::parse(&format!("https://{}/v1", self.front.address)).unwrap();
        let request = Request::new(Method::Post, url, Duration::from_secs(30)).json(b"{}".to_vec());
        Ok(client.send(request).await?.body.to_vec())
    }

    async fn refusal(&self, tls: &TlsConfig) -> String {
        let error = self.ask(tls).await.unwrap_err();
        let HttpError::NotSent { host, reason } = error else { panic!("nothing was done, but: {error:?}") };
        assert_eq!(host, self.front.address);
        assert!(self.plain.requests("/v1").is_empty(), "what was refused has not arrived");
        reason
    }
}

#[tokio::test]
async fn a_peer_that_wants_our_certificate_answers() {
    let peer = Peer::start().await;
    assert_eq!(peer.ask(&peer.authority.mutual()).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_with_its_name_and_the_cure() {
    let peer = Peer::start().await;
    let other = Authority::new();
    for tls in [TlsConfig { ca_file: Some(other.file.clone()), ..peer.authority.mutual() }, TlsConfig::default()] {
        let refusal = peer.refusal(&tls).await;
        assert!(refusal.contains("not trusted here") && refusal.contains("model.tls.ca_file"), "{refusal}");
    }
}

#[tokio::test]
async fn a_peer_that_misses_our_certificate_or_does_not_take_it_says_so() {
    let peer = Peer::start().await;
    let refusal = peer.refusal(&peer.authority.trusted()).await;
    assert!(refusal.contains("it wants a client certificate: set model.tls.certificate_file"), "{refusal}");
    let other = Authority::new();
    let foreign = TlsConfig { ca_file: Some(peer.authority.file.clone()), ..other.mutual() };
    let refusal = peer.refusal(&foreign).await;
    assert!(
        refusal.contains("client certificate") && refusal.contains("compare model.tls.certificate_file"),
        "{refusal}"
    );
}
