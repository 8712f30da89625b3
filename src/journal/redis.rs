//! Journals in Redis: one hash per run, changed by scripts, so each operation is one atomic step on one key.
//!
//! The hash has the fields `epoch`, `owner`, `lease` (when it ends, in milliseconds of Redis's own clock), `length`,
//! and the entries under `0`, `1`, …; before the first of these, `announced` may hold a note of the job. One key holds everything, so no eviction or expiry can take half of a run, and the
//! scripts run on a cluster node too. What remains of a run is a second hash, with `length` and entries alone; no script
//! touches both, as a cluster serves no two keys of a slot that moves while one of them is missing. Needs Redis 6 or later.
//!
//! A Redis that has reached its `maxmemory` takes no new runs, and what belongs to one that has begun all the same, from
//! Redis 7 on. An earlier one takes nothing then.
//!
//! Where a key is configured, entries are encrypted before they are appended, each bound to its run and its place there; no
//! script looks into them.
//!
//! Entries are read in pages of [`PAGE_BYTES`], each under a timeout of its own, so that a run of megabytes is read over
//! any link that carries one page in time.
//!
//! An acknowledged append can be lost by a restart without append-only file, by a power failure within the second
//! before `appendfsync everysec` writes, and by a fail-over to a replica that lags; killing Redis alone loses none.
//! `redis.durability` has the ones that matter most waited for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use ::redis::{FromRedisValue, Script, ScriptInvocation, Value, cmd, from_redis_value};
use async_trait::async_trait;
use jiff::Timestamp;
use tracing::warn;

use super::encrypted::{Contents, Stored};
use super::index::{DEFAULT_MOST_RUNS, FoundRun, Head, Indexed, RunPage, RunQuery};
use super::redis_change::{RunChange, read_as, unreadable, verdict};
use super::redis_index::RedisIndex;
use super::scripts::{
    ANNOUNCE, APPEND, BEGUN, CLAIM, DELETE, INDEX, KEEP, NOTE_STOLEN, PAGE, READ, RENEW, WHEN_FULL, WITHDRAW,
};
use super::{
    Announced, Append, Claim, ClaimMode, FencingToken, IDLE_RETENTION, Journal, JournalError, Remains,
    STOLEN_RETENTION, milliseconds,
};
use crate::encryption::Encryption;
use crate::job::JobId;
use crate::key::Key;
use crate::redis_client::{Durability, RedisClient, Unavailable};

/// At most so many bytes of entries are read in one answer.
const PAGE_BYTES: usize = 256 * 1024;

/// A run that is claimed or forgotten while it is read is read anew, so often at most.
const READS: u32 = 5;

/// The journals of all workers that share a Redis and a key prefix.
#[derive(Debug)]
pub struct RedisJournal {
    pub(super) client: RedisClient,
    pub(super) index: RedisIndex,
    pub(super) delete: Script,
    pub(super) contents: Contents,
    read: Script,
    claim: RunChange,
    append: RunChange,
    renew: RunChange,
    pub(super) keep: RunChange,
    note_stolen: Script,
    announce: Script,
    withdraw: Script,
}

/// The epoch, the length, index and offset of the next page, and the parts.
type Page = (Option<String>, Option<String>, u64, u64, Vec<Vec<u8>>);

impl RedisJournal {
    /// Journals kept through `client`, with an index of the usual size.
    pub fn new(client: RedisClient) -> Self {
        Self::with_index_of(client, DEFAULT_MOST_RUNS)
    }

    /// The same with an index of up to `most_runs` runs of each state, of all users and of each.
    pub fn with_index_of(client: RedisClient, most_runs: u64) -> Self {
        Self {
            index: RedisIndex::new(client.clone(), most_runs),
            client,
            delete: Script::new(DELETE),
            contents: Contents::default(),
            read: Script::new(&[PAGE, READ].concat()),
            claim: RunChange::new(&[PAGE, CLAIM].concat()),
            append: RunChange::new(&[INDEX, APPEND].concat()),
            renew: RunChange::new(RENEW),
            keep: RunChange::of_any_run(KEEP),
            note_stolen: Script::new(NOTE_STOLEN),
            announce: Script::new(ANNOUNCE),
            withdraw: Script::new(WITHDRAW),
        }
    }

