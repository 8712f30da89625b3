//! Why a worker stops working on a run that has not come to its end.

use std::time::Duration;

use crate::job::ConnectionName;
use crate::journal::JournalError;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::scalekit;
use crate::worker::resources::tool_error::ToolError;

/// No answer yet. Never an answer that the caller is owed, and never a failure of the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Interruption {
    /// The worker shuts down: the message goes back to the queue, at no cost to the job.
    #[error("the worker shuts down")]
    Shutdown,
    /// Somebody else has the run: write nothing, send nothing, execute nothing more.
    #[error("the run belongs to another worker")]
    OwnershipLost,
    /// The user must authorize first; look again after the wait.
    #[error("waiting for the user's authorization")]
    Authorization {
        /// Until the next look, unless something wakes the run earlier.
        wait: Duration,
    },
    /// A person must approve first; look again after the wait.
    #[error("waiting for a person's approval")]
    Approval {
        /// Until the next look, unless a decision wakes the run earlier.
        wait: Duration,
    },
    /// Somebody asked to come later; costs the job no attempt.
    #[error("asked to come later: {reason}")]
    RateLimited {
        /// How much later.
        wait: Duration,
        /// Who asked, in their words.
        reason: String,
        /// The same without anybody's words.
        outline: String,
    },
    /// Something failed that should pass; costs the job an attempt.
    #[error("{reason}")]
    Transient {
        /// What failed, for the reply that ends the attempts.
        reason: String,
        /// The same without anybody's words.
        outline: String,
    },
    /// A source of tools cannot be reached, or wants to be left alone; costs the job an attempt, or one of those that may be
    /// told to come later.
    #[error("{reason}")]
    SourceAway {
        /// Whose tools they are.
        connection: ConnectionName,
        /// How much later it wants to be asked, where it says so.
        wait: Option<Duration>,
        /// What failed, for the reply that ends the attempts.
        reason: String,
        /// The same without anybody's words.
        outline: String,
    },
    /// A service refuses the worker's credentials; costs the job nothing while it refuses everybody's.
    #[error("{reason}")]
    Credentials {
        /// Who refuses them, in their words.
        reason: String,
        /// The same without anybody's words.
        outline: String,
    },
    /// The reply queue takes nothing, and the run cannot go on before its caller was told; costs the job nothing.
    #[error("the caller could not be told: {0}")]
    ReplyNotTaken(String),
    /// The journal cannot be reached: nothing can be decided, nothing may be done; costs the job nothing.
    #[error("the journal is unavailable: {0}")]
    JournalUnavailable(String),
    /// The journal of the run is gone.
    #[error("the journal of the run is gone: the store lost its data")]
    JournalLost,
    /// The broker did not become the witness of a call that is more than reading, so the call was not made.
    #[error("the call waits for the broker: {0}")]
    Unwitnessed(String),
    /// The audit record did not take the line of a call that is more than reading, so the call was not made; costs the job
    /// nothing.
    #[error("the call waits: {0}")]
    Unrecorded(String),
    /// The journal says what cannot be.
    #[error("the journal of the run is damaged: {0}")]
    Damaged(String),
    /// The worker was about to write what cannot follow: a bug, and the journal is whole.
    #[error("the worker wanted to journal what cannot follow: {0}")]
    Illegal(String),
    /// The attempt panicked: a bug. It counts as a crash of its worker.
    #[error("the attempt panicked: {0}")]
    Panicked(String),
}

impl Interruption {
    /// A failure that is told in words of our own.
    pub(crate) fn transient(reason: String) -> Self {
        Self::Transient { outline: reason.clone(), reason }
    }

    /// In few words, for traces.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::OwnershipLost => "ownership_lost",
            Self::Authorization { .. } => "authorization",
            Self::Approval { .. } => "approval",
            Self::RateLimited { .. } | Self::SourceAway { wait: Some(_), .. } => "rate_limited",
            Self::Transient { .. } | Self::SourceAway { wait: None, .. } => "transient",
            Self::Credentials { .. } => "credentials",
            Self::ReplyNotTaken(_) => "reply_not_taken",
            Self::JournalUnavailable(_) => "journal_unavailable",
            Self::JournalLost => "journal_lost",
            Self::Unwitnessed(_) => "unwitnessed",
            Self::Unrecorded(_) => "unrecorded",
            Self::Damaged(_) => "damaged",
            Self::Illegal(_) => "illegal",
            Self::Panicked(_) => "panic",
        }
    }

    /// Whether something went wrong: waiting for people and giving a run back in good order is none of it.
    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self, Self::Shutdown | Self::OwnershipLost | Self::Authorization { .. } | Self::Approval { .. })
    }

    /// The interruption without anybody's words, which may repeat what a user wrote: for log lines.
    pub(crate) fn outline(&self) -> String {
        match self {
            Self::RateLimited { outline, .. } => format!("asked to come later: {outline}"),
            Self::Transient { outline, .. } | Self::Credentials { outline, .. } | Self::SourceAway { outline, .. } => {
                outline.clone()
            }
            why => why.to_string(),
        }
    }
}

impl From<JournalError> for Interruption {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::OwnershipLost => Self::OwnershipLost,
            JournalError::Lost => Self::JournalLost,
            JournalError::Unavailable(reason) => Self::JournalUnavailable(reason),
            JournalError::Decrypt(error) => Self::JournalUnavailable(error.to_string()),
        }
    }
}

/// What a failed control call means for the run.
impl From<&scalekit::Error> for Interruption {
    fn from(error: &scalekit::Error) -> Self {
        let (reason, outline) = (error.to_string(), error.outline());
        match (error, error.come_back_after()) {
            (scalekit::Error::Credentials(_), _) => Self::Credentials { reason, outline },
            (_, Some(wait)) => Self::RateLimited { wait, reason, outline },
            (_, None) => Self::Transient { reason, outline },
        }
    }
}

impl Interruption {
    /// What it means for the run that a source did not list its tools, or did not run one.
    pub(crate) fn of_source(connection: &ConnectionName, error: &ToolError) -> Self {
        match error {
            ToolError::Scalekit(error) => Self::from(error),
            error => Self::SourceAway {
                connection: connection.clone(),
                wait: error.come_back_after(),
                reason: format!("the MCP server of connection `{connection}`: {error}"),
                outline: error.outline(),
            },
        }
    }
}

/// What to do where Scalekit refuses a request for good and says why in its own words.
const REFUSED_HINT: &str = "see Scalekit's words; check the job's `identifier` and `connections`, what the client id may do, \
                            and `scalekit.user_verify_url`, then send the job again under a new id";

/// An error of a call that runs no tool, which no user and no waiting can mend.
pub(crate) fn operator_error(connection: &ConnectionName, error: &scalekit::Error) -> Option<ErrorDetail> {
    let (code, text) = match error {
        scalekit::Error::ConnectionNotFound { .. } => {
            (ErrorCode::ConnectionNotFound, format!("Scalekit knows no connection `{connection}`"))
        }
        scalekit::Error::ConnectionDisabled { .. } => {
            (ErrorCode::ConnectionDisabled, format!("connection `{connection}` is not enabled"))
        }
        error if error.is_final() => {
            let request = error.details().request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default();
            let text = format!("Scalekit does not take a request about connection `{connection}`: {error}{request}");
            let detail = ErrorDetail::new(ErrorCode::Internal, text).hint(REFUSED_HINT);
            return Some(detail.connection(connection.as_str()));
        }
        _ => return None,
    };
    Some(ErrorDetail::new(code, text).connection(connection.as_str()))
}
