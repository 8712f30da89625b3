//! `doctor`: looks at everything a worker needs, and says what to do.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::doctor_mcp::check_servers;
use super::doctor_redis::{encryption, redis};
use super::doctor_transport::transport;
use super::report::Report;
use super::{CommandError, Context};
use crate::app;
use crate::http_server::pages::doctor::{Examine, Severity};
use crate::job::ConnectionName;
use crate::llm::{DEFAULT_PROVIDER, Llm};
use crate::member_watch::management;
use crate::metrics::Metrics;
use crate::queue::amqp::{AddressFacts, QueueState, TopologyMode, inspect};
use crate::scalekit::{Error, Scalekit};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker doctor
  agentkit-worker doctor --connection gmail --connection slack

Exit code 1 if anything is broken.")]
pub struct DoctorArguments {
    /// A connection whose name is checked; may be given several times [default: CONNECTION_NAME, if set]
    #[arg(long = "connection", value_name = "C")]
    pub connections: Vec<String>,
}

/// The worker sets no `x-consumer-timeout` on its queues, so the node's own counts, unless a policy says otherwise.
const CONSUMER_TIMEOUT_ADVICE: &str = "compare it, in milliseconds, on each node: rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).' \
     (from 3.12 on a policy's `consumer-timeout` beats it: rabbitmqctl list_policies)";

