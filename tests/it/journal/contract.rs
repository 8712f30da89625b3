//! What every journal promises, asked of both; of the one in Redis on a cluster too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::encryption::Encryption;
use agentkit_worker::internals::journal::memory::MemoryJournal;
use agentkit_worker::internals::journal::redis::RedisJournal;
use agentkit_worker::internals::journal::{
    Announced, Append, Claim, ClaimMode, FencingToken, Journal, JournalError, Remains,
};
use agentkit_worker::job::JobId;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Barrier;

use crate::support::redis::AnyRedis;
use crate::support::shortly;

const LEASE: Duration = Duration::from_secs(30);
const RETAIN: Duration = Duration::from_hours(1);
const KEY: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";

/// A journal under test, and how its time passes.
struct JournalUnderTest {
    journal: Arc<dyn Journal>,
    clock: Option<Arc<ManualClock>>,
    _redis: Option<AnyRedis>,
}

impl JournalUnderTest {
    fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_800_000_000).unwrap()));
        Self { journal: Arc::new(MemoryJournal::new(clock.clone(), 1000)), clock: Some(clock), _redis: None }
    }

    async fn redis() -> Self {
        Self::on(AnyRedis::start().await, "")
    }

    /// Encrypted as well, which must make no difference.
    async fn cluster() -> Self {
        Self::on(AnyRedis::cluster().await, KEY)
    }

    fn on(redis: AnyRedis, key: &str) -> Self {
        let journal = RedisJournal::new(redis.client()).encrypted(Encryption::new(&key.into()).unwrap());
        Self { journal: Arc::new(journal), clock: None, _redis: Some(redis) }
    }

    /// Asks until the answer is there; a manual clock moves on by 10 ms each time, as the real one does.
    async fn later<T>(&self, what: &str, ask: impl AsyncFn(&dyn Journal) -> Option<T>) -> T {
        shortly(what, async || {
            if let Some(clock) = &self.clock {
                clock.advance(SignedDuration::from_millis(10));
            }
            ask(&*self.journal).await
        })
        .await
    }

    async fn claim(&self, job: &JobId, owner: &str, mode: ClaimMode) -> (FencingToken, Vec<String>) {
        taken(self.journal.claim(job, owner, LEASE, mode).await).unwrap_or_else(|other| panic!("{owner}: {other:?}"))
    }

    async fn append(
        &self,
        job: &JobId,
        token: FencingToken,
        sequence: u64,
        entries: &[&str],
    ) -> Result<(), JournalError> {
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        self.journal
            .append(
                job,
                Append { token, sequence, entries: &entries, lease: LEASE, retain: RETAIN, remains: None, index: None },
            )
            .await
    }

    async fn entries(&self, job: &JobId) -> Vec<String> {
        self.journal.read(job).await.unwrap()
    }
}

fn taken(answer: Result<Claim, JournalError>) -> Result<(FencingToken, Vec<String>), Result<Claim, JournalError>> {
    match answer {
        Ok(Claim::Granted { token, entries }) => Ok((token, entries)),
        other => Err(other),
    }
}

