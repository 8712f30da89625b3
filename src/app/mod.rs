//! Puts the parts together: the same worker on RabbitMQ and Redis, or on their stand-ins in memory.

mod backends;
mod peers;
mod rules;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::backends::Backends;
pub(crate) use self::backends::process_name;
use self::peers::warn_of_plain;
pub(crate) use self::peers::{run_peers, service_peers};
pub use self::rules::lifetimes;
pub(crate) use self::rules::{edges, scheduled_jobs, scheduler_rules, senders, tool_sources};
use self::rules::{executor_rules, worker_rules};
use crate::approval::link::Links;
use crate::audit::Audit;
use crate::clock::{ReferenceClock, SharedClock};
use crate::config::Config;
use crate::fleet_clock::FleetClock;
use crate::http_server::pages::doctor::Examine;
use crate::http_server::pages::{DoubtfulEffects, PageFacts};
use crate::http_server::tokens::Tokens;
use crate::http_server::{self, Check, Endpoints};
use crate::member_watch::MemberWatch;
use crate::metrics::Metrics;
use crate::money::Amount;
use crate::queue::Consumer;
use crate::schedule::{Digests, Scheduler};
use crate::shutdown::{Ended, Shutdown};
use crate::telemetry;
use crate::telemetry::otlp::{self, Export};
use crate::webhook::Secrets;
use crate::worker::control::dead_letters::{DeadLetterDesk, LetterReader};
use crate::worker::control::decider::Decider;
use crate::worker::control::decisions::Decisions;
use crate::worker::control::fan_out::FanOut;
use crate::worker::control::job_door::JobDoor;
use crate::worker::control::operator::Operator;
use crate::worker::control::runs::Runs;
use crate::worker::control::webhooks::Webhooks;
use crate::worker::message::signature::HeaderKey;
use crate::worker::resources::accounts::SharedAccounts;
use crate::worker::resources::admission::Admission;
use crate::worker::resources::cooldown::Cooldowns;
use crate::worker::resources::credentials::{CredentialWatch, Credentials};
use crate::worker::resources::fallbacks::Fallbacks;
use crate::worker::resources::magic_links::MagicLinks;
use crate::worker::resources::offers::Offers;
use crate::worker::resources::parked_index::ParkedIndex;
use crate::worker::resources::poster::Poster;
use crate::worker::resources::spending::Spending;
use crate::worker::resources::tool_catalog::ToolCatalog;
use crate::worker::rules::Defaults;
use crate::worker::run::Executor;
use crate::worker::{Parts, Worker};

/// A worker with all its parts, not yet running.
pub struct App {
    worker: Arc<Worker>,
    consumer: Box<dyn Consumer>,
    urgent: Option<Box<dyn Consumer>>,
    decisions: Option<(Arc<Decisions>, Box<dyn Consumer>)>,
    facts: Endpoints,
    config: Config,
    shutdown: Shutdown,
    digests: Option<Arc<Digests>>,
    scheduler: Scheduler,
    tool_catalog: Arc<ToolCatalog>,
    broken: CancellationToken,
    fleet_clock: FleetClock,
    member_watch: MemberWatch,
    credential_watch: CredentialWatch,
    watch: BoxFuture<'static, ()>,
    export: Export,
}

