//! What all routes of the stand-ins share.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalogue::Catalogue;
use super::options::SandboxOptions;
use super::state::State;
use super::webhook::Sender;

pub(super) const CLIENT_ID: &str = "skc_sandbox";
pub(super) const CLIENT_SECRET: &str = "sandbox-client-secret";
pub(super) const API_KEY: &str = "sk-sandbox";
/// What the operator's own MCP server wants to see.
pub(super) const CRM_TOKEN: &str = "sandbox-crm-token";

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
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}
