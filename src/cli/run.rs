//! `run`: one job in this process; what the original script did.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::output::{Screen, plain};
use super::{CommandError, Context, INTERRUPTED, Interrupt};
use crate::config::Config;
use crate::embedded::{Embedded, Replies};
use crate::job::{ConnectionName, Identifier, Job, Limits, OfferedEffects, ToolSelection};
use crate::llm::{Profiles, ProviderApi};
use crate::reply::{ApprovalRequired, Reply, ReplyEvent};
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::transport::TlsConfig;
use crate::worker::resources::tool_source::ToolUser;

/// What the original script asked for.
const PROMPT: &str = "Fetch my last 5 unread emails and summarize them.";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker run
  agentkit-worker run --sandbox
  agentkit-worker run \"Search for emails from GitHub and list the subjects\" --identifier user_123 --connection gmail
  agentkit-worker run \"What is on my calendar today?\" --connection googlecalendar --read-only --json

Credentials come from the environment or from .env: SCALEKIT_ENV_URL, SCALEKIT_CLIENT_ID, SCALEKIT_CLIENT_SECRET,
OPENAI_API_KEY; USER_IDENTIFIER and CONNECTION_NAME are the defaults of the options of that name.")]
pub struct RunArguments {
    /// What the agent shall do
    #[arg(default_value = PROMPT)]
    pub prompt: String,
    /// The user whose accounts are used [default: USER_IDENTIFIER, else user_123]
    #[arg(long, value_name = "ID")]
    pub identifier: Option<String>,
    /// A connection whose tools the agent may use; may be given several times [default: CONNECTION_NAME, else gmail]
    #[arg(long = "connection", value_name = "C")]
    pub connections: Vec<String>,
    /// The model [default: as configured]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// Offer the agent only tools that change nothing
    #[arg(long)]
    pub read_only: bool,
    /// Use the stand-in Scalekit and model: no account, no key, no network
    #[arg(long)]
    pub sandbox: bool,
    /// Print every reply as one line of JSON instead
    #[arg(long)]
    pub json: bool,
    /// Let writes be made that wait for approval, without asking; where nobody is at a terminal they are denied otherwise
    #[arg(long, action = clap::ArgAction::Count)]
    pub yes: u8,
}

/// Carries out `run`.
pub async fn run(context: Context, arguments: RunArguments) -> Result<ExitCode, CommandError> {
    let job = job(&context, &arguments)?;
    let mut config = context.config.clone();
    // A person is waiting: look often.
    config.authorization.poll_seconds = 2;
    config.authorization.poll_seconds_at_most = 5;
    let sandbox = if arguments.sandbox { Some(start_sandbox(&context, &mut config).await?) } else { None };
    context.demand(config.run_problems())?;
    let model = job.model.as_ref().unwrap_or(&config.model.model);
    let today = context.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    if let Some(warning) = Profiles::built_in().shutdown_warning(model, today).filter(|_| sandbox.is_none()) {
        eprintln!("warning: {warning}");
    }
    let mut interrupt = Interrupt::listen()?;
    let worker = Embedded::start(config, context.clock.clone())?;
    let replies = worker.submit(&job).await.map_err(|error| CommandError::Usage(error.to_string()))?;
    let shown = tokio::select! {
        shown = show(replies, &worker, &job, &arguments) => shown,
        () = interrupt.received() => {
            Screen::new().clear();
            eprintln!("interrupted; what had started may have been carried out");
            ExitCode::from(INTERRUPTED)
        }
    };
    worker.stop().await;
    if let Some(sandbox) = sandbox {
        sandbox.stop().await;
    }
    Ok(shown)
}

/// The stand-ins, and a configuration that points to them.
async fn start_sandbox(context: &Context, config: &mut Config) -> Result<Sandbox, CommandError> {
    let mut options = SandboxOptions::new(context.clock.clone());
    // Nobody may be there to click: consent is given after a moment, unless it is a terminal's user who looks at it.
    options.consent_after = Some(std::time::Duration::from_secs(3));
    let sandbox = Sandbox::start(options).await.map_err(|error| CommandError::Other(error.into()))?;
    point_to(&sandbox, config);
    eprintln!("sandbox: stand-ins for Scalekit and the model; consent is given by itself after 3 s");
    Ok(sandbox)
}

/// Points a configuration to the stand-ins.
pub fn point_to(sandbox: &Sandbox, config: &mut Config) {
    sandbox.scalekit_url().clone_into(&mut config.scalekit.environment_url);
    sandbox.client_id().clone_into(&mut config.scalekit.client_id);
    config.scalekit.client_secret = SecretString::from(sandbox.client_secret());
    config.model.base_url = sandbox.model_url();
    config.model.api_key = SecretString::from(sandbox.api_key());
    for provider in config.providers.0.values_mut() {
        provider.base_url = match provider.api {
            Some(ProviderApi::Anthropic) => sandbox.messages_url().to_owned(),
            _ => sandbox.model_url(),
        };
        provider.api_key = SecretString::from(sandbox.api_key());
        provider.tls = TlsConfig::default();
    }
}

