//! `jobs approve` and `jobs deny`: what a person at the command line says to calls that wait.

use std::process::ExitCode;
use std::sync::Arc;

use super::output::plain;
use super::{CommandError, Context};
use crate::agent::approvals::Asked;
use crate::agent::ruling::Objection;
use crate::agent::run::Run;
use crate::app;
use crate::decision::{Decision, Door, Ruling};
use crate::job::JobId;
use crate::journal::Journal;
use crate::queue::Publisher;
use crate::worker::control::decider::{Decider, NotDecided};
use crate::worker::message::signature::HeaderKey;

/// What is said, and to which calls of which run.
pub(super) struct Said {
    pub(super) job: JobId,
    pub(super) call: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) ruling: Ruling,
}

/// Says the same to all calls that are meant.
pub(super) async fn decide(
    context: &Context,
    journal: Arc<dyn Journal>,
    publisher: Arc<dyn Publisher>,
    said: Said,
) -> Result<ExitCode, CommandError> {
    let Said { job: id, call, reason, ruling } = said;
    let decider = Decider {
        journal,
        publisher,
        clock: context.clock.clone(),
        metrics: Arc::default(),
        lifetimes: app::lifetimes(&context.config),
        header_key: HeaderKey::of(&context.config.scalekit.client_secret),
        name: app::process_name(),
    };
    let run = decider.run(&id).await.map_err(|error| no_run(&error, id.as_str()))?;
    let meant = meant(&run, call.as_deref());
    if meant.is_empty() {
        let which = call.as_deref().map(|call| format!(" `{}`", plain(call))).unwrap_or_default();
        eprintln!("nothing was decided: no call{which} of this run waits for approval");
        return Ok(ExitCode::FAILURE);
    }
    let (mut code, word) = (ExitCode::SUCCESS, if ruling == Ruling::Approve { "approved" } else { "denied" });
    for asked in meant {
        let decision = Decision {
            job: id.clone(),
            approval: asked.call.id.clone(),
            arguments_digest: asked.call.arguments_digest.clone(),
            ruling: ruling.clone(),
            reason: reason.clone(),
            by: context.sources.variable("USER").map(str::to_owned),
        };
        let tool = run.planned(&asked.call.call_id).map_or_else(String::new, |(tool, ..)| plain(&tool.name));
        let call = format!("{tool} ({})", plain(&asked.call.call_id));
        match decider.decide(&decision, Door::Cli).await {
            Ok(()) => println!("{word}: {call}"),
            Err(NotDecided::Refused(Objection::Already)) => println!("{word} before: {call}"),
            Err(NotDecided::Refused(refused)) => {
                eprintln!("{call}: {refused}");
                code = ExitCode::FAILURE;
            }
            Err(NotDecided::NotNow(reason)) => return Err(CommandError::Unavailable(format!("{call}: {reason}"))),
        }
    }
    Ok(code)
}

/// The calls that are meant: all that wait, or the one that is named, whatever was decided about it.
fn meant<'a>(run: &'a Run, call: Option<&str>) -> Vec<&'a Asked> {
    let is_meant = |asked: &&Asked| match call {
        Some(call) => asked.call.call_id == call || asked.call.id == call,
        None => asked.verdict.is_none(),
    };
    run.approvals().asked().iter().filter(is_meant).collect()
}

fn no_run(error: &NotDecided, id: &str) -> CommandError {
    match error {
        NotDecided::Refused(_) => CommandError::Other(anyhow::anyhow!(
            "no run `{}` is known: the id is wrong, or its journal was kept long enough",
            plain(id)
        )),
        NotDecided::NotNow(reason) => CommandError::Unavailable(reason.clone()),
    }
}