/// Carries out `doctor`.
pub(crate) async fn doctor(context: Context, arguments: DoctorArguments) -> Result<ExitCode, CommandError> {
    let mut report = Report { prints: true, ..Report::default() };
    examine(&context, arguments.connections, &mut report).await;
    let [broken, warnings, notes, good] =
        [Severity::Broken, Severity::Warning, Severity::Note, Severity::Good].map(|severity| report.count(severity));
    println!("\n{good} ok, {notes} note(s), {warnings} warning(s), {broken} broken");
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same for the page *Doctor* of a worker that has this context.
pub(super) fn examined(context: Context) -> Examine {
    let context = Arc::new(context);
    Arc::new(move || {
        let context = context.clone();
        Box::pin(async move {
            let mut report = Report::default();
            examine(&context, Vec::new(), &mut report).await;
            report.findings
        })
    })
}

async fn examine(context: &Context, mut connections: Vec<String>, report: &mut Report) {
    let problems = context.config.service_problems();
    for warning in context.sources.warnings() {
        report.warn("environment", &warning, "correct its name, or unset it");
    }
    for problem in problems.iter().map(|problem| context.sources.with_origin(problem.clone())) {
        report.bad("configuration", &problem, "set it in the environment, in .env or in the file given with --config");
    }
    if problems.is_empty() {
        report.good("configuration", "complete");
    }
    transport(context, report);
    broker(context, report).await;
    redis(context, report).await;
    encryption(context, report);
    if connections.is_empty() {
        connections.extend(context.sources.variable("CONNECTION_NAME").map(str::to_owned));
    }
    match app::edges(&context.config, &context.clock, &Arc::new(Metrics::default()), None) {
        Ok((scalekit, llm)) => {
            let (servers, connections) = connections.into_iter().partition(|name| name.strip_prefix("mcp:").is_some());
            check_scalekit(&scalekit, connections, report).await;
            check_servers(context, &scalekit, servers, report).await;
            model(context, &llm, report).await;
        }
        Err(error) => report.bad("Scalekit and model", &format!("{error:#}"), "correct the configuration first"),
    }
}

async fn broker(context: &Context, report: &mut Report) {
    let facts = match inspect(&context.config.amqp).await {
        Ok(facts) => facts,
        Err(error) => {
            return report.bad(
                "RabbitMQ",
                &error.to_string(),
                "check AMQP_URL, the user's rights, and that the broker runs",
            );
        }
    };
    broker_addresses(&facts.addresses, report);
    members(context, report).await;
    // Whether the one is small enough for the other is checked with the rest of the configuration.
    let worker = &context.config.worker;
    report.note(
        "consumer timeout",
        &format!(
            "cannot be read over AMQP; it is taken to be {} s (worker.consumer_timeout_seconds), and deliveries are held for \
             {} s at most",
            worker.consumer_timeout_seconds, worker.hold_delivery_seconds
        ),
        CONSUMER_TIMEOUT_ADVICE,
    );
    let at: Vec<&str> = facts.addresses.iter().map(|facts| facts.address.as_str()).collect();
    let at = at.join(", ");
    for queue in facts.queues {
        let what = format!("queue {}", queue.name);
        match queue.state {
            QueueState::Missing => report.warn(&what, "does not exist yet", "start a worker: it declares its queues"),
            QueueState::Present { mismatch: Some(mismatch), .. } => match context.config.amqp.topology {
                TopologyMode::Declare => report.bad(&what, &mismatch, "no worker starts until this is done"),
                TopologyMode::Verify | TopologyMode::None => {
                    report.warn(&what, &mismatch, "it is used as it is: see what it does to the worker's promises");
                }
            },
            QueueState::Present { messages, .. }
                if messages > 0 && queue.name == context.config.amqp.names().dead() =>
            {
                report.warn(
                    &what,
                    &format!("{messages} dead letters"),
                    "look at them with `agentkit-worker dead list`",
                );
            }
            QueueState::Present { messages, consumers: 0, .. } if queue.name == context.config.amqp.names().jobs() => {
                report.warn(
                    &what,
                    &format!("nobody consumes it at {at}: {messages} messages wait"),
                    "start a worker: `agentkit-worker worker`",
                );
            }
            QueueState::Present { messages, consumers, .. } => {
                report.good(&what, &format!("{messages} messages, {consumers} consumers"));
            }
            QueueState::Earlier => report.warn(
                &what,
                "made by an earlier version: when it is full its oldest replies are dropped without a word",
                "read or move what is in it, stop all workers, and start one: it makes the queue anew",
            ),
            QueueState::Hidden(words) => report.warn(&what, &words, "give the user the right to look at it"),
        }
    }
}

/// With fewer than three members a queue is gone, or stands still, with a single node.
async fn members(context: &Context, report: &mut Report) {
    let what = "queue members";
    let management = match management(&context.config, &context.clock) {
        Ok(Some(management)) => management,
        Ok(None) => {
            return report.note(
                what,
                "not known: AMQP does not tell them",
                "set amqp.management_url, or look on a node: rabbitmqctl list_queues name members online",
            );
        }
        Err(error) => return report.bad(what, &format!("{error:#}"), "correct the configuration"),
    };
    let queues = match management.members().await {
        Ok(queues) => queues,
        Err(error) => {
            return report.warn(
                what,
                &error.to_string(),
                "check amqp.management_url, that the plugin rabbitmq_management is on, and that the user has a tag for it",
            );
        }
    };
    let few: Vec<_> = queues.iter().filter(|queue| queue.members < 3 || queue.online < queue.members).collect();
    if few.is_empty() && !queues.is_empty() {
        report.good(what, &format!("three or more of each of {} queues, all up", queues.len()));
    }
    for queue in few {
        let found = format!("{} member(s), {} up", queue.members, queue.online);
        let advice = if queue.members < 3 {
            "have three nodes, then grow the queues that are there, on one of them: rabbitmq-queues grow NODE all"
        } else {
            "see why a node is away: a queue without the majority of its members stands still"
        };
        report.warn(&format!("{what} of {}", queue.queue), &found, advice);
    }
}

fn broker_addresses(addresses: &[AddressFacts], report: &mut Report) {
    for AddressFacts { address, answer } in addresses {
        let what = if addresses.len() == 1 { "RabbitMQ".to_owned() } else { format!("RabbitMQ at {address}") };
        let greeting = match answer {
            Ok(greeting) => greeting,
            Err(error) => {
                report.warn(&what, &error.to_string(), "workers use the other addresses; see why this node is away");
                continue;
            }
        };
        report.product(&what, &greeting.product, &greeting.version, "");
    }
    let clusters: BTreeSet<&str> =
        addresses.iter().filter_map(|facts| facts.answer.as_ref().ok()?.cluster.as_deref()).collect();
    if clusters.len() > 1 {
        let names = clusters.into_iter().collect::<Vec<_>>().join(", ");
        report.bad(
            "RabbitMQ cluster",
            &format!("the addresses lead to different ones: {names}"),
            "have amqp.url name nodes of one cluster: jobs and replies would be spread over several else",
        );
    }
}

async fn check_scalekit(scalekit: &Scalekit, connections: Vec<String>, report: &mut Report) {
    if connections.is_empty() {
        connections_missing(scalekit, report).await;
    }
    for name in connections {
        let what = format!("connection {name}");
        let Some(connection) = ConnectionName::new(name) else {
            report.bad(&what, "not a connection name", "use the name that stands in the Scalekit dashboard");
            continue;
        };
        match scalekit.accounts_of(&connection).await {
            Ok(0) => report.warn(
                &what,
                "no accounts yet",
                "if users have connected, compare the name: upper and lower case count",
            ),
            Ok(count) => report.good(&what, &format!("{count} connected account(s)")),
            Err(error) => tell(&what, &error, report),
        }
    }
}

/// Without a name at least the credentials can be tried.
async fn connections_missing(scalekit: &Scalekit, report: &mut Report) {
    let any = ConnectionName::new("gmail").expect("a legal name");
    match scalekit.accounts_of(&any).await {
        Ok(_) | Err(Error::ConnectionNotFound(_)) => {
            report.good("Scalekit", "credentials accepted; name connections with --connection to check them");
        }
        Err(error) => tell("Scalekit", &error, report),
    }
}

fn tell(what: &str, error: &Error, report: &mut Report) {
    let advice = match error {
        Error::Credentials(_) => "check SCALEKIT_CLIENT_ID and SCALEKIT_CLIENT_SECRET (Settings > API credentials)",
        Error::ConnectionNotFound(_) => "compare the name with AgentKit > Connections; upper and lower case count",
        Error::ConnectionDisabled(_) => "enable the connection under AgentKit > Connections",
        Error::NotSent(_) | Error::TimedOut(_) | Error::Unavailable { .. } => "check SCALEKIT_ENV_URL and the network",
        _ => "see the message; check SCALEKIT_ENV_URL",
    };
    report.bad(what, &error.to_string(), advice);
}

async fn model(context: &Context, llm: &Llm, report: &mut Report) {
    let name = &context.config.model.model;
    let what = format!("model {name}");
    if !llm.has_key(llm.provider(name)) {
        report.warn(&what, "no API key", &format!("set {}, unless the server wants none", keys_of(llm, name)));
    }
    let is_there = known(llm, name, &what, report).await;
    let today = context.clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let warning = llm.shutdown_warning(name, today);
    if let Some(warning) = &warning {
        report.warn(&what, warning, "set model.model to the successor, and try it with `agentkit-worker run --model`");
    }
    // Nobody takes over by itself from a model that stays.
    let needed = context.config.model.fallback.is_some() || !is_there || warning.is_some();
    for substitute in llm.substitutes().into_iter().filter(|_| needed) {
        let what = format!("model {substitute}, which takes over from {name}");
        known(llm, &substitute, &what, report).await;
        if let Some(warning) = llm.shutdown_warning(&substitute, today) {
            report.warn(&what, &warning, "name another one in model.fallback");
        }
    }
    if context.config.budget.is_on() && llm.price(name, today, 0).is_none() {
        let advice = "give one in [model.prices]; see Money in config/README.md";
        report.warn(&what, "no price of it is known: its calls count in no budget", advice);
    }
    other_providers(context, llm, report).await;
}

/// Providers of models that jobs may name.
async fn other_providers(context: &Context, llm: &Llm, report: &mut Report) {
    let own = llm.provider(&context.config.model.model);
    let named = context.config.providers.names().filter(|provider| *provider != own);
    for provider in [DEFAULT_PROVIDER].into_iter().filter(|provider| *provider != own).chain(named) {
        let what = format!("provider {provider}");
        let has_key = llm.has_key(provider);
        if provider == DEFAULT_PROVIDER && !has_key {
            report.good(&what, "no API key, and none is needed where no job asks for its models");
            continue;
        }
        match llm.show_key(provider).await {
            Ok(()) if has_key => report.good(&what, "answers, and takes the key"),
            Ok(()) => report.good(&what, "answers"),
            Err(error) => {
                let section = match provider {
                    DEFAULT_PROVIDER => "model".to_owned(),
                    provider => format!("providers.{provider}"),
                };
                let advice = format!("check api_key and base_url of [{section}], and the network");
                report.bad(&what, &error.to_string(), &advice);
            }
        }
    }
}

/// Whether the server knows a model, or does not say that it does not.
async fn known(llm: &Llm, name: &str, what: &str, report: &mut Report) -> bool {
    match llm.find_model(name).await {
        Ok(Some(_)) => report.good(what, "the server knows it"),
        Ok(None) => {
            let text = format!("the server does not know it; {}", llm.without(name));
            let keys = keys_of(llm, name);
            let advice = format!(
                "check model.model, model.fallback and {keys} (some compatible servers have no list of models)"
            );
            report.warn(what, &text, &advice);
            return false;
        }
        Err(error) => {
            report.bad(what, &error.to_string(), &format!("check {} and the network", keys_of(llm, name)));
        }
    }
    true
}

/// Where the key and the address for a model are set.
fn keys_of(llm: &Llm, model: &str) -> String {
    match llm.provider(model) {
        DEFAULT_PROVIDER => "OPENAI_API_KEY, OPENAI_BASE_URL".to_owned(),
        provider => format!("api_key and base_url of [providers.{provider}]"),
    }
}
