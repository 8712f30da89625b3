//! What every digest store promises, asked of both, of the one in Redis on a cluster too; and what only a real one can
//! suffer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentkit_worker::internals::clock::ManualClock;
use agentkit_worker::internals::digest_store::memory::MemoryDigestStore;
use agentkit_worker::internals::digest_store::redis::RedisDigestStore;
use agentkit_worker::internals::digest_store::{
    DigestStore, Fired, Firing, Hold, LeaseHolder, Marks, Memory, Reminder,
};
use jiff::{SignedDuration, Timestamp};

use crate::support::redis::{AnyRedis, Redis};
use crate::support::schedulers::instant;
use crate::support::shortly;

const LEASE: Duration = Duration::from_secs(60);

struct DigestStoreUnderTest {
    store: Arc<dyn DigestStore>,
    clock: Option<Arc<ManualClock>>,
    _redis: Option<AnyRedis>,
}

impl DigestStoreUnderTest {
    fn memory() -> Self {
        let clock = Arc::new(ManualClock::new(instant("2039-12-31T00:00:00Z")));
        Self { store: Arc::new(MemoryDigestStore::new(clock.clone())), clock: Some(clock), _redis: None }
    }

    async fn redis() -> Self {
        Self::on(AnyRedis::start().await)
    }

    async fn cluster() -> Self {
        Self::on(AnyRedis::cluster().await)
    }

    fn on(redis: AnyRedis) -> Self {
        Self { store: Arc::new(RedisDigestStore::new(redis.client())), clock: None, _redis: Some(redis) }
    }
}

fn at(hour: i64) -> Timestamp {
    instant("2040-01-01T00:00:00Z") + SignedDuration::from_hours(hour)
}

fn firing(hour: i64) -> Firing<'static> {
    Firing { digest: "morning", group: "g", at: at(hour), portions: 4 }
}

fn holder<'a>(owner: &'a str, portions: &'a [u32]) -> LeaseHolder<'a> {
    LeaseHolder { owner, lease: LEASE, portions }
}

fn fired(recipient: &str, hour: i64) -> Fired {
    Fired {
        digest: "morning".into(),
        recipient: recipient.into(),
        occurrence: at(hour),
        local: jiff::tz::TimeZone::UTC.to_datetime(at(hour)),
        timezone: "UTC".into(),
    }
}

async fn parts_are_shared_out_and_the_last_one_finishes(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let claim = |owner, due, most| store.claim(firing(9), due, most, owner, LEASE);
    assert_eq!(claim("one", 3, 2).await.unwrap().portions, [0, 1]);
    let other = claim("two", 3, 2).await.unwrap();
    assert_eq!(other.portions, [2]);
    assert!(other.held_for.is_some_and(|held| held <= LEASE && held > LEASE / 2), "{other:?}");
    assert_eq!(claim("one", 3, 9).await.unwrap().portions, [0, 1], "an owner takes its own parts again");
    store.settle(firing(9), holder("one", &[0, 1]), true).await.unwrap();
    store.settle(firing(9), holder("two", &[2]), false).await.unwrap();
    let standing = store.look("morning", &[], at(9), at(0)).await.unwrap();
    assert!(standing.begun.contains(&("g".into(), at(9))) && standing.done.is_empty(), "{standing:?}");
    assert_eq!(claim("one", 4, 9).await.unwrap().portions, [2, 3]);
    store.settle(firing(9), holder("one", &[2, 3]), true).await.unwrap();
    let standing = store.look("morning", &[], at(9), at(0)).await.unwrap();
    assert!(standing.done.contains(&("g".into(), at(9))) && standing.begun.is_empty(), "{standing:?}");
    // Said late by somebody whose lease was over: nothing begins anew.
    store.settle(firing(9), holder("two", &[2]), true).await.unwrap();
    let claim = claim("two", 4, 9).await.unwrap();
    assert!(claim.portions.is_empty() && claim.held_for.is_none());
    assert_eq!(store.claim(firing(10), 4, 9, "two", LEASE).await.unwrap().portions, [0, 1, 2, 3]);
    let late = store.look("morning", &[], at(12), at(10)).await.unwrap();
    assert!(late.done.is_empty(), "marks before the time asked for are left out");
}

