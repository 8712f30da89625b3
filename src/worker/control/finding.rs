//! Finding runs: by how they stand, whose they are, and when they changed.

use tracing::warn;

use crate::agent::run::Run;
use crate::job::JobId;
use crate::journal::index::{FoundRun, RunCursor, RunQuery};
use crate::journal::{Journal, JournalError};
use crate::standing::RunRow;

/// Some of the runs that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRuns {
    /// The one that changed last first.
    pub rows: Vec<RunRow>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<RunCursor>,
}

/// The runs that are asked for, each as its journal tells it, be that one of an earlier version.
pub async fn list(journal: &dyn Journal, query: &RunQuery) -> Result<FoundRuns, JournalError> {
    let page = journal.list(query).await?;
    let mut rows = Vec::with_capacity(page.runs.len());
    for run in page.runs {
        let row = match run {
            FoundRun::Certain(row) => Some(row),
            FoundRun::Unsaid(id) => of_entries(journal, &id).await?,
        };
        rows.extend(row.filter(|row| query.wants(row)));
    }
    Ok(FoundRuns { rows, next: page.next })
}

/// How a run stands, also where it was only announced and no worker has begun it; `None` where nothing is known of it.
pub async fn find(journal: &dyn Journal, id: &JobId) -> Result<Option<RunRow>, JournalError> {
    match journal.find(id).await? {
        Some(FoundRun::Certain(row)) => Ok(Some(row)),
        Some(FoundRun::Unsaid(_)) | None => of_entries(journal, id).await,
    }
}

async fn of_entries(journal: &dyn Journal, id: &JobId) -> Result<Option<RunRow>, JournalError> {
    match Run::replay(&journal.read(id).await?) {
        Ok(run) => Ok(run.map(|run| {
            let (state, at) = run.standing();
            RunRow { id: id.clone(), identifier: run.job().identifier.clone(), state, at }
        })),
        Err(error) => {
            warn!(job.id = %id, %error, "a run is not listed");
            Ok(None)
        }
    }
}
