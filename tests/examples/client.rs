//! Sends a job to a worker through RabbitMQ and prints the answer.
//!
//! ```sh
//! AMQP_URL=amqp://guest:guest@127.0.0.1:5672 cargo run --example client -- "Fetch my last 3 unread emails"
//! ```

use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::{Client, Config, Job, Reply, ReplyEvent, Sources, SystemClock};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `AMQP_URL`, and what else the worker's configuration says of the broker.
    let sources = Sources::of_process(None)?;
    let config = Config::load(&sources)?;
    let prompt = std::env::args().nth(1);
    let job: Job = serde_json::from_value(serde_json::json!({
        "id": new_id(), // a job with this id runs once, however often it is sent
        "identifier": sources.variable("USER_IDENTIFIER").unwrap_or("user_123"),
        "connections": [sources.variable("CONNECTION_NAME").unwrap_or("gmail")],
        "prompt": prompt.unwrap_or_else(|| "Fetch my last 5 unread emails and summarize them.".to_owned()),
    }))?;

    let client = Client::connect(config.amqp, Arc::new(SystemClock)).await?;
    // Hears of every reply; the last one is returned.
    let show_links = |reply: &Reply| {
        if let ReplyEvent::AuthorizationRequired(asked) = &reply.event {
            for entry in &asked.authorizations {
                eprintln!("[{}] {}\n{}", entry.connection, entry.hint, entry.link.as_deref().unwrap_or_default());
            }
        }
    };
    let reply = client.request(&job, Duration::from_secs(600), show_links).await?;
    match reply.event {
        ReplyEvent::Completed(completed) => println!("{}", completed.text),
        ReplyEvent::Failed(failed) => {
            let error = failed.error;
            anyhow::bail!("{}: {}\nwhat to do: {}", error.code.as_str(), error.message, error.hint)
        }
        _ => anyhow::bail!("the user has not authorized the connection"),
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a caller's ids are random")]
fn new_id() -> String {
    format!("rust-{}", uuid::Uuid::new_v4())
}
