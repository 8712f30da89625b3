//! `sandbox`: the stand-ins, for other people's tests.

use std::process::ExitCode;

use clap::Args;

use super::{CommandError, Context};
use crate::sandbox::{Sandbox, SandboxOptions, WebhookTarget};

/// Arguments of `sandbox`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker sandbox --port 8787
  agentkit-worker sandbox --webhook-url http://127.0.0.1:9464/webhooks/scalekit --webhook-secret whsec_c2VjcmV0")]
pub struct SandboxArguments {
    /// Port on 127.0.0.1; 0 takes any that is free
    #[arg(long, value_name = "P", default_value_t = 8787)]
    pub port: u16,
    /// Send signed webhooks here when an account changes
    #[arg(long, value_name = "URL", requires = "webhook_secret")]
    pub webhook_url: Option<String>,
    /// Secret that the webhooks are signed with, `whsec_…`
    #[arg(long, value_name = "SECRET", requires = "webhook_url")]
    pub webhook_secret: Option<String>,
    /// Consent by itself, so many seconds after a link was made
    #[arg(long, value_name = "S")]
    pub consent_after: Option<u64>,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn sandbox(context: Context, arguments: SandboxArguments) -> Result<ExitCode, CommandError> {
    let mut options = SandboxOptions::new(context.clock.clone());
    options.port = arguments.port;
    options.consent_after = arguments.consent_after.map(std::time::Duration::from_secs);
    options.webhook =
        arguments.webhook_url.zip(arguments.webhook_secret).map(|(url, secret)| WebhookTarget { url, secret });
    // Before anything is printed: whoever has read that may say stop.
    let shutdown = crate::shutdown::Shutdown::new();
    shutdown.on_signals().map_err(|error| CommandError::Other(error.into()))?;
    let sandbox = Sandbox::start(options)
        .await
        .map_err(|error| CommandError::Unavailable(format!("cannot listen on port {}: {error}", arguments.port)))?;
    println!("# stand-ins for Scalekit and the model; this is an .env for a worker that shall use them:");
    println!("SCALEKIT_ENV_URL={}", sandbox.scalekit_url());
    println!("SCALEKIT_CLIENT_ID={}", sandbox.client_id());
    println!("SCALEKIT_CLIENT_SECRET={}", sandbox.client_secret());
    println!("OPENAI_BASE_URL={}", sandbox.model_url());
    println!("OPENAI_API_KEY={}", sandbox.api_key());
    println!("# connections: {}", sandbox.connection_names().join(", "));
    println!("# inspect and steer it: {}", sandbox.control_url());
    shutdown.soft().cancelled().await;
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}
