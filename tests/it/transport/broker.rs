//! RabbitMQ over TLS, with a node that lets in only whoever shows a certificate of its authority.

use agentkit_worker::internals::queue::amqp::{AmqpQueue, Config, inspect};
use agentkit_worker::internals::queue::{Consumer, Destination, Message, Publisher, QueueError};
use agentkit_worker::internals::transport::TlsConfig;

use crate::support::broker::Broker;
use crate::support::certificates::Authority;
use crate::support::soon;

/// A node with TLS, at a port of its own.
pub(super) struct TlsBroker {
    pub(super) authority: Authority,
    pub(super) broker: Broker,
    port: u16,
}

impl TlsBroker {
    pub(super) async fn start() -> Self {
        let (authority, port) = (Authority::new(), crate::support::redis::free_port());
        let files = authority.server();
        let lines = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            authority.file.display(),
            files.certificate.display(),
            files.key.display()
        );
        Self { broker: Broker::start_with(&lines).await, authority, port }
    }

    pub(super) fn config(&self, host: &str, tls: TlsConfig) -> Config {
        let url = format!("amqps://guest:guest@{host}:{}", self.port).into();
        Config { url, tls, ..self.broker.config() }
    }

    async fn refusal(&self, host: &str, tls: TlsConfig) -> String {
        let config = self.config(host, tls);
        let error = soon("a refusal", AmqpQueue::connect(config.clone())).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused(_)), "it is not tried again: {error:?}");
        let (error, found) = (error.to_string(), inspect(&config).await.unwrap_err().to_string());
        assert_eq!(error, found, "the doctor says the same");
        assert!(error.contains(&format!("{host}:{}", self.port)), "{error}");
        error
    }
}

/// A node takes long to start: it is one for all of these.
#[tokio::test]
async fn a_broker_with_tls_is_used_with_the_right_certificates_and_each_wrong_one_is_named_with_its_cure() {
    let broker = TlsBroker::start().await;
    a_job_goes_through_a_broker_that_wants_our_certificate(&broker).await;
    a_broker_of_another_authority_is_refused(&broker).await;
    a_broker_that_misses_our_certificate_or_does_not_take_it_says_so(&broker).await;
    a_port_without_tls_is_named_as_such(&broker).await;
}

async fn a_job_goes_through_a_broker_that_wants_our_certificate(broker: &TlsBroker) {
    let config = broker.config("localhost", broker.authority.mutual());
    let queue = AmqpQueue::connect(config.clone()).await.unwrap();
    let mut consumer = queue.consumer(1);
    // Larger than a record of TLS, and than the buffers on the way.
    let body = "x".repeat(1 << 20);
    let message = Message { body: body.clone().into(), ..Message::default() };
    queue.publisher().publish(&Destination::Jobs, message).await.unwrap();
    let delivery = soon("the message", consumer.next()).await.unwrap();
    assert_eq!(delivery.message.body, body.as_bytes());
    delivery.ack().await.unwrap();
    let facts = inspect(&config).await.unwrap();
    assert_eq!(facts.addresses[0].answer.as_ref().unwrap().product, "RabbitMQ");
}

async fn a_broker_of_another_authority_is_refused(broker: &TlsBroker) {
    let other = Authority::new();
    for tls in [TlsConfig { ca_file: Some(other.file.clone()), ..broker.authority.mutual() }, TlsConfig::default()] {
        let refusal = broker.refusal("localhost", tls).await;
        assert!(refusal.contains("not trusted here") && refusal.contains("amqp.tls.ca_file"), "{refusal}");
    }
    // Its certificate has this address as no name.
    let refusal = broker.refusal("127.0.0.1", broker.authority.mutual()).await;
    assert!(refusal.contains("have the address name the host as its certificate does"), "{refusal}");
}

async fn a_broker_that_misses_our_certificate_or_does_not_take_it_says_so(broker: &TlsBroker) {
    let refusal = broker.refusal("localhost", broker.authority.trusted()).await;
    assert!(refusal.contains("it wants a client certificate: set amqp.tls.certificate_file"), "{refusal}");
    let other = Authority::new();
    let foreign = TlsConfig { ca_file: Some(broker.authority.file.clone()), ..other.mutual() };
    let refusal = broker.refusal("localhost", foreign).await;
    assert!(
        refusal.contains("client certificate") && refusal.contains("compare amqp.tls.certificate_file"),
        "{refusal}"
    );
}

async fn a_port_without_tls_is_named_as_such(broker: &TlsBroker) {
    let plain = broker.broker.address();
    let url = format!("amqps://guest:guest@{plain}").into();
    let error = AmqpQueue::connect(Config { url, ..broker.config("localhost", broker.authority.mutual()) }).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains(plain) && error.contains("does not speak TLS at this port"), "{error}");
}