fn job(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

async fn a_run_is_empty_at_first_and_held_by_one_owner(subject: &JournalUnderTest) {
    let job = job("a");
    assert_eq!(subject.entries(&job).await, Vec::<String>::new());
    let (_, entries) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    assert_eq!(entries, Vec::<String>::new());
    match subject.journal.claim(&job, "two", LEASE, ClaimMode::IfFree).await {
        Ok(Claim::Held { owner, remaining }) => {
            assert_eq!(owner, "one");
            assert!(remaining > LEASE / 2 && remaining <= LEASE, "{remaining:?}");
        }
        other => panic!("{other:?}"),
    }
}

async fn an_owner_takes_its_own_run_again_at_once(subject: &JournalUnderTest) {
    let job = job("a");
    let (first, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    subject.append(&job, first, 0, &["x"]).await.unwrap();
    let (second, entries) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    assert!(second > first);
    assert_eq!(entries, ["x"]);
    assert!(matches!(subject.append(&job, first, 1, &["y"]).await, Err(JournalError::OwnershipLost)));
}

async fn a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused(subject: &JournalUnderTest) {
    let job = job("a");
    let short = Duration::from_millis(150);
    let (old, _) = taken(subject.journal.claim(&job, "one", short, ClaimMode::IfFree).await).unwrap();
    let entries = ["x".to_owned()];
    let append =
        Append { token: old, sequence: 0, entries: &entries, lease: short, retain: RETAIN, remains: None, index: None };
    subject.journal.append(&job, append).await.unwrap();
    let (new, entries) = subject
        .later("the lease runs out", async |journal| {
            taken(journal.claim(&job, "two", LEASE, ClaimMode::IfFree).await).ok()
        })
        .await;
    assert!(new > old);
    assert_eq!(entries, ["x"]);
    assert!(matches!(subject.append(&job, old, 1, &["y"]).await, Err(JournalError::OwnershipLost)));
    assert!(matches!(subject.append(&job, old, 0, &["x"]).await, Err(JournalError::OwnershipLost)));
    assert!(matches!(subject.journal.renew(&job, old, LEASE).await, Err(JournalError::OwnershipLost)));
    assert!(matches!(subject.journal.renew(&job, old, Duration::ZERO).await, Err(JournalError::OwnershipLost)));
    subject.append(&job, new, 1, &["z"]).await.unwrap();
    assert_eq!(subject.entries(&job).await, ["x", "z"]);
}

async fn an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = taken(subject.journal.claim(&job, "one", Duration::ZERO, ClaimMode::IfFree).await).unwrap();
    subject.append(&job, token, 0, &["x"]).await.unwrap();
    let held = subject.journal.claim(&job, "two", LEASE, ClaimMode::IfFree).await;
    assert!(matches!(held, Ok(Claim::Held { .. })), "an append renews the lease: {held:?}");
}

async fn a_renewed_run_stays_held_and_a_released_one_is_free_at_once(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = taken(subject.journal.claim(&job, "one", Duration::ZERO, ClaimMode::IfFree).await).unwrap();
    subject.journal.renew(&job, token, LEASE).await.unwrap();
    let held = subject.journal.claim(&job, "two", LEASE, ClaimMode::IfFree).await;
    assert!(matches!(held, Ok(Claim::Held { .. })), "{held:?}");
    subject.journal.renew(&job, token, Duration::ZERO).await.unwrap();
    let (token, _) = subject.claim(&job, "two", ClaimMode::IfFree).await;
    let last = ["x".to_owned()];
    let last = Append {
        token,
        sequence: 0,
        entries: &last,
        lease: Duration::ZERO,
        retain: RETAIN,
        remains: None,
        index: None,
    };
    subject.journal.append(&job, last).await.unwrap();
    let (_, entries) = subject.claim(&job, "three", ClaimMode::IfFree).await;
    assert_eq!(entries, ["x"], "an append of no lease gives the run free, too");
}

async fn a_job_is_announced_until_its_run_begins(subject: &JournalUnderTest) {
    let (job, journal, short) = (job("a"), &subject.journal, Duration::from_millis(150));
    assert_eq!(journal.announced(&job).await.unwrap(), None);
    assert_eq!(journal.announce(&job, "one", short).await.unwrap(), Announced::Kept);
    assert_eq!(journal.announce(&job, "two", RETAIN).await.unwrap(), Announced::Other("one".into()));
    journal.withdraw(&job, "two", RETAIN).await.unwrap();
    assert_eq!(journal.announced(&job).await.unwrap().as_deref(), Some("one"));
    let forgotten = async |journal: &dyn Journal| journal.announced(&job).await.unwrap().is_none().then_some(());
    subject.later("what nobody keeps is forgotten", forgotten).await;
    assert_eq!(journal.announce(&job, "two", short).await.unwrap(), Announced::Kept);
    journal.withdraw(&job, "two", short).await.unwrap();
    assert_eq!(journal.announced(&job).await.unwrap(), None);
    assert_eq!(journal.announce(&job, "three", short).await.unwrap(), Announced::Kept);
    assert_eq!(journal.announce(&job, "three", RETAIN).await.unwrap(), Announced::Kept);
    journal.withdraw(&job, "three", short).await.unwrap();
    assert_eq!(journal.announced(&job).await.unwrap().as_deref(), Some("three"), "kept for longer");
    assert_eq!((subject.entries(&job).await, journal.length(&job).await.unwrap()), (Vec::new(), 0));
    let (token, entries) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    assert_eq!(entries, Vec::<String>::new(), "a note is no entry");
    assert_eq!(journal.announced(&job).await.unwrap().as_deref(), Some("three"), "a claim begins nothing");
    subject.append(&job, token, 0, &["x", "y"]).await.unwrap();
    assert_eq!((journal.announced(&job).await.unwrap(), journal.length(&job).await.unwrap()), (None, 2));
    assert_eq!(journal.announce(&job, "three", RETAIN).await.unwrap(), Announced::Begun);
    assert_eq!(journal.announced(&job).await.unwrap(), None);
}

async fn force_takes_a_held_run_away(subject: &JournalUnderTest) {
    let job = job("a");
    let (old, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    let (new, _) = subject.claim(&job, "two", ClaimMode::Steal).await;
    assert!(new > old);
    assert!(matches!(subject.append(&job, old, 0, &["x"]).await, Err(JournalError::OwnershipLost)));
    subject.append(&job, new, 0, &["y"]).await.unwrap();
}

async fn who_was_taken_by_force_is_told_of_and_nobody_else(subject: &JournalUnderTest) {
    let hostile = JobId::new("{a}:b\n*").unwrap();
    assert_eq!(subject.journal.stolen().await.unwrap(), HashMap::new());
    subject.claim(&job("polite"), "one", ClaimMode::IfFree).await;
    subject.claim(&hostile, "one", ClaimMode::IfFree).await;
    let (first, _) = subject.claim(&hostile, "two", ClaimMode::Steal).await;
    assert_eq!(subject.journal.stolen().await.unwrap(), HashMap::from([(hostile.clone(), first)]));
    let (again, _) = subject.claim(&hostile, "three", ClaimMode::Steal).await;
    let (other, _) = subject.claim(&job("b"), "two", ClaimMode::Steal).await;
    let forced = subject.journal.stolen().await.unwrap();
    assert_eq!(forced, HashMap::from([(hostile, again), (job("b"), other)]));
}

async fn a_repeated_append_is_recognised_and_any_other_at_its_place_refused(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    subject.append(&job, token, 0, &["x"]).await.unwrap();
    subject.append(&job, token, 1, &["y", "z"]).await.unwrap();
    subject.append(&job, token, 1, &["y", "z"]).await.unwrap();
    assert_eq!(subject.entries(&job).await, ["x", "y", "z"]);
    for (sequence, entries) in [(1, &["y"][..]), (1, &["y", "other"]), (1, &["y", "z", "more"]), (0, &["x"]), (2, &[])]
    {
        let answer = subject.append(&job, token, sequence, entries).await;
        assert!(matches!(answer, Err(JournalError::OwnershipLost)), "{sequence} {entries:?}: {answer:?}");
    }
    subject.append(&job, token, 3, &[]).await.unwrap();
    assert_eq!(subject.entries(&job).await, ["x", "y", "z"]);
}

async fn a_journal_that_is_shorter_than_known_or_unknown_is_lost(subject: &JournalUnderTest) {
    let job = job("a");
    assert!(matches!(subject.append(&job, FencingToken(7), 0, &["x"]).await, Err(JournalError::Lost)));
    assert!(matches!(subject.journal.renew(&job, FencingToken(7), LEASE).await, Err(JournalError::Lost)));
    assert_eq!(subject.entries(&job).await, Vec::<String>::new());

    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    assert!(matches!(subject.append(&job, token, 1, &["x"]).await, Err(JournalError::Lost)));
    assert!(matches!(subject.append(&job, token, u64::MAX, &["x"]).await, Err(JournalError::Lost)));
    let later = FencingToken(token.0 + 1000);
    assert!(matches!(subject.append(&job, later, 0, &["x"]).await, Err(JournalError::Lost)));
    assert!(matches!(subject.journal.renew(&job, later, LEASE).await, Err(JournalError::Lost)));
    assert_eq!(subject.entries(&job).await, Vec::<String>::new());
}

async fn of_many_takers_exactly_one_wins(subject: &JournalUnderTest) {
    let job = job("a");
    let start = Arc::new(Barrier::new(20));
    let takers: Vec<_> = (0..20)
        .map(|number| {
            let (journal, job, start) = (subject.journal.clone(), job.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                taken(journal.claim(&job, &format!("owner {number}"), LEASE, ClaimMode::IfFree).await).is_ok()
            })
        })
        .collect();
    let mut winners = 0;
    for taker in takers {
        winners += usize::from(taker.await.unwrap());
    }
    assert_eq!(winners, 1);
}

async fn of_many_appends_at_one_place_exactly_one_wins(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    let start = Arc::new(Barrier::new(20));
    let writers: Vec<_> = (0..20)
        .map(|number| {
            let (journal, job, start) = (subject.journal.clone(), job.clone(), start.clone());
            tokio::spawn(async move {
                let entries = [format!("{number}"), format!("{number} again")];
                start.wait().await;
                let append = Append {
                    token,
                    sequence: 0,
                    entries: &entries,
                    lease: LEASE,
                    retain: RETAIN,
                    remains: None,
                    index: None,
                };
                journal.append(&job, append).await.ok().map(|()| entries)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for writer in writers {
        winners.extend(writer.await.unwrap());
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(subject.entries(&job).await, winners[0]);
}

async fn entries_come_back_byte_for_byte_and_in_order(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    let large = "é\u{0}\r\n".repeat(1024 * 1024 / 5);
    let hostile =
        ["", "\0", "\r\n$5\r\nx", "{\"a\":\"\\u0000\"}", "\u{10ffff}\u{feff}", "KEYS[1]", "%s%d", "length", &large];
    subject.append(&job, token, 0, &hostile).await.unwrap();
    let mut expected: Vec<String> = hostile.iter().map(ToString::to_string).collect();
    for number in 0..40 {
        let entry = format!("entry {number}");
        subject.append(&job, token, expected.len() as u64, &[&entry]).await.unwrap();
        expected.push(entry);
    }
    assert!(subject.entries(&job).await == expected);
    let (_, entries) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    assert!(entries == expected);
}

async fn hostile_job_ids_and_owners_never_share_a_run(subject: &JournalUnderTest) {
    let long = "é".repeat(100);
    let names = ["a:b", "a%3Ab", "a%253Ab", "../x", "x", "a\nb", "{x}", "{", "}", "*", " ", "A", "a", &long];
    for name in names {
        let job = job(name);
        let (token, entries) = subject.claim(&job, name, ClaimMode::IfFree).await;
        assert_eq!(entries, Vec::<String>::new(), "{name:?}");
        subject.append(&job, token, 0, &[name]).await.unwrap();
    }
    for name in names {
        assert_eq!(subject.entries(&job(name)).await, [name]);
        let held = subject.journal.claim(&job(name), "another", LEASE, ClaimMode::IfFree).await;
        assert!(matches!(&held, Ok(Claim::Held { owner, .. }) if owner == name), "{held:?}");
    }
}

async fn a_run_is_forgotten_after_its_time_and_not_before_its_lease(subject: &JournalUnderTest) {
    let (short, leased) = (job("short"), job("leased"));
    let (token, _) = subject.claim(&short, "one", ClaimMode::IfFree).await;
    let (leased_epoch, _) = subject.claim(&leased, "one", ClaimMode::IfFree).await;
    let entries = ["x".to_owned()];
    let brief = Duration::from_millis(150);
    let append =
        Append { token, sequence: 0, entries: &entries, lease: brief, retain: brief, remains: None, index: None };
    subject.journal.append(&short, append).await.unwrap();
    let append = Append {
        token: leased_epoch,
        sequence: 0,
        entries: &entries,
        lease: LEASE,
        retain: Duration::ZERO,
        remains: None,
        index: None,
    };
    subject.journal.append(&leased, append).await.unwrap();
    subject
        .later("the run is forgotten", async |journal| journal.read(&short).await.unwrap().is_empty().then_some(()))
        .await;
    assert!(matches!(subject.append(&short, token, 1, &["y"]).await, Err(JournalError::Lost)));
    let (again, entries) = subject.claim(&short, "two", ClaimMode::IfFree).await;
    assert_eq!(entries, Vec::<String>::new());
    assert!(again > token, "the token rises although the run was forgotten");
    assert!(matches!(subject.append(&short, token, 1, &["y"]).await, Err(JournalError::OwnershipLost)));
    assert_eq!(subject.entries(&leased).await, ["x"]);
}

async fn what_remains_of_a_run_is_found_when_its_journal_is_gone(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    subject.append(&job, token, 0, &["x"]).await.unwrap();
    let (end, kept) = (["end".to_owned()], ["small \0".to_owned(), "é".repeat(1 << 20)]);
    let brief = Duration::from_secs(2);
    let seal = |retain| {
        let remains = Some(Remains { entries: &kept, retain });
        Append { token, sequence: 1, entries: &end, lease: Duration::ZERO, retain: brief, remains, index: None }
    };
    subject.journal.append(&job, seal(brief)).await.unwrap();
    assert_eq!(subject.entries(&job).await, ["x", "end"], "the whole is there for its time");
    subject.journal.append(&job, seal(Duration::from_secs(5))).await.unwrap();
    let gone =
        async |journal: &dyn Journal| journal.read(&job).await.unwrap().first().filter(|entry| **entry != "x").cloned();
    assert_eq!(subject.later("the whole is forgotten", gone).await, kept[0]);
    assert!(subject.entries(&job).await == kept);
    let (token, entries) = subject.claim(&job, "two", ClaimMode::IfFree).await;
    assert!(entries == kept);
    assert!(matches!(subject.append(&job, token, 2, &["y"]).await, Err(JournalError::Lost)), "nothing follows it");
    assert!(subject.entries(&job).await == kept, "a claim leaves it");
    subject
        .later("what remains is forgotten, too", async |journal| {
            journal.read(&job).await.unwrap().is_empty().then_some(())
        })
        .await;
}

async fn a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = subject.claim(&job, "one", ClaimMode::IfFree).await;
    let kept = ["small".to_owned()];
    let remains = Some(Remains { entries: &kept, retain: RETAIN });
    let (lease, retain) = (Duration::ZERO, Duration::ZERO);
    subject
        .journal
        .append(&job, Append { token, sequence: 0, entries: &kept, lease, retain, remains, index: None })
        .await
        .unwrap();
    let (token, entries) = subject.claim(&job, "two", ClaimMode::IfFree).await;
    assert_eq!(entries, kept);
    subject.append(&job, token, 0, &["x"]).await.unwrap();
    assert_eq!(subject.entries(&job).await, ["x"]);
}

async fn times_without_end_are_for_ever_and_times_of_nothing_over_at_once(subject: &JournalUnderTest) {
    let job = job("a");
    let (token, _) = taken(subject.journal.claim(&job, "one", Duration::MAX, ClaimMode::IfFree).await).unwrap();
    let entries = ["x".to_owned()];
    let append = Append {
        token,
        sequence: 0,
        entries: &entries,
        lease: Duration::MAX,
        retain: Duration::MAX,
        remains: None,
        index: None,
    };
    subject.journal.append(&job, append).await.unwrap();
    subject.journal.renew(&job, token, Duration::MAX).await.unwrap();
    let held = subject.journal.claim(&job, "two", LEASE, ClaimMode::IfFree).await;
    assert!(matches!(held, Ok(Claim::Held { .. })), "{held:?}");
    assert_eq!(subject.entries(&job).await, ["x"]);
    let append = Append {
        token,
        sequence: 1,
        entries: &[],
        lease: Duration::ZERO,
        retain: Duration::ZERO,
        remains: None,
        index: None,
    };
    subject.journal.append(&job, append).await.unwrap();
    assert_eq!(subject.entries(&job).await, Vec::<String>::new());
}

#[tokio::test]
async fn all_of_it_holds_on_a_cluster() {
    a_run_is_empty_at_first_and_held_by_one_owner(&JournalUnderTest::cluster().await).await;
    an_owner_takes_its_own_run_again_at_once(&JournalUnderTest::cluster().await).await;
    a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused(&JournalUnderTest::cluster().await).await;
    an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run(&JournalUnderTest::cluster().await).await;
    a_renewed_run_stays_held_and_a_released_one_is_free_at_once(&JournalUnderTest::cluster().await).await;
    a_job_is_announced_until_its_run_begins(&JournalUnderTest::cluster().await).await;
    force_takes_a_held_run_away(&JournalUnderTest::cluster().await).await;
    who_was_taken_by_force_is_told_of_and_nobody_else(&JournalUnderTest::cluster().await).await;
    a_repeated_append_is_recognised_and_any_other_at_its_place_refused(&JournalUnderTest::cluster().await).await;
    a_journal_that_is_shorter_than_known_or_unknown_is_lost(&JournalUnderTest::cluster().await).await;
    of_many_takers_exactly_one_wins(&JournalUnderTest::cluster().await).await;
    of_many_appends_at_one_place_exactly_one_wins(&JournalUnderTest::cluster().await).await;
    entries_come_back_byte_for_byte_and_in_order(&JournalUnderTest::cluster().await).await;
    hostile_job_ids_and_owners_never_share_a_run(&JournalUnderTest::cluster().await).await;
    a_run_is_forgotten_after_its_time_and_not_before_its_lease(&JournalUnderTest::cluster().await).await;
    what_remains_of_a_run_is_found_when_its_journal_is_gone(&JournalUnderTest::cluster().await).await;
    a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one(&JournalUnderTest::cluster().await).await;
    times_without_end_are_for_ever_and_times_of_nothing_over_at_once(&JournalUnderTest::cluster().await).await;
}

mod memory {
    use super::JournalUnderTest;

    #[tokio::test]
    async fn a_run_is_empty_at_first_and_held_by_one_owner() {
        super::a_run_is_empty_at_first_and_held_by_one_owner(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn an_owner_takes_its_own_run_again_at_once() {
        super::an_owner_takes_its_own_run_again_at_once(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused() {
        super::a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused(&JournalUnderTest::memory())
            .await;
    }

    #[tokio::test]
    async fn an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run() {
        super::an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_renewed_run_stays_held_and_a_released_one_is_free_at_once() {
        super::a_renewed_run_stays_held_and_a_released_one_is_free_at_once(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_job_is_announced_until_its_run_begins() {
        super::a_job_is_announced_until_its_run_begins(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn force_takes_a_held_run_away() {
        super::force_takes_a_held_run_away(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn who_was_taken_by_force_is_told_of_and_nobody_else() {
        super::who_was_taken_by_force_is_told_of_and_nobody_else(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_repeated_append_is_recognised_and_any_other_at_its_place_refused() {
        super::a_repeated_append_is_recognised_and_any_other_at_its_place_refused(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_journal_that_is_shorter_than_known_or_unknown_is_lost() {
        super::a_journal_that_is_shorter_than_known_or_unknown_is_lost(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn of_many_takers_exactly_one_wins() {
        super::of_many_takers_exactly_one_wins(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn of_many_appends_at_one_place_exactly_one_wins() {
        super::of_many_appends_at_one_place_exactly_one_wins(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn entries_come_back_byte_for_byte_and_in_order() {
        super::entries_come_back_byte_for_byte_and_in_order(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn hostile_job_ids_and_owners_never_share_a_run() {
        super::hostile_job_ids_and_owners_never_share_a_run(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_run_is_forgotten_after_its_time_and_not_before_its_lease() {
        super::a_run_is_forgotten_after_its_time_and_not_before_its_lease(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn what_remains_of_a_run_is_found_when_its_journal_is_gone() {
        super::what_remains_of_a_run_is_found_when_its_journal_is_gone(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one() {
        super::a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one(&JournalUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn times_without_end_are_for_ever_and_times_of_nothing_over_at_once() {
        super::times_without_end_are_for_ever_and_times_of_nothing_over_at_once(&JournalUnderTest::memory()).await;
    }
}

mod redis {
    use super::JournalUnderTest;

    #[tokio::test]
    async fn a_run_is_empty_at_first_and_held_by_one_owner() {
        super::a_run_is_empty_at_first_and_held_by_one_owner(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn an_owner_takes_its_own_run_again_at_once() {
        super::an_owner_takes_its_own_run_again_at_once(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused() {
        super::a_run_whose_lease_ran_out_goes_to_another_and_its_old_owner_is_refused(&JournalUnderTest::redis().await)
            .await;
    }

    #[tokio::test]
    async fn an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run() {
        super::an_owner_whose_lease_ran_out_goes_on_where_nobody_took_the_run(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_renewed_run_stays_held_and_a_released_one_is_free_at_once() {
        super::a_renewed_run_stays_held_and_a_released_one_is_free_at_once(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_job_is_announced_until_its_run_begins() {
        super::a_job_is_announced_until_its_run_begins(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn force_takes_a_held_run_away() {
        super::force_takes_a_held_run_away(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn who_was_taken_by_force_is_told_of_and_nobody_else() {
        super::who_was_taken_by_force_is_told_of_and_nobody_else(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_repeated_append_is_recognised_and_any_other_at_its_place_refused() {
        super::a_repeated_append_is_recognised_and_any_other_at_its_place_refused(&JournalUnderTest::redis().await)
            .await;
    }

    #[tokio::test]
    async fn a_journal_that_is_shorter_than_known_or_unknown_is_lost() {
        super::a_journal_that_is_shorter_than_known_or_unknown_is_lost(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn of_many_takers_exactly_one_wins() {
        super::of_many_takers_exactly_one_wins(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn of_many_appends_at_one_place_exactly_one_wins() {
        super::of_many_appends_at_one_place_exactly_one_wins(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn entries_come_back_byte_for_byte_and_in_order() {
        super::entries_come_back_byte_for_byte_and_in_order(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn hostile_job_ids_and_owners_never_share_a_run() {
        super::hostile_job_ids_and_owners_never_share_a_run(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_run_is_forgotten_after_its_time_and_not_before_its_lease() {
        super::a_run_is_forgotten_after_its_time_and_not_before_its_lease(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn what_remains_of_a_run_is_found_when_its_journal_is_gone() {
        super::what_remains_of_a_run_is_found_when_its_journal_is_gone(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one() {
        super::a_run_that_is_begun_anew_hides_what_remains_of_an_earlier_one(&JournalUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn times_without_end_are_for_ever_and_times_of_nothing_over_at_once() {
        super::times_without_end_are_for_ever_and_times_of_nothing_over_at_once(&JournalUnderTest::redis().await).await;
    }
}