async fn parts_of_the_dead_are_free_after_their_lease(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let short = Duration::from_millis(100);
    assert_eq!(store.claim(firing(9), 4, 9, "dead", short).await.unwrap().portions.len(), 4);
    let portions = shortly("the lease runs out", async || {
        if let Some(clock) = &subject.clock {
            clock.advance(SignedDuration::from_millis(30));
        }
        let claim = store.claim(firing(9), 4, 9, "heir", LEASE).await.unwrap();
        (!claim.portions.is_empty()).then_some(claim.portions)
    })
    .await;
    assert_eq!(portions, [0, 1, 2, 3]);
    store.settle(firing(9), holder("dead", &[0]), false).await.unwrap();
    assert!(
        store.claim(firing(9), 4, 9, "third", LEASE).await.unwrap().portions.is_empty(),
        "the dead give nothing free"
    );
}

async fn success_moves_and_failures_are_counted_once(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    store.note(firing(9), &["a", "b:\n{}\""], &["c"], holder("one", &[0])).await.unwrap();
    let nine = Memory { fired: Some(at(9)), success: None, running: Some(at(9)) };
    let names = ["a", "b:\n{}\"", "c", "d"];
    let memories = store.recall("morning", &names).await.unwrap();
    assert_eq!(memories, [nine, nine, Memory { running: None, ..nine }, Memory::default()]);
    for _ in 0..2 {
        assert_eq!(store.ended(&fired("a", 9), false).await.unwrap(), 1);
    }
    assert_eq!(store.ended(&fired("b:\n{}\"", 9), false).await.unwrap(), 2);
    assert_eq!(store.ended(&fired("c", 9), true).await.unwrap(), 0);
    let memories = store.recall("morning", &names).await.unwrap();
    assert_eq!(memories[0], Memory { running: None, ..nine });
    assert_eq!(memories[2].success, Some(at(9)));
    // The end may be known before the note of the beginning.
    assert_eq!(store.ended(&fired("a", 10), true).await.unwrap(), 0);
    store.note(firing(10), &["a"], &[], holder("one", &[0])).await.unwrap();
    let memory = store.recall("morning", &["a"]).await.unwrap()[0];
    assert_eq!(memory, Memory { fired: Some(at(10)), success: Some(at(10)), running: None });
    store.ended(&fired("a", 8), true).await.unwrap();
    let standing = store.look("morning", &[], at(9), at(0)).await.unwrap();
    assert_eq!((standing.last_fire, standing.last_success, standing.failures), (Some(at(10)), Some(at(10)), 0));
    assert_eq!(store.recall("morning", &["a"]).await.unwrap()[0].success, Some(at(10)), "success never goes back");
    assert_eq!(store.recall("other", &[]).await.unwrap(), []);
}

async fn groups_count_from_when_they_are_known_and_pauses_pass_over(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let groups = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let look = async |names: &[&str], hour| store.look("morning", &groups(names), at(hour), at(0)).await.unwrap();
    assert_eq!(look(&["a"], 9).await.not_before, [at(9)]);
    assert_eq!(look(&["b", "a"], 11).await.not_before, [at(11), at(9)]);
    assert_eq!(look(&["a"], 8).await.not_before, [at(8)], "a clock that was ahead does not hide what comes");
    assert_eq!(look(&["a", "b"], 12).await.not_before, [at(8), at(11)]);
    store.hold("morning", Hold::Pause, at(13)).await.unwrap();
    let paused = look(&["a"], 15).await;
    assert!(paused.paused);
    assert_eq!(paused.not_before, [at(15)]);
    store.hold("morning", Hold::Resume, at(16)).await.unwrap();
    let resumed = look(&["a", "b"], 17).await;
    assert!(!resumed.paused);
    assert_eq!(resumed.not_before, [at(16), at(16)]);
    store.hold("morning", Hold::Pass, at(20)).await.unwrap();
    assert_eq!(look(&["a"], 21).await.not_before, [at(20)]);
    assert!(!store.look("other", &[], at(21), at(0)).await.unwrap().paused);
}

