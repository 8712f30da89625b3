//! Erasing what is kept of runs in Redis: all of them are gone over, as the index may lack some.

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::{ScriptInvocation, cmd};
use percent_encoding::percent_decode_str;

use super::encrypted::Stored;
use super::redis::RedisJournal;
use super::{FencingToken, JournalError, milliseconds};
use crate::job::{Identifier, JobId};
use crate::redis_client::{KeyScan, RedisClient};

/// All runs of which anything is kept.
pub struct StoredRuns {
    client: RedisClient,
    scans: Vec<(&'static str, KeyScan)>,
}

impl StoredRuns {
    /// Some more of them, some of them twice; `None` after the last ones. The worker's own records are none.
    pub async fn next(&mut self) -> Result<Option<Vec<JobId>>, JournalError> {
        while let Some((kind, scan)) = self.scans.last_mut() {
            let Some(keys) = scan.next().await? else {
                self.scans.pop();
                continue;
            };
            let id = |key: &String| {
                let name =
                    self.client.without_prefix(key)?.strip_prefix(*kind)?.strip_prefix(":{")?.strip_suffix('}')?;
                JobId::from_key(&percent_decode_str(name).decode_utf8().ok()?)
            };
            return Ok(Some(keys.iter().filter_map(id).collect()));
        }
        Ok(None)
    }
}

impl RedisJournal {
    /// Goes over all runs, with an index entry or without.
    pub async fn stored_runs(&self) -> Result<StoredRuns, JournalError> {
        let mut scans = Vec::new();
        for kind in ["sealed", "run"] {
            scans.push((kind, self.client.scan(&format!("{kind}:{{")).await?));
        }
        Ok(StoredRuns { client: self.client.clone(), scans })
    }

    /// Takes a run out of the index, and puts `tombstone` in the place of all that is kept of a run, for as long as that would have been kept, at least for
    /// `least`. Only where it was claimed under this token and by nobody since. May be repeated.
    pub async fn entomb(
        &self,
        job: &JobId,
        identifier: &Identifier,
        token: FencingToken,
        tombstone: &[String],
        least: Duration,
    ) -> Result<(), JournalError> {
        self.index.leave(job, identifier).await?;
        let keep: i64 = self.client.query(cmd("PTTL").arg(self.sealed_key(job))).await?;
        let keep = u64::try_from(keep).unwrap_or(0).max(milliseconds(least));
        let tombstone = self.contents.encrypt(job, Stored::Remains, 0, tombstone);
        let arguments = |script: &mut ScriptInvocation<'_>| {
            script.arg(keep).arg("");
            for line in &tombstone {
                script.arg(&**line);
            }
        };
        self.change::<String>(&self.sealed_key(job), &self.keep, arguments).await?;
        let mut delete = self.delete.key(self.key(job));
        Ok(self.client.run::<String>(delete.arg(token.0)).await.map(drop)?)
    }

    /// Takes the runs of a user out of the index, but for `left`; says how many there were.
    pub async fn unindex(
        &self,
        identifier: &Identifier,
        left: &BTreeSet<JobId>,
        for_real: bool,
    ) -> Result<u64, JournalError> {
        Ok(self.index.erase(identifier, left, for_real).await?)
    }
}
