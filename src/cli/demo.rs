//! `demo`: the whole story in one process, with nothing else installed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::SignedDuration;
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use super::output::Screen;
use super::run::{new_job, point_to};
use super::{CommandError, Context, Interrupt};
use crate::approval::ApprovalConfig;
use crate::clock::{ManualClock, SharedClock};
use crate::config::Config;
use crate::embedded::{Embedded, Replies};
use crate::http::{self, Method, Request};
use crate::http_server::tokens::{Scope, TokenConfig};
use crate::job::{Job, JobId};
use crate::reply::{EffectState, Reply, ReplyEvent};
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::schedule::Digest;

/// Nothing in the demo takes longer than this; if it does, something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agentkit-worker demo
  agentkit-worker demo --stay

Needs no account, no key, no network and no terminal; everything runs on loopback in this process.")]
pub struct DemoArguments {
    /// Leaves the worker running afterwards, with its pages to be clicked through, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
}

/// Tells the story.
pub(crate) async fn demo(context: Context, arguments: DemoArguments) -> Result<ExitCode, CommandError> {
    let began = Instant::now();
    let sandbox =
        Sandbox::start(SandboxOptions::new(context.clock.clone())).await.context("the sandbox cannot start")?;
    let mut config = context.config.clone();
    point_to(&sandbox, &mut config);
    config.authorization.poll_seconds = 1;
    config.authorization.poll_seconds_at_most = 1;
    config.scalekit.tool_retry.initial_milliseconds = 400;
    config.approval = ApprovalConfig::default();
    let http = http::Client::new(&config.http_client, context.clock.clone()).context("http_client")?;
    let mut interrupt = Interrupt::listen()?;
    let (worker, pages) = if arguments.stay {
        let (worker, pages) = with_pages(config, context.clock.clone()).await?;
        (worker, Some(pages))
    } else {
        (Embedded::start(config, context.clock.clone())?, None)
    };
    let story = Story { clock: context.clock.clone(), screen: Screen::new(), sandbox, worker, http };
    println!("agentkit-worker demo: queue, journal and cache in this process; Scalekit and the model are stand-ins on");
    println!("{} (the model is a set of rules and says so)", story.sandbox.scalekit_url());
    let told = tokio::time::timeout(PATIENCE, story.tell()).await;
    told.context("the demo got stuck")??;
    if let Some(Pages { address, token }) = pages {
        story.submit("demo-4", ASKS).await?;
        println!("\nThe worker stays, and a run waits for you: http://{address}/");
        println!("Sign in with the token {token} ; Ctrl-C ends it.");
        interrupt.received().await;
    }
    story.worker.stop().await;
    story.sandbox.stop().await;
    println!(
        "\nThat was the whole story, in {:.1} s. Next: `agentkit-worker run --sandbox`, then README.md.",
        began.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Where the pages are, and what they are opened with.
struct Pages {
    address: SocketAddr,
    token: String,
}

/// A worker with pages, and a token for whoever sits here.
#[expect(clippy::disallowed_methods, reason = "the process floor is where randomness enters")]
async fn with_pages(mut config: Config, clock: SharedClock) -> anyhow::Result<(Embedded, Pages)> {
    let token = uuid::Uuid::new_v4().simple().to_string();
    let holder = TokenConfig {
        token: token.clone().into(),
        token_file: None,
        scopes: vec![Scope::JobsWrite, Scope::JobsRead, Scope::Approvals, Scope::Content, Scope::Operate],
        identifiers: vec!["*".to_owned()],
    };
    config.http.tokens = [("demo".to_owned(), holder)].into();
    config.http.public_bind = None;
    "127.0.0.1:0".clone_into(&mut config.http.bind);
    let digest = Digest::parse(DIGEST, Path::new("demo-digest.toml"))?;
    let (worker, address) = Embedded::start_with_http(config, vec![digest], clock).await?;
    Ok((worker, Pages { address, token }))
}

const ASKS: &str = "Search my mail from Ledger Desk and do what it asks.";
const DIGEST: &str = r#"
cron = "0 8 * * mon-fri"
timezone = "Europe/Berlin"
prompt = "Fetch my last 5 unread emails and summarize them."
connections = ["gmail"]
reply_to = "demo.digests"
[recipients]
list = [{ identifier = "user_123" }]
"#;

struct Story {
    clock: SharedClock,
    screen: Screen,
    sandbox: Sandbox,
    worker: Embedded,
    http: http::Client,
}

impl Story {
    async fn tell(&self) -> anyhow::Result<()> {
        self.screen.title("1. A job for user_123, who has not connected Gmail yet");
        println!("   \"Fetch my last 5 unread emails and summarize them.\"");
        let mut replies = self.submit("demo-1", "Fetch my last 5 unread emails and summarize them.").await?;
        let link = self.authorization(&mut replies).await?;
        self.screen.note("   The run is parked: it holds no worker while it waits.");

        self.screen.title("2. The user opens the link and allows it");
        self.screen.note("   (and the next tool call is going to fail once, to show the retry)");
        self.fail_once().await?;
        self.consent(&link).await?;
        println!("   allowed; the same run goes on by itself");
        let reply = terminal(&mut replies).await?;
        self.screen.title("3. The answer, after a retried tool call");
        self.screen.terminal(&reply);
        let ReplyEvent::Completed(completed) = &reply.event else { bail!("the first job failed") };
        if completed.account.retries.is_empty() {
            bail!("the tool call was not retried");
        }

        self.screen.title("4. The same user again: the tool list comes from the cache");
        println!("   \"Send an email to sam@example.com with subject Hello saying The demo works.\"");
        let mut replies =
            self.submit("demo-2", "Send an email to sam@example.com with subject Hello saying The demo works.").await?;
        let reply = terminal(&mut replies).await?;
        self.screen.terminal(&reply);
        let metrics = self.worker.metrics();
        println!(
            "   tool lists: {} from Scalekit, {} from this process's cache",
            metrics.tools_found_in("scalekit"),
            metrics.tools_found_in("process")
        );

        self.screen.title("5. The same job sent again is not run again");
        let mut replies =
            self.submit("demo-2", "Send an email to sam@example.com with subject Hello saying The demo works.").await?;
        let again = terminal(&mut replies).await?;
        if again.id != reply.id || again.time != reply.time {
            bail!("the same job got another reply");
        }
        println!("   same reply, same event id ({}); no second mail was sent", again.id);
        self.approval().await?;
        self.digest().await
    }

    /// Whoever writes a mail may write it for the agent. Writes after a read wait for a person, who is told of them in full.
    async fn approval(&self) -> anyhow::Result<()> {
        self.screen.title("6. A stranger's mail asks the agent to forward invoices: a person decides");
        println!("   \"Search my mail from Ledger Desk and do what it asks.\"");
        let mut replies = self.submit("demo-3", ASKS).await?;
        let asked = replies.next().await.context("the worker ended")?;
        self.screen.terminal(&asked);
        let ReplyEvent::ApprovalRequired(event) = &asked.event else { bail!("nobody was asked") };
        let call = event.approvals.first().context("the event names no call")?;
        let decision = json!({
            "job": asked.subject, "approval": call.id, "arguments_digest": call.arguments_digest,
            "decision": "deny", "by": "user_123", "reason": "we have no such archive"
        });
        self.worker.decide(&decision, None).await?;
        println!("   denied, with the words \"we have no such archive\"; the same run goes on by itself");
        let reply = terminal(&mut replies).await?;
        self.screen.terminal(&reply);
        let ReplyEvent::Completed(completed) = &reply.event else { bail!("the job failed") };
        if completed.account.effects.iter().any(|effect| effect.state != EffectState::Denied) {
            bail!("something was done that was denied");
        }
        Ok(())
    }

    /// One firing of a digest; the clock of its scheduler jumps, the rest of the demo goes on in real time.
    async fn digest(&self) -> anyhow::Result<()> {
        self.screen.title("7. A digest: the same every weekday at 8:00 in Berlin (shown with an accelerated clock)");
        let digest = Digest::parse(DIGEST, Path::new("demo-digest.toml"))?;
        let due = digest.schedule().next_after(self.clock.now()).context("the digest never comes")?;
        let clock = Arc::new(ManualClock::new(due.at - SignedDuration::from_secs(1)));
        let mut replies = self.worker.replies_to("demo.digests");
        let scheduler = self.worker.scheduler(vec![digest], clock.clone());
        scheduler.step().await;
        println!("   the scheduler's clock shows one second before {}; nothing is due", due.local);
        clock.advance(SignedDuration::from_secs(2));
        scheduler.step().await;
        println!("   the clock jumps two seconds ahead: the digest fires");
        let reply = terminal(&mut replies).await?;
        println!("   job {}", reply.subject);
        self.screen.terminal(&reply);
        let ReplyEvent::Completed(_) = &reply.event else { bail!("the digest's job failed") };
        clock.advance(SignedDuration::from_secs(-2));
        scheduler.step().await;
        clock.advance(SignedDuration::from_secs(2));
        scheduler.step().await;
        self.screen.note("   the clock was set back and passed the time again: it does not fire twice");
        Ok(())
    }

    async fn submit(&self, id: &str, prompt: &str) -> anyhow::Result<Replies> {
        let job = new_job(prompt, "user_123".to_owned(), vec!["gmail".to_owned()])?;
        let job = Job { id: JobId::new(id), ..job };
        Ok(self.worker.submit(&job).await?)
    }

    async fn authorization(&self, replies: &mut Replies) -> anyhow::Result<String> {
        while let Some(reply) = replies.next().await {
            if let ReplyEvent::AuthorizationRequired(event) = &reply.event {
                self.screen.authorization(event);
                let link = event.authorizations.first().and_then(|entry| entry.link.clone());
                return link.context("the event has no link");
            }
            if reply.event.is_terminal() {
                bail!("the job ended before the user was asked: {}", reply.event.kind());
            }
        }
        bail!("the worker ended")
    }

    /// What a browser would do after a click on "Allow".
    async fn consent(&self, link: &str) -> anyhow::Result<()> {
        let request = Request::new(Method::Post, Url::parse(link)?, PATIENCE).form(&[("decision", "allow")]);
        let response = self.http.send(request).await?;
        if response.status >= 400 {
            bail!("the consent page answered {}", response.status);
        }
        Ok(())
    }

    async fn fail_once(&self) -> anyhow::Result<()> {
        let fault = json!({"on": "execute", "kind": "status", "status": 503, "message": "upstream connect error"});
        let url = Url::parse(&format!("{}/faults", self.sandbox.control_url()))?;
        let request = Request::new(Method::Post, url, PATIENCE).json(fault.to_string().into_bytes());
        let response = self.http.send(request).await?;
        if response.status >= 400 {
            bail!("the sandbox did not take the fault: {}", response.status);
        }
        Ok(())
    }
}

async fn terminal(replies: &mut Replies) -> anyhow::Result<Reply> {
    replies.terminal().await.context("the worker ended without a reply")
}
