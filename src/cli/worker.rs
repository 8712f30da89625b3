//! `worker`: the service.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::{CommandError, Context};
use crate::app::{App, Backends};
use crate::queue::QueueError;
use crate::schedule::Digests;
use crate::shutdown::{Ended, Shutdown};

/// What `worker --help` shows.
pub(crate) const EXAMPLES: &str = "Examples:
  agentkit-worker worker
  agentkit-worker --config /etc/agentkit-worker.toml --log json worker

Needs RabbitMQ (AMQP_URL), Redis (REDIS_URL), Scalekit and a model; `agentkit-worker doctor` checks them.";

/// Consumes jobs until SIGTERM or SIGINT.
pub(crate) async fn worker(context: Context) -> Result<ExitCode, CommandError> {
    Context::demand(context.config.service_problems())?;
    let digests = match context.config.digests.enabled {
        true => Some(Arc::new(Digests::of_directory(context.config.digests.dir.clone())?)),
        false => None,
    };
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| CommandError::Other(error.into()))?;
    reload_on_signal(&shutdown, digests.clone()).map_err(|error| CommandError::Other(error.into()))?;
    let stop = shutdown.soft();
    let backends = tokio::select! {
        backends = Backends::service(&context.config) => backends.map_err(refused)?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let mut app = App::build(context.config, backends, context.clock, shutdown)?;
    if let Some(digests) = digests {
        app = app.with_digests(digests);
    }
    app.serve_http().await?;
    let ended = app.run().await;
    info!(?ended, "worker ended");
    Ok(if ended == Ended::InOrder { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the digests again at each SIGHUP; a bad file keeps the old set. Without digests the signal does nothing.
fn reload_on_signal(shutdown: &Shutdown, digests: Option<Arc<Digests>>) -> std::io::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    shutdown.spawn_detached("SIGHUP", async move {
        while hang_up.recv().await.is_some() {
            match digests.as_deref().map(Digests::reload) {
                Some(Ok(count)) => info!(digests = count, "SIGHUP: the digests are read again"),
                Some(Err(bad)) => error!(%bad, "SIGHUP: the old digests stay"),
                None => info!("SIGHUP: this worker fires no digests"),
            }
        }
    });
    Ok(())
}

fn refused(error: anyhow::Error) -> CommandError {
    match error.downcast::<QueueError>() {
        Ok(error) => error.into(),
        Err(error) => CommandError::Other(error),
    }
}
