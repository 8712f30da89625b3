//! `worker`: the service.

use std::process::ExitCode;

use tracing::info;

use super::{CommandError, Context};
use crate::app::{App, Backends};
use crate::queue::QueueError;
use crate::shutdown::{Ended, Shutdown};

/// What `worker --help` shows.
pub const EXAMPLES: &str = "Examples:
  agentkit-worker worker
  agentkit-worker --config /etc/agentkit-worker.toml --log json worker

Needs RabbitMQ (AMQP_URL), Redis (REDIS_URL), Scalekit and a model; `agentkit-worker doctor` checks them.";

/// Consumes jobs until SIGTERM or SIGINT.
pub async fn worker(context: Context) -> Result<ExitCode, CommandError> {
    context.demand(context.config.service_problems())?;
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| CommandError::Other(error.into()))?;
    let backends = Backends::service(&context.config).await.map_err(refused)?;
    let app = App::build(context.config, backends, context.clock, shutdown)?;
    app.serve_http().await?;
    let ended = app.run().await;
    info!(?ended, "worker ended");
    Ok(if ended == Ended::InOrder { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn refused(error: anyhow::Error) -> CommandError {
    match error.downcast::<QueueError>() {
        Ok(error) => error.into(),
        Err(error) => CommandError::Other(error),
    }
}