async fn what_the_store_has_lost_it_is_told(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let mark = |hour: i64| ("g".to_owned(), at(hour));
    let (begun, done): (Marks, Marks) = ([mark(7), mark(8)].into(), [mark(5), mark(6)].into());
    let groups = [("g".to_owned(), at(2)), ("h".to_owned(), at(20))].into();
    let reminder = Reminder { groups: &groups, begun: &begun, done: &done, paused: true };
    // A new group by the look of somebody who knows nothing, and a part that somebody has finished since.
    let names = ["g".to_owned(), "h".to_owned()];
    let look = async |hour| store.look("morning", &names, at(hour), at(0)).await.unwrap();
    let born = look(10).await.born;
    assert!(born.is_some());
    store.claim(firing(6), 4, 1, "two", LEASE).await.unwrap();
    store.settle(firing(6), holder("two", &[0]), true).await.unwrap();
    for _ in 0..2 {
        store.remind("morning", reminder, at(11)).await.unwrap();
    }
    let standing = store.look("morning", &[], at(11), at(0)).await.unwrap();
    assert_eq!((&standing.begun, &standing.done, standing.paused), (&begun, &done, true));
    store.hold("morning", Hold::Resume, at(12)).await.unwrap();
    store.remind("morning", reminder, at(13)).await.unwrap();
    let standing = look(14).await;
    assert!(!standing.paused, "somebody has said something else since");
    assert_eq!((standing.not_before, standing.born), (vec![at(12), at(12)], born));
    // Without a pause in between the earliest time counts.
    let other = async |hour| store.look("other", &names, at(hour), at(0)).await.unwrap().not_before;
    other(10).await;
    store.remind("other", Reminder { paused: false, ..reminder }, at(11)).await.unwrap();
    assert_eq!(other(12).await, [at(2), at(10)]);
    let nothing = Reminder { groups: &BTreeMap::new(), begun: &Marks::new(), done: &Marks::new(), paused: false };
    store.remind("other", nothing, at(11)).await.unwrap();
}

async fn who_notes_claims_again_what_the_store_has_lost(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    store.note(firing(9), &["a"], &[], holder("one", &[0, 1])).await.unwrap();
    let claim = store.claim(firing(9), 4, 9, "two", LEASE).await.unwrap();
    assert_eq!((claim.portions, claim.born), (vec![2, 3], None));
    assert!(claim.held_for.is_some());
    store.note(firing(9), &["b"], &[], holder("one", &[2])).await.unwrap();
    assert_eq!(
        store.claim(firing(9), 4, 9, "two", LEASE).await.unwrap().portions,
        [2, 3],
        "what another holds stays his"
    );
}

async fn parts_of_another_division_do_not_count(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    store.claim(firing(9), 2, 9, "one", LEASE).await.unwrap();
    store.settle(firing(9), holder("one", &[0, 1]), true).await.unwrap();
    let whole = Firing { portions: 1, ..firing(9) };
    assert_eq!(store.claim(whole, 1, 9, "two", LEASE).await.unwrap().portions, [0]);
    assert!(store.look("morning", &[], at(9), at(0)).await.unwrap().done.is_empty());
    store.settle(whole, holder("two", &[0]), true).await.unwrap();
    assert_eq!(store.look("morning", &[], at(9), at(0)).await.unwrap().done.len(), 1);
    assert!(store.claim(firing(9), 4, 9, "one", LEASE).await.unwrap().portions.is_empty(), "done is done");
}