impl App {
    /// Builds the worker. Nothing is consumed before [`App::run`].
    pub fn build(config: Config, backends: Backends, clock: SharedClock, shutdown: Shutdown) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let reference = Arc::new(ReferenceClock::new(clock));
        let clock: SharedClock = reference.clone();
        let credentials = Arc::new(Credentials::new(metrics.clone(), config.providers.names()));
        let told = credentials.clone();
        let (scalekit, llm) =
            edges(&config, &clock, &metrics, Some(Arc::new(move |news| told.hear_of_scalekit(news))))?;
        warn_of_plain(&run_peers(&config));
        let today = clock.now().to_zoned(jiff::tz::TimeZone::UTC).date();
        for model in std::iter::once(&config.model.model).chain(config.model.fallback.iter().flatten()) {
            if let Some(warning) = llm.shutdown_warning(model, today) {
                warn!("{warning}");
            }
        }
        let Backends {
            process,
            consumer,
            urgent,
            decisions: decision_consumer,
            publisher,
            holder,
            backlog,
            dead_letters,
            journal,
            cache,
            budgets,
            digests,
            parking,
            alive,
            services,
            watch,
            queues,
            looks_first,
            broken,
        } = backends;
        let (tracer, export) = otlp::start(&config.telemetry, &process, &config.amqp.names(), clock.clone(), &metrics)
            .map_err(anyhow::Error::msg)?;
        let sources = tool_sources(&config, &clock, &scalekit)?;
        let tool_catalog = ToolCatalog::new(config.tools.clone(), sources.clone(), cache.clone(), metrics.clone());
        let tool_catalog = Arc::new(tool_catalog);
        let parked = Arc::new(ParkedIndex::new(parking.clone(), cache.clone()));
        let accounts = Arc::new(SharedAccounts::new(scalekit.clone(), clock.clone()));
        let secrets = Secrets::parse(&config.scalekit.webhook_secret)
            .map_err(|problem| anyhow::anyhow!("scalekit.webhook_secret: {problem}"))?;
        let fan_out = FanOut {
            parked: parked.clone(),
            accounts: accounts.clone(),
            journal: journal.clone(),
            publisher: publisher.clone(),
            tool_catalog: tool_catalog.clone(),
            max_job_bytes: config.worker.max_job_bytes,
            header_key: HeaderKey::of(&config.scalekit.client_secret),
        };
        let webhooks = Webhooks::new(secrets, clock.clone(), cache.clone(), fan_out, shutdown.tracker());
        let encryption = config.journal.encryption().map_err(|problem| anyhow::anyhow!("journal.{problem}"))?;
        let audit = Audit::open(&config.audit, clock.clone(), telemetry::name_of(&config.log));
        let audit = audit.map_err(|problem| anyhow::anyhow!("audit.{problem}"))?;
        let approval_links = Arc::new(Links::new(&config.approval).map_err(|why| anyhow::anyhow!("approval.{why}"))?);
        let credential_watch = CredentialWatch {
            credentials: credentials.clone(),
            scalekit: scalekit.clone(),
            llm: llm.clone(),
            at_start: looks_first,
        };
        let poster = Poster::new(&config.reply_url, &config.http_client, clock.clone())
            .map_err(|problem| anyhow::anyhow!("reply_url.{problem}"))?;
        let call = Duration::from_secs(config.model.timeout_seconds);
        let spending = Arc::new(Spending::new(config.budget, budgets, call));
        metrics.model_cost(&llm.metric_name(&config.model.model), Some(Amount::ZERO));
        let executor = Executor {
            spending: spending.clone(),
            header_key: HeaderKey::of(&config.scalekit.client_secret),
            poster: Arc::new(poster),
            credentials: credentials.clone(),
            cooldowns: Cooldowns::new(cache.clone(), clock.clone()),
            fallbacks: Fallbacks::new(llm.clone(), config.producers.all.clone()),
            magic_links: Arc::new(MagicLinks::new(scalekit.clone(), cache, clock.clone(), encryption.clone())),
            scalekit,
            sources,
            accounts,
            llm,
            tool_catalog,
            offers: Offers::default(),
            approval_links: approval_links.clone(),
            parked,
            digests: digests.clone(),
            publisher: publisher.clone(),
            metrics: metrics.clone(),
            tracer,
            tracker: shutdown.tracker(),
            rules: executor_rules(&config),
        };
        let member_watch = MemberWatch::new(&config, &clock, &metrics, queues)?;
        let fleet_clock = FleetClock::new(reference, journal.clone(), metrics.clone());
        let rules = worker_rules(&config, process, encryption, audit.clone());
        let scheduler = Scheduler {
            store: digests,
            publisher: scheduled_jobs(publisher.clone(), &config),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rules: scheduler_rules(&config, rules.name.clone()),
            stop: shutdown.soft(),
            digests: Arc::default(),
            audit: audit.clone(),
        };
        let tool_catalog = executor.tool_catalog.clone();
        let defaults =
            Defaults { approval: config.approval.clone(), answer: config.answer.clone(), ..config.job.clone() };
        let runs = Runs {
            journal: journal.clone(),
            publisher: publisher.clone(),
            parking: parking.clone(),
            clock: clock.clone(),
            lifetimes: rules.lifetimes,
            header_key: rules.header_key.clone(),
            audit,
            name: format!("{}-decisions", rules.name),
        };
        let by_pages = Runs { name: format!("{}-pages", rules.name), ..runs.clone() };
        let by_http = Runs { name: format!("{}-http", rules.name), ..runs.clone() };
        let desk = DeadLetterDesk {
            operator: Operator::new(by_http.clone()),
            letters: dead_letters.clone(),
            reader: LetterReader {
                senders: rules.senders.clone(),
                header_key: rules.header_key.clone(),
                max_job_bytes: rules.max_job_bytes,
                encryption: rules.encryption.clone(),
            },
            one_at_a_time: tokio::sync::Mutex::default(),
        };
        let jobs = JobDoor {
            operator: Operator::new(by_http),
            admission: Admission {
                senders: rules.senders.clone(),
                publisher: publisher.clone(),
                llm: executor.llm.clone(),
                poster: executor.poster.clone(),
            },
            defaults: defaults.clone(),
            magic_links: executor.magic_links.clone(),
            max_job_bytes: rules.max_job_bytes,
            tracker: shutdown.tracker(),
        };
        let decider = Arc::new(Decider { runs, metrics: metrics.clone() });
        let pages = PageFacts {
            process: rules.name.clone(),
            journal: journal.clone(),
            runs: by_pages,
            doubtful: DoubtfulEffects::default(),
            spending,
            scheduler: None,
            examine: None,
            clock: clock.clone(),
            tracker: shutdown.tracker(),
        };
        let decisions = Arc::new(Decisions {
            decider: decider.clone(),
            publisher: publisher.clone(),
            clock: clock.clone(),
            stop: shutdown.soft(),
            tracker: shutdown.tracker(),
            max_bytes: config.worker.max_job_bytes,
            senders: rules.senders.clone(),
        });
        let worker = Worker::new(Parts {
            executor,
            journal,
            publisher,
            holder,
            backlog,
            fairness: config.fairness.clone(),
            dead_letters,
            clock,
            rules,
            defaults,
            stop: shutdown.soft(),
            tracker: shutdown.tracker(),
        });
        // A worker that stops takes no jobs, and is not to be killed for that.
        let stopping = shutdown.soft();
        let alive: Check = Arc::new(move || if stopping.is_cancelled() { Ok(()) } else { alive() });
        let stopping = shutdown.soft();
        let services: Arc<[(&'static str, Check)]> = services.into();
        let asked = services.clone();
        let ready: Check = Arc::new(move || {
            if stopping.is_cancelled() {
                return Err("shutting down".to_owned());
            }
            asked.iter().try_for_each(|(_, check)| check())?;
            credentials.problem().map_or(Ok(()), Err)
        });
        let tokens = Tokens::new(&config.http.tokens).map_err(|problem| anyhow::anyhow!("http.{problem}"))?;
        let facts = Endpoints {
            alive,
            ready,
            services,
            metrics,
            parking,
            webhooks: Arc::new(webhooks),
            decider,
            links: approval_links,
            tokens: Arc::new(tokens),
            producers: Arc::new(config.producers.all.clone()),
            jobs: Arc::new(jobs),
            dead_letters: Arc::new(desk),
            streams: Arc::new(Semaphore::new(config.http.max_streams)),
            stop: shutdown.soft(),
            pages,
        };
        Ok(Self {
            worker: Arc::new(worker),
            consumer,
            urgent,
            decisions: decision_consumer.map(|consumer| (decisions, consumer)),
            facts,
            config,
            shutdown,
            digests: None,
            scheduler,
            tool_catalog,
            broken,
            fleet_clock,
            member_watch,
            credential_watch,
            watch,
            export,
        })
    }

    /// The counters that `/metrics` prints, for a program that prints them itself.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.facts.metrics.clone()
    }

