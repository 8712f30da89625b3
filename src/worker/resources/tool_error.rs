//! Why a source did not list its tools, or did not run one.

use std::time::Duration;

use crate::agent::effect::Ran;
use crate::job::ConnectionName;
use crate::reply::{ErrorCode, ErrorDetail};
use crate::retry::RetryDecision;
use crate::{mcp, scalekit};

/// A failure of whichever source it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// Scalekit's, or the provider's behind it.
    #[error(transparent)]
    Scalekit(#[from] scalekit::Error),
    /// An MCP server's.
    #[error(transparent)]
    Server(#[from] mcp::McpError),
    /// The connection is an MCP server that the operator has not configured.
    #[error("there is no such MCP server in the configuration")]
    NotConfigured {
        /// Those that there are.
        known: Vec<String>,
    },
}

impl ToolError {
    /// Whether the tool can have run.
    pub(crate) fn ran(&self) -> Ran {
        match self {
            Self::Scalekit(error) => error.ran(),
            Self::Server(error) => error.ran(),
            Self::NotConfigured { .. } => Ran::No,
        }
    }

    /// Whether this is the tool's definite answer, to be given to the model.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Scalekit(error) => error.is_answer(),
            Self::Server(error) => error.is_answer(),
            Self::NotConfigured { .. } => false,
        }
    }

    /// Whether running a tool again can help.
    pub(crate) fn retry_tool(&self) -> RetryDecision {
        match self {
            Self::Scalekit(error) => error.retry_tool(),
            Self::Server(error) => error.retry_tool(),
            Self::NotConfigured { .. } => RetryDecision::Stop,
        }
    }

    /// How long the source asks to wait.
    pub(crate) fn come_back_after(&self) -> Option<Duration> {
        match self {
            Self::Scalekit(error) => error.come_back_after(),
            Self::Server(error) => error.come_back_after(),
            Self::NotConfigured { .. } => None,
        }
    }

    /// Whether the source itself keeps failing, or says what makes no sense, in a call that may be made again: the model may
    /// find another way.
    pub(crate) fn is_the_tools_own(&self) -> bool {
        match self {
            Self::Scalekit(error) => matches!(
                error,
                scalekit::Error::ProviderFailed(_) | scalekit::Error::BadAnswer(_) | scalekit::Error::Refused { .. }
            ),
            Self::Server(error) => matches!(
                error,
                mcp::McpError::ServerFailed(_)
                    | mcp::McpError::BadAnswer(_)
                    | mcp::McpError::HeadersDiffer(_)
                    | mcp::McpError::Refused { .. }
            ),
            Self::NotConfigured { .. } => false,
        }
    }

    /// Whether the tool ran, failed, and may have done a part of it.
    pub(crate) fn is_half_done(&self) -> bool {
        matches!(self, Self::Server(mcp::McpError::ToolFailed(_) | mcp::McpError::WantsMore(_)))
    }

    /// Whether there is no such tool any more.
    pub(crate) fn is_unknown_tool(&self) -> bool {
        matches!(self, Self::Scalekit(scalekit::Error::UnknownTool(_)))
    }

    /// Whether the user's account must be read again, as the user may have to authorize.
    pub(crate) fn auth_lost(&self) -> bool {
        matches!(self, Self::Scalekit(error) if error.auth_lost())
    }

    /// Whether the user has no right to this.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Scalekit(error) if error.is_forbidden())
    }

    /// What ends the run, as no user and no waiting can mend it.
    pub(crate) fn operator_error(&self, connection: &ConnectionName) -> Option<ErrorDetail> {
        match self {
            Self::Scalekit(_) | Self::Server(_) => None,
            Self::NotConfigured { known } => Some(not_configured(connection, known)),
        }
    }

    /// Scalekit's id of the run of the tool.
    pub(crate) fn execution_id(&self) -> Option<String> {
        match self {
            Self::Scalekit(error) => error.details().execution_id.clone(),
            Self::Server(_) | Self::NotConfigured { .. } => None,
        }
    }

    /// A short stable name, for metrics and logs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Scalekit(error) => error.code(),
            Self::Server(error) => error.code(),
            Self::NotConfigured { .. } => "not_configured",
        }
    }

    /// The error without anybody's words, for log lines.
    pub(crate) fn outline(&self) -> String {
        match self {
            Self::Scalekit(error) => error.outline(),
            Self::Server(error) => error.outline(),
            error @ Self::NotConfigured { .. } => error.to_string(),
        }
    }
}

/// What is said of a server that the configuration does not have.
fn not_configured(connection: &ConnectionName, known: &[String]) -> ErrorDetail {
    let name = connection.mcp_server().unwrap_or_default();
    let text = format!("the operator has configured no MCP server for the connection `{connection}`");
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let hint =
        format!("the worker's configuration needs a section [mcp.{name}] with its `url`; its servers are: {known}");
    ErrorDetail::new(ErrorCode::ConnectionNotFound, text).hint(hint).connection(connection.as_str())
}