async fn no_look_forgets_what_another_still_looks_at(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let group = vec!["g".to_owned()];
    let window = SignedDuration::from_hours(24);
    // Years behind the store's clock, near it, and years ahead.
    for (index, day) in ["2020-05-01T12:00:00Z", "2039-12-31T12:00:00Z", "2060-05-01T12:00:00Z"].iter().enumerate() {
        let noon = instant(day);
        let digest = format!("digest {index}");
        let mut marks = std::collections::BTreeSet::new();
        for hour in [1, 2, 20] {
            let at = noon - SignedDuration::from_hours(hour);
            let firing = Firing { digest: &digest, group: "g", at, portions: 1 };
            store.claim(firing, 1, 1, "one", LEASE).await.unwrap();
            store.settle(firing, holder("one", &[0]), true).await.unwrap();
            marks.insert(("g".to_owned(), at));
        }
        let long_ago =
            Firing { digest: &digest, group: "g", at: noon - SignedDuration::from_hours(20 * 24), portions: 1 };
        store.settle(long_ago, holder("one", &[0]), true).await.unwrap();
        let open = Firing { digest: &digest, group: "g", at: noon - SignedDuration::from_hours(3), portions: 2 };
        store.claim(open, 1, 1, "one", LEASE).await.unwrap();
        store.settle(open, holder("one", &[0]), true).await.unwrap();
        // Those whose clocks are hours or days wrong look as well, and clean up.
        for wrong in [0, 3, -3, 6 * 24, 0] {
            let now = noon + SignedDuration::from_hours(wrong);
            store.look(&digest, &group, now, now - window).await.unwrap();
        }
        let standing = store.look(&digest, &group, noon, noon - window).await.unwrap();
        assert_eq!(standing.done, marks, "{day}");
        assert_eq!(standing.begun, [("g".to_owned(), open.at)].into(), "{day}");
        assert_eq!(store.claim(open, 2, 9, "two", LEASE).await.unwrap().portions, [1], "{day}: a part stays done");
        let kept = store.look(&digest, &[], noon, long_ago.at).await.unwrap().done.contains(&("g".into(), long_ago.at));
        match index {
            0 => assert!(!kept, "marks are not kept for ever"),
            2 => assert!(kept, "a scheduler that is ahead has nothing forgotten"),
            _ => {}
        }
    }
}

async fn one_job_a_day_may_ask(subject: &DigestStoreUnderTest) {
    let store = &subject.store;
    let day = |day: i8| jiff::civil::date(2040, 1, day);
    for (recipient, hour, of, may) in [
        ("a", 9, 1, true),
        ("a", 9, 1, true),
        ("a", 10, 1, false),
        ("b", 10, 1, true),
        ("a", 9, 1, true),
        ("a", 33, 2, true),
        ("a", 34, 2, false),
    ] {
        assert_eq!(store.may_ask(&fired(recipient, hour), day(of)).await.unwrap(), may, "{recipient} {hour}");
    }
}

#[tokio::test]
async fn all_of_it_holds_on_a_cluster() {
    parts_are_shared_out_and_the_last_one_finishes(&DigestStoreUnderTest::cluster().await).await;
    parts_of_the_dead_are_free_after_their_lease(&DigestStoreUnderTest::cluster().await).await;
    success_moves_and_failures_are_counted_once(&DigestStoreUnderTest::cluster().await).await;
    groups_count_from_when_they_are_known_and_pauses_pass_over(&DigestStoreUnderTest::cluster().await).await;
    one_job_a_day_may_ask(&DigestStoreUnderTest::cluster().await).await;
}

mod memory {
    use super::DigestStoreUnderTest;