    /// The tool lists, for looking at tools without a job.
    pub fn tool_catalog(&self) -> Arc<ToolCatalog> {
        self.tool_catalog.clone()
    }

    /// Has [`App::run`] fire these as well.
    pub fn with_digests(mut self, digests: Arc<Digests>) -> Self {
        self.facts.pages.scheduler = Some(Scheduler { digests: digests.clone(), ..self.scheduler.clone() });
        self.digests = Some(digests);
        self
    }

    /// Has the page *Doctor* look by this.
    pub(crate) fn with_doctor(mut self, examine: Examine) -> Self {
        self.facts.pages.examine = Some(examine);
        self
    }

    /// A scheduler on this worker's queue and store, with a clock of its own.
    pub fn scheduler(&self, digests: Arc<Digests>, clock: SharedClock) -> Scheduler {
        Scheduler { clock, digests, ..self.scheduler.clone() }
    }

    /// Starts the HTTP server; the address is the bound one. It goes on until the process ends.
    pub async fn serve_http(&self) -> anyhow::Result<SocketAddr> {
        const OPERATION: &str = "/livez, /readyz, /metrics, /v1, /";
        const PUBLIC: &str = "/webhooks/scalekit, /approvals";
        let config = &self.config.http;
        let within = Duration::from_secs(config.timeout_seconds);
        let (operation, public) =
            (http_server::operation(within, self.config.worker.max_job_bytes), http_server::public(within));
        let Some(public_bind) = &config.public_bind else {
            return self.serve("bind", &config.bind, &format!("{OPERATION}, {PUBLIC}"), operation.merge(public)).await;
        };
        self.serve("public_bind", public_bind, PUBLIC, public).await?;
        self.serve("bind", &config.bind, OPERATION, operation).await
    }

