//! `audit`: whether the record is as it was written.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::{CommandError, Context};
use crate::audit::{Verified, verify};

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArguments {
    /// What to do
    #[command(subcommand)]
    pub action: AuditAction,
}

/// What can be done about the record.
#[derive(Debug, Subcommand)]
pub enum AuditAction {
    /// Checks that no line was changed, moved or taken out
    #[command(after_help = "Examples:
  agentkit-worker audit verify /var/log/agentkit/audit.jsonl
  agentkit-worker audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl

Several files are checked as one chain, the oldest first. With audit.key set, every line must be signed with one of its keys.
Exit code 1 where it does not hold; the first line that is not as it was written is named. That lines were cut off at the
end shows only against a number and a hash that were kept elsewhere.")]
    Verify(VerifyArguments),
}

/// Which files.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The record's files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Carries out `audit`.
pub(crate) fn audit(context: &Context, arguments: &AuditArguments) -> Result<ExitCode, CommandError> {
    let AuditAction::Verify(VerifyArguments { files }) = &arguments.action;
    match verify(files, &context.config.audit.key).map_err(|bad| CommandError::Other(anyhow!(bad)))? {
        None => println!("no lines"),
        Some(Verified { first, last, hash }) => println!("lines {first} to {last} hold; the last hash is {hash}"),
    }
    Ok(ExitCode::SUCCESS)
}
