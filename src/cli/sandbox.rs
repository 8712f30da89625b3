//! `sandbox`: the stand-ins, for other people's tests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{CommandError, Context};
use crate::sandbox::{Sandbox, SandboxOptions, WebhookTarget};

/// Arguments of `sandbox`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker sandbox
  agentkit-worker sandbox --port 8787 --env-file .env
  agentkit-worker sandbox --consent-after 5 --webhook-url http://127.0.0.1:9465/webhooks/scalekit

The page at http://127.0.0.1:8787/ shows accounts, faults and what tools did; /_sandbox/ steers them by
requests. Served are Scalekit's REST API, the model APIs below /v1, Scalekit's MCP server of each connection at
/mcp/v3/connections/NAME, and one of an operator's own kind at /mcp/crm.")]
pub struct SandboxArguments {
    /// Port on 127.0.0.1; 0 takes any that is free
    #[arg(long, value_name = "P", default_value_t = 8787)]
    pub port: u16,
    /// Write the worker's .env here, once the sandbox listens; another program's file is left alone
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Send signed webhooks here when an account changes
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464/webhooks/scalekit")]
    pub webhook_url: String,
    /// Secret that the webhooks are signed with, `whsec_…`
    #[arg(long, value_name = "SECRET", default_value = "whsec_c2FuZGJveCB3ZWJob29rIHNlY3JldA==")]
    pub webhook_secret: String,
    /// Consent by itself, so many seconds after a link was made
    #[arg(long, value_name = "S")]
    pub consent_after: Option<u64>,
}

/// What the file of a worker that shall use the sandbox begins with.
const HEADING: &str = "# stand-ins for Scalekit and the model; this is an .env for a worker that shall use them:\n";

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn sandbox(context: Context, arguments: SandboxArguments) -> Result<ExitCode, CommandError> {
    if let Some(file) = &arguments.env_file {
        may_write(file)?;
    }
    let mut options = SandboxOptions::new(context.clock.clone());
    options.port = arguments.port;
    options.consent_after = arguments.consent_after.map(std::time::Duration::from_secs);
    options.webhook = Some(WebhookTarget { url: arguments.webhook_url, secret: arguments.webhook_secret.clone() });
    // Before anything is printed: whoever has read that may say stop.
    let shutdown = crate::shutdown::Shutdown::new();
    shutdown.on_signals().map_err(|error| CommandError::Other(error.into()))?;
    let sandbox = Sandbox::start(options).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => CommandError::Usage(error.to_string()),
        _ => CommandError::Unavailable(format!("cannot listen on port {}: {error}", arguments.port)),
    })?;
    let env = env(&sandbox, &arguments.webhook_secret);
    match &arguments.env_file {
        None => print!("{env}"),
        Some(file) => {
            std::fs::write(file, &env).map_err(|error| cannot_write(file, &error.to_string()))?;
            println!("{} is the .env of a worker that shall use the stand-ins", file.display());
        }
    }
    println!("# connections: {}", sandbox.connection_names().join(", "));
    println!("# an MCP server of an operator's own kind: {}", sandbox.crm_url());
    println!("#   with the header Authorization: Bearer {}", sandbox.crm_token());
    println!("# a page to steer it by: {}/", sandbox.scalekit_url());
    println!("# the same by requests: {}", sandbox.control_url());
    shutdown.soft().cancelled().await;
    sandbox.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn env(sandbox: &Sandbox, webhook_secret: &str) -> String {
    let (scalekit, model) = (sandbox.scalekit_url(), sandbox.model_url());
    let settings = [
        ("SCALEKIT_ENV_URL", scalekit),
        ("SCALEKIT_CLIENT_ID", sandbox.client_id()),
        ("SCALEKIT_CLIENT_SECRET", sandbox.client_secret()),
        ("SCALEKIT_WEBHOOK_SECRET", webhook_secret),
        ("OPENAI_BASE_URL", &model),
        ("OPENAI_API_KEY", sandbox.api_key()),
        ("AGENTKIT_WORKER__PROVIDERS__ANTHROPIC__BASE_URL", sandbox.messages_url()),
        ("ANTHROPIC_API_KEY", sandbox.api_key()),
    ];
    settings.into_iter().fold(HEADING.to_owned(), |mut env, (name, value)| {
        let _infallible = writeln!(env, "{name}={value}");
        env
    })
}

/// A file that is there must be one of a sandbox: nobody's keys are written over.
fn may_write(file: &Path) -> Result<(), CommandError> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.starts_with(HEADING) || text.is_empty() => Ok(()),
        Ok(_) => Err(CommandError::Usage(format!(
            "{} is there, and no sandbox wrote it: it is left as it is; name another file, or move it away",
            file.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot_write(file, &error.to_string())),
    }
}

fn cannot_write(file: &Path, error: &str) -> CommandError {
    CommandError::Usage(format!("{} cannot be written: {error}", file.display()))
}