    async fn serve(&self, key: &str, bind: &str, paths: &str, routes: Router<Endpoints>) -> anyhow::Result<SocketAddr> {
        let (listener, address) =
            http_server::listen(bind).await.with_context(|| format!("http.{key}: cannot listen on {bind}"))?;
        info!(%address, "HTTP: {paths}");
        let within = Duration::from_secs(self.config.http.timeout_seconds);
        let limits = http_server::ConnectionLimits { connections: self.config.http.max_connections, within };
        let serving = http_server::serve(listener, routes, self.facts.clone(), limits);
        self.shutdown.spawn_detached("HTTP server", serving);
        Ok(address)
    }

    /// Works until the shutdown is said and everything under way has ended, or was cut off.
    pub async fn run(self) -> Ended {
        // Before anything is fired or found to be due.
        self.fleet_clock.begin().await;
        if let Some(digests) = self.digests.clone() {
            let scheduler = Scheduler { digests, ..self.scheduler.clone() };
            self.shutdown.spawn("scheduler", async move { scheduler.run().await });
        }
        if let Some((decisions, consumer)) = self.decisions {
            self.shutdown.spawn("decisions", decisions.run(consumer));
        }
        self.shutdown.spawn("worker", self.worker.run(self.consumer, self.urgent));
        let (fleet_clock, broken, members) = (self.fleet_clock, self.broken, self.member_watch);
        let credentials = self.credential_watch;
        self.shutdown.spawn_until_stop("credentials", async move { credentials.keep().await });
        self.shutdown.spawn_until_stop("services", self.watch);
        self.shutdown.spawn_until_stop("clock", async move { fleet_clock.keep().await });
        self.shutdown.spawn_until_stop("connections", async move { broken.cancelled().await });
        self.shutdown.spawn_until_stop("members", async move { members.keep().await });
        let ended = self.shutdown.wait(self.config.worker.grace()).await;
        self.export.finish().await;
        ended
    }
}