    #[tokio::test]
    async fn parts_are_shared_out_and_the_last_one_finishes() {
        super::parts_are_shared_out_and_the_last_one_finishes(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn parts_of_the_dead_are_free_after_their_lease() {
        super::parts_of_the_dead_are_free_after_their_lease(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn success_moves_and_failures_are_counted_once() {
        super::success_moves_and_failures_are_counted_once(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn groups_count_from_when_they_are_known_and_pauses_pass_over() {
        super::groups_count_from_when_they_are_known_and_pauses_pass_over(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn what_the_store_has_lost_it_is_told() {
        super::what_the_store_has_lost_it_is_told(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn who_notes_claims_again_what_the_store_has_lost() {
        super::who_notes_claims_again_what_the_store_has_lost(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn parts_of_another_division_do_not_count() {
        super::parts_of_another_division_do_not_count(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn no_look_forgets_what_another_still_looks_at() {
        super::no_look_forgets_what_another_still_looks_at(&DigestStoreUnderTest::memory()).await;
    }

    #[tokio::test]
    async fn one_job_a_day_may_ask() {
        super::one_job_a_day_may_ask(&DigestStoreUnderTest::memory()).await;
    }
}

mod redis {
    use super::DigestStoreUnderTest;

    #[tokio::test]
    async fn parts_are_shared_out_and_the_last_one_finishes() {
        super::parts_are_shared_out_and_the_last_one_finishes(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn parts_of_the_dead_are_free_after_their_lease() {
        super::parts_of_the_dead_are_free_after_their_lease(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn success_moves_and_failures_are_counted_once() {
        super::success_moves_and_failures_are_counted_once(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn groups_count_from_when_they_are_known_and_pauses_pass_over() {
        super::groups_count_from_when_they_are_known_and_pauses_pass_over(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn what_the_store_has_lost_it_is_told() {
        super::what_the_store_has_lost_it_is_told(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn who_notes_claims_again_what_the_store_has_lost() {
        super::who_notes_claims_again_what_the_store_has_lost(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn parts_of_another_division_do_not_count() {
        super::parts_of_another_division_do_not_count(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn no_look_forgets_what_another_still_looks_at() {
        super::no_look_forgets_what_another_still_looks_at(&DigestStoreUnderTest::redis().await).await;
    }

    #[tokio::test]
    async fn one_job_a_day_may_ask() {
        super::one_job_a_day_may_ask(&DigestStoreUnderTest::redis().await).await;
    }
}

#[tokio::test]
async fn a_pause_a_claim_and_a_mark_survive_a_restart_of_redis() {
    let mut redis = Redis::start().await;
    let store = RedisDigestStore::new(redis.client());
    store.hold("morning", Hold::Pause, at(1)).await.unwrap();
    store.claim(firing(9), 4, 2, "one", LEASE).await.unwrap();
    store.claim(firing(8), 4, 4, "one", LEASE).await.unwrap();
    store.settle(firing(8), holder("one", &[0, 1, 2, 3]), true).await.unwrap();
    redis.kill();
    assert!(store.look("morning", &[], at(9), at(0)).await.is_err());
    redis.restart().await;
    let standing =
        shortly("redis is reached again", async || store.look("morning", &[], at(9), at(0)).await.ok()).await;
    assert!(standing.paused && standing.done.contains(&("g".into(), at(8))));
    assert_eq!(store.claim(firing(9), 4, 9, "two", LEASE).await.unwrap().portions, [2, 3]);
    assert!(store.claim(firing(8), 4, 9, "two", LEASE).await.unwrap().portions.is_empty());
}

#[tokio::test]
async fn a_set_is_read_piece_by_piece_under_its_very_name() {
    let redis = Redis::start().await;
    for thousand in 0..3 {
        let mut command = vec!["SADD".to_owned(), "app:subscribers".to_owned()];
        command.extend((0..1000).map(|number| format!("user_{}", thousand * 1000 + number)));
        redis.command(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let store = RedisDigestStore::new(redis.client());
    let mut all = std::collections::BTreeSet::new();
    let (mut from, mut parts) = (Some(0), 0);
    while let Some(cursor) = from {
        let members = store.members("app:subscribers", cursor).await.unwrap();
        all.extend(members.members);
        from = members.next;
        parts += 1;
    }
    assert_eq!(all.len(), 3000);
    assert!(parts > 1);
    assert_eq!(store.members("none", 0).await.unwrap().members.len(), 0);
    redis.command(&["SET", "app:text", "x"]);
    assert!(store.members("app:text", 0).await.is_err(), "a key of another type is an error, not an empty set");
}