    /// Entries are encrypted by `encryption`; those that were appended without are read all the same.
    pub fn encrypted(self, encryption: Encryption) -> Self {
        Self { contents: Contents(encryption), ..self }
    }

    pub(super) fn key(&self, job: &JobId) -> String {
        self.client.tagged_key("run", job.key())
    }

    /// Of what remains of the run.
    pub(super) fn sealed_key(&self, job: &JobId) -> String {
        self.client.tagged_key("sealed", job.key())
    }

    async fn run<T: FromRedisValue>(
        &self,
        key: &str,
        script: &Script,
        arguments: &(impl Fn(&mut ScriptInvocation<'_>) + Sync),
    ) -> Result<T, Unavailable> {
        let mut invocation = script.key(key);
        arguments(&mut invocation);
        self.client.run(&invocation).await
    }

    pub(super) async fn change<T: FromRedisValue>(
        &self,
        key: &str,
        change: &RunChange,
        arguments: impl Fn(&mut ScriptInvocation<'_>) + Sync,
    ) -> Result<T, Unavailable> {
        match self.run(key, &change.ordinary, &arguments).await {
            Err(full) if full.is_full() => self.run(key, &change.when_full, &arguments).await.map_err(|_| full),
            result => result,
        }
    }

    /// The word that an append is answered with; the index is told `news`, where there are any, in the same step.
    async fn appended(
        &self,
        job: &JobId,
        append: &Append<'_>,
        entries: &[Cow<'_, [u8]>],
        head: &str,
        news: Option<&Indexed<'_>>,
    ) -> Result<String, Unavailable> {
        let sets = news.map(|news| self.index.sets(news)).unwrap_or_default();
        let key = self.key(job);
        let change = self.change::<String>(&key, &self.append, |script| {
            for set in &sets {
                script.key(set);
            }
            script.arg(append.token.0).arg(milliseconds(append.lease));
            script.arg(milliseconds(append.retain.max(append.lease))).arg(append.sequence).arg(head);
            match news {
                Some(news) => {
                    script.arg(news.since.as_millisecond()).arg(milliseconds(news.keep));
                    script.arg(self.index.most_runs()).arg(job.key());
                }
                None => {
                    script.arg(&["", "", "", ""]);
                }
            }
            for entry in entries {
                script.arg(&**entry);
            }
        });
        change.await
    }

    fn stolen_key(&self) -> String {
        self.client.full_key(&Key::new(&["forced"]))
    }

    /// The former owner learns of it at its next renewal where this fails, so that is no reason to fail.
    async fn note_stolen(&self, job: &JobId, token: FencingToken) {
        let mut script = self.note_stolen.key(self.stolen_key());
        script.arg(token.0).arg(job.key()).arg(milliseconds(STOLEN_RETENTION));
        if let Err(error) = self.client.run::<()>(&script).await {
            warn!(job.id = %job, %error, "the run's former owner could not be told at once");
        }
    }

    async fn page(&self, key: &str, index: u64, offset: u64) -> Result<Page, JournalError> {
        let arguments = |script: &mut ScriptInvocation<'_>| {
            script.arg(index).arg(offset).arg(PAGE_BYTES);
        };
        read_as(self.run(key, &self.read, &arguments).await?)
    }

    /// All entries, of which `page` holds the first. What comes after somebody claimed the run, or its time was over, need
    /// not belong to what came before: [`JournalError::OwnershipLost`], [`JournalError::Lost`].
    async fn entries(&self, key: &str, page: Page) -> Result<Vec<Vec<u8>>, JournalError> {
        let (first_epoch, first_length, mut index, mut offset, mut entries) = page;
        let length: u64 = match &first_length {
            None => 0,
            Some(text) => text.parse().map_err(|_| unreadable("its length"))?,
        };
        while index < length {
            let continued = offset > 0;
            let (epoch, present_length, next_index, next_offset, parts) = self.page(key, index, offset).await?;
            if epoch != first_epoch {
                return Err(JournalError::OwnershipLost);
            }
            if (next_index, next_offset) == (index, offset) {
                let forgotten = present_length != first_length;
                return Err(if forgotten { JournalError::Lost } else { unreadable("a missing entry") });
            }
            (index, offset) = (next_index, next_offset);
            let mut parts = parts.into_iter();
            if continued && let (Some(last), Some(rest)) = (entries.last_mut(), parts.next()) {
                last.extend(rest);
            }
            entries.extend(parts);
        }
        Ok(entries)
    }
}

impl RedisJournal {
    async fn read_key(&self, key: &str) -> Result<Vec<Vec<u8>>, JournalError> {
        for _ in 0..READS {
            let first = self.page(key, 0, 0).await?;
            match self.entries(key, first).await {
                Err(JournalError::OwnershipLost | JournalError::Lost) => {}
                read => return read,
            }
        }
        Err(unreadable("it changes all the time"))
    }

    /// `entries` of the run, or what remains of it where there are none.
    async fn or_remains(&self, job: &JobId, entries: Vec<Vec<u8>>) -> Result<Vec<String>, JournalError> {
        if !entries.is_empty() {
            return self.contents.decrypt(job, Stored::Entry, entries);
        }
        let remains = self.read_key(&self.sealed_key(job)).await?;
        self.contents.decrypt(job, Stored::Remains, remains)
    }
}

#[async_trait]
impl Journal for RedisJournal {
    async fn claim(&self, job: &JobId, owner: &str, lease: Duration, mode: ClaimMode) -> Result<Claim, JournalError> {
        let word = match mode {
            ClaimMode::IfFree => "if_free",
            ClaimMode::Steal => "steal",
        };
        let key = self.key(job);
        let change = self.change(&key, &self.claim, |script| {
            script.arg(owner).arg(milliseconds(lease)).arg(milliseconds(lease.saturating_add(IDLE_RETENTION)));
            script.arg(word).arg(PAGE_BYTES);
        });
        let answer: Value = change.await?;
        match from_redis_value::<(u8, Value, Value)>(answer) {
            Ok((1, token, page)) => {
                let token = FencingToken(read_as(token)?);
                if mode == ClaimMode::Steal {
                    self.note_stolen(job, token).await;
                }
                let entries = self.entries(&key, read_as(page)?).await?;
                let entries = self.or_remains(job, entries).await;
                if let Err(JournalError::Decrypt(_)) = entries {
                    // Whoever has the key need not wait for this lease.
                    self.renew(job, token, Duration::ZERO).await?;
                }
                Ok(Claim::Granted { token, entries: entries? })
            }
            Ok((_, owner, remaining)) => {
                Ok(Claim::Held { owner: read_as(owner)?, remaining: Duration::from_millis(read_as(remaining)?) })
            }
            Err(_) => Err(unreadable("an answer of another form")),
        }
    }

    async fn append(&self, job: &JobId, append: Append<'_>) -> Result<(), JournalError> {
        let length = append.sequence.saturating_add(append.entries.len() as u64);
        let head = append.index.as_ref().map(|indexed| Head::print(length, indexed)).unwrap_or_default();
        // Before the end that they are of: nobody looks at them while the run has entries.
        if let Some(Remains { entries, retain }) = append.remains {
            let entries = self.contents.encrypt(job, Stored::Remains, 0, entries);
            let keep = |script: &mut ScriptInvocation<'_>| {
                script.arg(milliseconds(retain)).arg(&head);
                for entry in &entries {
                    script.arg(&**entry);
                }
            };
            self.change::<String>(&self.sealed_key(job), &self.keep, keep).await?;
        }
        let entries = self.contents.encrypt(job, Stored::Entry, append.sequence, append.entries);
        let news = append.index.filter(Indexed::is_news);
        if self.index.is_together() {
            match self.appended(job, &append, &entries, &head, news.as_ref()).await {
                Err(refused) if refused.is_cross_slot() => self.index.split(),
                word => return verdict(&word?),
            }
        }
        verdict(&self.appended(job, &append, &entries, &head, None).await?)?;
        if let Some(news) = news {
            self.index.tell(job, &news).await;
        }
        Ok(())
    }

    async fn renew(&self, job: &JobId, token: FencingToken, lease: Duration) -> Result<(), JournalError> {
        let key = self.key(job);
        let change = self.change::<String>(&key, &self.renew, |script| {
            script.arg(token.0).arg(milliseconds(lease)).arg(milliseconds(lease.saturating_add(IDLE_RETENTION))).arg(0);
        });
        verdict(&change.await?)
    }

    /// Renews the lease where the entries are there, and waits until that is durable: they stand before it, also where the
    /// server is another one by now than the one that took them. The text is sent each time, as a script that has to be
    /// loaded first could not go out together with the question.
    async fn secure(
        &self,
        job: &JobId,
        token: FencingToken,
        entries: u64,
        lease: Duration,
    ) -> Result<(), JournalError> {
        if self.client.durability() == Durability::Default {
            return Ok(());
        }
        let key = self.key(job);
        let write = |begin: &[&str]| {
            let mut write = cmd("EVAL");
            write.arg([begin, &[RENEW]].concat().concat()).arg(1).arg(&key).arg(token.0).arg(milliseconds(lease));
            write.arg(milliseconds(lease.saturating_add(IDLE_RETENTION))).arg(entries);
            self.client.write_durably::<String>(&key, write)
        };
        let written = match write(&[]).await {
            Err(full) if full.is_full() => write(&[WHEN_FULL, BEGUN]).await.map_err(|_| full),
            result => result,
        };
        verdict(&written?)
    }

    async fn read(&self, job: &JobId) -> Result<Vec<String>, JournalError> {
        let entries = self.read_key(&self.key(job)).await?;
        self.or_remains(job, entries).await
    }

    async fn length(&self, job: &JobId) -> Result<u64, JournalError> {
        let answer: Value = self.client.query(cmd("HGET").arg(self.key(job)).arg("length")).await?;
        Ok(read_as::<Option<u64>>(answer)?.unwrap_or(0))
    }

    async fn announce(&self, job: &JobId, note: &str, retain: Duration) -> Result<Announced, JournalError> {
        let encrypted = self.contents.encrypt_one(job, Stored::Note, 0, note);
        let arguments = |script: &mut ScriptInvocation<'_>| {
            script.arg(&*encrypted).arg(milliseconds(retain));
        };
        let answer: Value = self.run(&self.key(job), &self.announce, &arguments).await?;
        let (begun, kept) = read_as::<(u8, Vec<u8>)>(answer)?;
        if begun > 0 {
            return Ok(Announced::Begun);
        }
        let kept = self.contents.decrypt_one(job, Stored::Note, 0, kept)?;
        Ok(if kept == note { Announced::Kept } else { Announced::Other(kept) })
    }

    async fn announced(&self, job: &JobId) -> Result<Option<String>, JournalError> {
        let answer: Value = self.client.query(cmd("HGET").arg(self.key(job)).arg("announced")).await?;
        let kept: Option<Vec<u8>> = read_as(answer)?;
        kept.map(|kept| self.contents.decrypt_one(job, Stored::Note, 0, kept)).transpose()
    }

    async fn withdraw(&self, job: &JobId, note: &str, retain: Duration) -> Result<(), JournalError> {
        let note = self.contents.encrypt_one(job, Stored::Note, 0, note);
        let arguments = |script: &mut ScriptInvocation<'_>| {
            script.arg(&*note).arg(milliseconds(retain));
        };
        Ok(self.run::<()>(&self.key(job), &self.withdraw, &arguments).await?)
    }

    async fn find(&self, job: &JobId) -> Result<Option<FoundRun>, JournalError> {
        Ok(self.index.find(job).await?)
    }

    async fn list(&self, query: &RunQuery) -> Result<RunPage, JournalError> {
        Ok(self.index.list(query).await?)
    }

    async fn now(&self) -> Result<Timestamp, JournalError> {
        Ok(self.client.time().await?)
    }

    async fn stolen(&self) -> Result<HashMap<JobId, FencingToken>, JournalError> {
        let key = self.stolen_key();
        let answer: Value = self.client.query(cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES")).await?;
        let pairs: Vec<(String, u64)> = read_as(answer)?;
        Ok(pairs.into_iter().filter_map(|(job, token)| Some((JobId::from_key(&job)?, FencingToken(token)))).collect())
    }
}