fn job(context: &Context, arguments: &RunArguments) -> Result<Job, CommandError> {
    let variable = |name: &str, otherwise: &str| context.sources.variable(name).unwrap_or(otherwise).to_owned();
    let identifier = arguments.identifier.clone().unwrap_or_else(|| variable("USER_IDENTIFIER", "user_123"));
    let mut connections = arguments.connections.clone();
    if connections.is_empty() {
        connections.push(variable("CONNECTION_NAME", "gmail"));
    }
    let mut job = new_job(&arguments.prompt, identifier, connections)?;
    job.model.clone_from(&arguments.model);
    job.tools.effects = if arguments.read_only { OfferedEffects::Read } else { OfferedEffects::All };
    job.progress = true;
    Ok(job)
}

/// A job as the command line gives it.
pub fn new_job(prompt: &str, identifier: String, connections: Vec<String>) -> Result<Job, CommandError> {
    let Some(identifier) = Identifier::new(identifier) else {
        return Err(CommandError::Usage("--identifier: 1 to 100 characters".into()));
    };
    let connections = connections
        .into_iter()
        .map(|name| {
            let text = format!("--connection {name}: 1 to 400 of letters, digits, `_`, `:`, `-` and space");
            ConnectionName::new(name).ok_or(CommandError::Usage(text))
        })
        .collect::<Result<_, _>>()?;
    Ok(Job {
        id: None,
        identifier,
        connections,
        prompt: prompt.to_owned(),
        instructions: None,
        model: None,
        tools: ToolSelection::default(),
        output_schema: None,
        limits: Limits::default(),
        authorization: crate::job::Authorization::default(),
        approval: crate::approval::Approval::default(),
        priority: None,
        tenant: None,
        progress: false,
        metadata: Value::Null,
        reply_to: None,
        reply_url: None,
        correlation_id: None,
    })
}

/// Shows what comes until the job's end.
async fn show(mut replies: Replies, worker: &Embedded, job: &Job, arguments: &RunArguments) -> ExitCode {
    let screen = Screen::new();
    let mut discovered = false;
    while let Some(reply) = replies.next().await {
        if arguments.json {
            println!("{}", serde_json::to_string(&reply).expect("a reply is JSON types only"));
        } else {
            show_one(screen, &reply, worker, job, &mut discovered).await;
        }
        if let ReplyEvent::ApprovalRequired(event) = &reply.event {
            decide(worker, &reply.subject, event, arguments.yes > 0).await;
        }
        if reply.event.is_terminal() {
            return if matches!(reply.event, ReplyEvent::Completed(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
    eprintln!("agentkit-worker: the worker ended without a reply");
    ExitCode::FAILURE
}

/// Whoever is at the terminal decides.
async fn decide(worker: &Embedded, job: &str, event: &ApprovalRequired, yes: bool) {
    for entry in &event.approvals {
        let decision = if yes || asked(&entry.tool).await { "approve" } else { "deny" };
        eprintln!("{}: {decision}", plain(&entry.tool));
        let decision = json!({
            "job": job, "approval": entry.id, "arguments_digest": entry.arguments_digest, "decision": decision
        });
        if let Err(error) = worker.decide(&decision, None).await {
            eprintln!("the decision was not taken: {error}");
        }
    }
}

/// Asks on the terminal, where there is one. On a thread that nothing waits for: an interrupt must not.
async fn asked(tool: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("Make this call of {}? [y/N] ", plain(tool));
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        // Nobody listens any more after an interrupt.
        let _ = sender.send(read.is_ok() && ["y", "yes"].contains(&line.trim().to_lowercase().as_str()));
    });
    answer.await.unwrap_or(false)
}

async fn show_one(screen: Screen, reply: &Reply, worker: &Embedded, job: &Job, discovered: &mut bool) {
    if let ReplyEvent::Progress(progress) = &reply.event
        && progress.phase == "model"
        && !*discovered
    {
        *discovered = true;
        screen.clear();
        println!("Connected account for {} is active.", job.identifier);
        show_tools(worker, job).await;
        println!("\nPrompt: {}", job.prompt);
    }
    match &reply.event {
        ReplyEvent::Progress(progress) => screen.progress(progress),
        ReplyEvent::AuthorizationRequired(event) if !event.is_final => screen.authorization(event),
        _ => screen.terminal(reply),
    }
}

async fn show_tools(worker: &Embedded, job: &Job) {
    const NAMED: usize = 8;
    let mut names = Vec::new();
    for connection in &job.connections {
        let reads_only = job.tools.effects == OfferedEffects::Read;
        let user = ToolUser { identifier: &job.identifier, run: "", reads_only };
        if let Ok((tools, _)) = worker.tool_catalog().list(user, connection).await {
            names.extend(tools.iter().map(|tool| tool.model_name.clone()));
        }
    }
    let more = if names.len() > NAMED { ", …" } else { "" };
    println!("Discovered {} tools: {}{more}", names.len(), names[..names.len().min(NAMED)].join(", "));
}
