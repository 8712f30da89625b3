//! The program itself with TLS on every way.

use std::path::Path;

use agentkit_worker::internals::transport::TlsConfig;

use super::broker::TlsBroker;
use super::redis::TlsRedis;
use crate::support::certificates::Authority;
use crate::support::program::Program;
use crate::support::sandbox_peer::SandboxPeer;
use crate::support::tls_front::TlsFront;

fn with(program: Program, section: &str, tls: &TlsConfig) -> Program {
    let path = |path: &Option<std::path::PathBuf>| path.as_deref().and_then(Path::to_str).unwrap().to_owned();
    let files =
        [("CA", path(&tls.ca_file)), ("CERTIFICATE", path(&tls.certificate_file)), ("KEY", path(&tls.key_file))];
    files.iter().fold(program, |program, (key, file)| {
        program.set(&format!("AGENTKIT_WORKER__{section}__TLS__{key}_FILE"), file)
    })
}

#[tokio::test]
async fn a_job_is_answered_with_tls_and_our_certificates_on_every_way_and_the_doctor_says_so() {
    let (broker, redis, authority) = (TlsBroker::start().await, TlsRedis::start().await, Authority::new());
    let peer = SandboxPeer::with_active_accounts_in_real_time().await;
    let front = TlsFront::to(peer.sandbox.scalekit_url().strip_prefix("http://").unwrap(), &authority).await;
    let amqp = broker.config("localhost", broker.authority.mutual());
    let program = Program::of_service(&peer.sandbox, &amqp, &format!("rediss://localhost:{}", redis.port()))
        .set("SCALEKIT_ENV_URL", &format!("https://{}", front.address))
        .set("OPENAI_BASE_URL", &format!("https://{}/v1", front.address))
        .set("AGENTKIT_WORKER__REDIS__CONNECTION_TIMEOUT_MILLISECONDS", "10000");
    let program = with(program, "AMQP", &amqp.tls);
    let program = with(program, "REDIS", &redis.authority.mutual());
    let (front_tls, worker) = (authority.mutual(), "the way to");
    let program = with(with(program, "SCALEKIT", &front_tls), "MODEL", &front_tls);

    let doctor = program.run(&["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "{}", doctor.all());
    for name in ["RabbitMQ", "Redis", "Scalekit", "the model"] {
        let line = doctor.stdout.lines().find(|line| line.starts_with(&format!("ok      {worker} {name} ("))).unwrap();
        assert!(line.ends_with("encrypted, trusting tls.ca_file alone, with a client certificate"), "{line}");
    }
    let worker = program.worker().await;
    let job =
        ["enqueue", "Fetch my last 3 unread emails", "--identifier", "user_123", "--connection", "gmail", "--wait"];
    let answer = program.run(&job).await;
    assert_eq!(answer.code, Some(0), "{}", answer.all());
    let (_, log) = worker.stop().await;
    assert!(!log.iter().any(|line| line.contains("plain text")), "{log:#?}");

    let broken = program.set("AGENTKIT_WORKER__REDIS__TLS__KEY_FILE", "/does/not/exist");
    let refused = broken.run(&["worker"]).await;
    assert_eq!(refused.code, Some(64), "{}", refused.all());
    assert!(refused.stderr.contains("redis.tls.key_file: /does/not/exist: No such file"), "{}", refused.all());
}
