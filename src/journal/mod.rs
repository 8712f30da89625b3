//! The journal edge: how far each run has come, and who may go on with it.
//!
//! Two implementations, [`mod@redis`] and [`memory`], pass one contract test suite. Entries are opaque lines of JSON here; their
//! meaning is `agent::event`'s.

mod config;
mod encrypted;
pub mod index;
pub mod memory;
pub mod redis;
mod redis_change;
pub mod redis_erase;
mod redis_index;
mod scripts;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use self::config::JournalConfig;
use self::index::{FoundRun, Indexed, RunPage, RunQuery};
use crate::encryption::DecryptError;
use crate::job::JobId;

/// How long a run that was taken is kept beyond its lease where no append asked for longer. An hour, so that a worker
/// that was asleep meanwhile still learns who has its run.
const IDLE_RETENTION: Duration = Duration::from_hours(1);

/// Runs stolen are told of for so long; a few times as long as anybody waits between two looks.
const STOLEN_RETENTION: Duration = Duration::from_secs(30);

/// What a worker holds of a run: the number that every append must carry. Rises with each claim, also after the store
/// lost its data (it is at least the store's time in milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

/// The answer to [`Journal::claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The run is ours, under this fencing token, and this is how far it has come.
    Granted {
        /// Goes into every append.
        token: FencingToken,
        /// All entries so far, oldest first, or what remains of them.
        entries: Vec<String>,
    },
    /// Another worker's lease on it is alive.
    Held {
        /// The process that holds that lease, unique at every start.
        owner: String,
        /// How long its lease lasts unless renewed.
        remaining: Duration,
    },
}

/// How a run is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimMode {
    /// Only where no other owner's lease is alive. The same owner takes its own run again at once.
    IfFree,
    /// In any case: the present owner finds its next append refused. For operators' commands.
    Steal,
}

/// What is appended, and under which conditions.
#[derive(Debug, Clone, Copy)]
pub struct Append<'a> {
    /// The fencing token that the run was claimed with.
    pub token: FencingToken,
    /// How many entries there are before this append.
    pub sequence: u64,
    /// The entries, each one JSON text; all or none are appended.
    pub entries: &'a [String],
    /// How long the lease lasts from now on; zero gives the run free.
    pub lease: Duration,
    /// How long the journal is kept from now on; at least as long as the lease.
    pub retain: Duration,
    /// Kept before the entries are appended, instead of what was kept before.
    pub remains: Option<Remains<'a>>,
    /// How the run stands then, where lists shall find it.
    pub index: Option<Indexed<'a>>,
}

/// What claims and reads find of a run, as its entries, when its journal is gone. Nothing can be appended to it.
#[derive(Debug, Clone, Copy)]
pub struct Remains<'a> {
    /// At most a few lines of JSON: what started the run, what it did, how it ended.
    pub entries: &'a [String],
    /// How long they are kept from now on.
    pub retain: Duration,
}

/// The answer to [`Journal::announce`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// The note is kept, until the run begins.
    Kept,
    /// Another note is there, and stays.
    Other(String),
    /// The run has begun: its entries tell more.
    Begun,
}

/// Why the journal did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// Somebody else took the run (higher token), or entries are there that we did not write. Stop, publish nothing.
    #[error("the run was taken over by another worker")]
    OwnershipLost,
    /// The journal of the run is gone or shorter than it was: the store lost its data, or the run's time to be kept is
    /// over. Nobody else has the run; taking it again starts from what is left.
    #[error("the journal of the run is gone: the store lost its data")]
    Lost,
    /// The store cannot be reached, is read-only, or did not answer in time; an append may have happened (repeating the very
    /// same append is safe: it is then recognised).
    #[error("journal unavailable: {0}")]
    Unavailable(String),
    /// The journal is there, and what stands in it cannot be decrypted. Nothing was changed, and nobody has the run for that.
    #[error("the journal of the run cannot be read: {0}")]
    Decrypt(#[from] DecryptError),
}

/// The journals of all runs.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Claims the run of `job` for `owner`, for as long as `lease` lasts without an append or renewal. Fails where somebody
    /// else takes it while it is read.
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError>;
    /// Appends entries in one atomic step, only where the token is ours and the sequence is as expected. An append that
    /// already happened in the same form (answer lost on the way) succeeds without a second copy. Renews the lease, or gives
    /// the run free.
    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError>;
    /// Renews the lease, or gives the run free where `lease` is zero. Only where the token is ours.
    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError>;
    /// Returns once the first `entries` entries have survived what the store was told to (`redis.durability`), be that
    /// nothing; the lease may be renewed. Only where the token is ours. A store that cannot do it is unavailable.
    async fn secure(&self, job: &JobId, token: FencingToken, entries: u64, lease: Duration)
    -> Result<(), JournalError>;
    /// All entries of a run, oldest first, or what remains of them, without claiming it; empty where there is none.
    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError>;
    /// How many entries a run has; 0 where its journal is gone, whatever remains of it.
    async fn length(&self, job: &JobId) -> Result<u64, JournalError>;
    /// Keeps `note` of a job whose run has not begun, for `retain` or longer, where it was kept for longer before. It is gone
    /// with the first append.
    async fn announce(&self, job: &JobId, note: &str, retain: Duration) -> Result<Announced, JournalError>;
    /// The note of a job whose run has not begun, if there is one.
    async fn announced(&self, job: &JobId) -> Result<Option<String>, JournalError>;
    /// Forgets this very note, unless it is kept for longer than `retain` from now on.
    async fn withdraw(&self, job: &JobId, note: &str, retain: Duration) -> Result<(), JournalError>;
    /// How a run stands, also where it was only announced; `None` where nothing is known of it.
    async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, JournalError>;
    /// The runs that are asked for, each as its journal tells it. A page may be shorter than what was asked for, and another
    /// one follow. What was not appended to since the index began is not in it.
    async fn list(&self, query: &RunQuery) -> Result<RunPage, JournalError>;
    /// The store's own time, by which leases end; the same for all workers.
    async fn now(&self) -> Result<Timestamp, JournalError>;
    /// The runs that were stolen in the last half minute and under which token, so that their former owners need
    /// not wait for an append or renewal to learn it. Best effort: one may be missing, and one more may be there.
    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError>;
}

/// Redis refuses an expiry that overflows its clock, so a century is for ever.
fn milliseconds(duration: Duration) -> u64 {
    const CENTURY: Duration = Duration::from_hours(24 * 365 * 100);
    u64::try_from(duration.min(CENTURY).as_millis()).expect("a century in milliseconds fits")
}
