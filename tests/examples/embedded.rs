//! Runs a job in this process and prints the answer: no RabbitMQ, no Redis, and the built-in sandbox in place of Scalekit
//! and the model.
//!
//! ```sh
//! cargo run --example embedded -- "Fetch my last 3 unread emails"
//! ```

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::{Config, Embedded, Job, ReplyEvent, Sandbox, SandboxOptions, Sources, SystemClock};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let prompt = std::env::args().nth(1);
    let job: Job = serde_json::from_value(serde_json::json!({
        "identifier": "user_123",
        "connections": ["gmail"],
        "prompt": prompt.unwrap_or_else(|| "Fetch my last 5 unread emails and summarize them.".to_owned()),
    }))?;

    // Here the user consents a second after the link was made.
    let consent_after = Some(Duration::from_secs(1));
    let sandbox = Sandbox::start(SandboxOptions { consent_after, ..SandboxOptions::new(clock.clone()) }).await?;
    // With Scalekit and a model of your own `Config::load(&Sources::of_process(None)?)?` is all: it reads the environment.
    let mut config = Config::load(&Sources::default())?;
    sandbox.scalekit_url().clone_into(&mut config.scalekit.environment_url);
    sandbox.client_id().clone_into(&mut config.scalekit.client_id);
    config.scalekit.client_secret = sandbox.client_secret().into();
    config.model.base_url = sandbox.model_url();
    config.model.api_key = sandbox.api_key().into();
    // Somebody waits for the answer: look often whether the user has consented.
    config.authorization.poll_seconds = 1;

    let worker = Embedded::start(config, clock)?;
    let mut replies = worker.submit(&job).await?;
    while let Some(reply) = replies.next().await {
        let last = reply.event.is_terminal();
        match reply.event {
            ReplyEvent::Completed(completed) => println!("{}", completed.text),
            ReplyEvent::Failed(failed) => {
                let error = failed.error;
                anyhow::bail!("{}: {}\nwhat to do: {}", error.code.as_str(), error.message, error.hint)
            }
            ReplyEvent::AuthorizationRequired(asked) => {
                for entry in asked.authorizations {
                    eprintln!("[{}] {}\n{}", entry.connection, entry.hint, entry.link.unwrap_or_default());
                }
            }
            // A person decides: `worker.decide(…)`.
            ReplyEvent::ApprovalRequired(event) => println!("{} call(s) wait for approval", event.approvals.len()),
            ReplyEvent::DecisionRefused(_) | ReplyEvent::EffectSettled(_) | ReplyEvent::Progress(_) => {}
        }
        if last {
            break;
        }
    }
    worker.stop().await;
    sandbox.stop().await;
    Ok(())
}
