//! What all routes of the stand-ins share.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accounts::Accounts;
use super::catalogue::Catalogue;
use super::faults::Faults;
use super::options::SandboxOptions;
use super::request_log::RequestLog;
use super::tool_calls::ToolCall;
use super::webhook::Sender;
use super::world::World;

pub(super) const CLIENT_ID: &str = "skc_sandbox";
pub(super) const CLIENT_SECRET: &str = "sandbox-client-secret";
pub(super) const API_KEY: &str = "sk-sandbox";

/// Options, state and the means to stop.
pub(super) struct Shared {
    pub(super) options: SandboxOptions,
    pub(super) base_url: String,
    pub(super) catalogue: Catalogue,
    pub(super) sender: Option<Sender>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    state: Mutex<State>,
}

/// Everything that changes while the stand-ins run.
#[derive(Default)]
pub(super) struct State {
    /// Access tokens and the instant each expires.
    pub(super) tokens: BTreeMap<String, Timestamp>,
    pub(super) accounts: Accounts,
    /// By identifier.
    pub(super) worlds: BTreeMap<String, World>,
    pub(super) tool_calls: Vec<ToolCall>,
    pub(super) faults: Faults,
    pub(super) requests: RequestLog,
    counter: u64,
}

impl Shared {
    /// Fails when the webhook's secret cannot be read.
    pub(super) fn new(options: SandboxOptions, base_url: String) -> io::Result<Self> {
        let sender = options.webhook.as_ref().map(Sender::new).transpose()?;
        Ok(Self {
            options,
            base_url,
            catalogue: Catalogue::load(),
            sender,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            state: Mutex::default(),
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// Never held over an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in the background until it ends or the sandbox stops.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }
}

impl State {
    /// Drops everything but the tokens given out; numbers go on, so that nothing old is taken for something new.
    pub(super) fn forget(&mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        *self = Self { tokens, counter: self.counter, ..Self::default() };
    }

    /// What belongs to `identifier`, made up at the first look.
    pub(super) fn world(&mut self, identifier: &str, now: Timestamp) -> &mut World {
        self.worlds.entry(identifier.to_owned()).or_insert_with(|| World::new(now))
    }

    /// A number that was not used before.
    pub(super) fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A word that looks random and differs at every call; nothing here needs to be unguessable.
    pub(super) fn next_word(&mut self, kind: &str) -> String {
        use std::fmt::Write as _;
        let digest = Sha256::digest(format!("{kind} {}", self.next_number()));
        digest.iter().take(12).fold(String::new(), |mut word, byte| {
            let _infallible = write!(word, "{byte:02x}");
            word
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}
