//! `worker`: the service.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::{CommandError, Context, doctor};
use crate::app::{App, Backends};
use crate::config::{Config, Sources};
use crate::job::OfferedEffects;
use crate::queue::QueueError;
use crate::schedule::Digests;
use crate::shutdown::{Ended, Shutdown};
use crate::worker::resources::tool_catalog::ToolCatalog;

/// What `worker --help` shows.
pub(crate) const EXAMPLES: &str = "Examples:
  agentkit-worker worker
  agentkit-worker --config /etc/agentkit-worker.toml --log json worker

Needs RabbitMQ (AMQP_URL), Redis (REDIS_URL), Scalekit and a model; `agentkit-worker doctor` checks them.";

/// Consumes jobs until SIGTERM or SIGINT.
pub(crate) async fn worker(context: Context) -> Result<ExitCode, CommandError> {
    context.demand(context.config.service_problems())?;
    let digests = match context.config.digests.enabled {
        true => Some(Arc::new(Digests::of_directory(context.config.digests.dir.clone())?)),
        false => None,
    };
    let shutdown = Shutdown::new();
    shutdown.on_signals().map_err(|error| CommandError::Other(error.into()))?;
    let tools = Arc::new(OnceLock::new());
    let reloaded = Reloaded { digests: digests.clone(), tools: tools.clone(), sources: context.sources.clone() };
    reload_on_signal(&shutdown, reloaded).map_err(|error| CommandError::Other(error.into()))?;
    let stop = shutdown.soft();
    let backends = tokio::select! {
        backends = Backends::service(&context.config) => backends.map_err(refused)?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let app = App::build(context.config.clone(), backends, context.clock.clone(), shutdown)?;
    let mut app = app.with_doctor(doctor::examined(context));
    let _ = tools.set(app.tool_catalog());
    if let Some(digests) = digests {
        app = app.with_digests(digests);
    }
    app.serve_http().await?;
    let ended = app.run().await;
    info!(ended = ended.as_str(), "worker ended");
    Ok(if ended == Ended::InOrder { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is read again at SIGHUP.
struct Reloaded {
    digests: Option<Arc<Digests>>,
    /// Once they are there.
    tools: Arc<OnceLock<Arc<ToolCatalog>>>,
    sources: Sources,
}

/// Reads the digests and the rules for tools again at each SIGHUP; a bad file keeps the old ones.
fn reload_on_signal(shutdown: &Shutdown, reloaded: Reloaded) -> std::io::Result<()> {
    let Reloaded { digests, tools, sources } = reloaded;
    let mut hang_up = signal(SignalKind::hangup())?;
    shutdown.spawn_detached("SIGHUP", async move {
        while hang_up.recv().await.is_some() {
            match digests.as_deref().map(Digests::reload) {
                Some(Ok(count)) => info!(digests = count, "SIGHUP: the digests are read again"),
                Some(Err(bad)) => error!(%bad, "SIGHUP: the old digests stay"),
                None => info!("SIGHUP: this worker fires no digests"),
            }
            match (Config::load(&sources), tools.get()) {
                (Ok(config), Some(tools)) => {
                    let (denied, ceiling) = (config.tools.deny.len(), config.tools.effects_ceiling);
                    tools.reload(config.tools);
                    info!(
                        denied,
                        reads_only = ceiling == OfferedEffects::Read,
                        "SIGHUP: the rules for tools are read again"
                    );
                }
                (Ok(_), None) => info!("SIGHUP: no tools are known yet"),
                (Err(bad), _) => error!(%bad, "SIGHUP: the old rules for tools stay"),
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
