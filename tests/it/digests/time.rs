//! Digests come at the right time, whatever the clocks on the walls do.

use agentkit_worker::internals::schedule::occurrence::Schedule;
use jiff::{SignedDuration, Timestamp};

use crate::support::schedulers::{daily, instant, oracle};

/// Zone, expression, a time before the change, and what comes then: the instant, and what the wall shows.
type Case = (&'static str, &'static str, &'static str, [(&'static str, &'static str); 2]);

const CASES: [Case; 12] = [
    // Berlin: 02:00 → 03:00 on 2026-03-29, 03:00 → 02:00 on 2026-10-25.
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-03-28T12:00:00Z",
        [("2026-03-29T01:00:00Z", "2026-03-29T03:00:00"), ("2026-03-30T00:30:00Z", "2026-03-30T02:30:00")],
    ),
    (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-10-24T12:00:00Z",
        [("2026-10-25T00:30:00Z", "2026-10-25T02:30:00"), ("2026-10-26T01:30:00Z", "2026-10-26T02:30:00")],
    ),
    (
        "Europe/Berlin",
        "0,15,30 2,3 29 3 *",
        "2026-03-28T12:00:00Z",
        [("2026-03-29T01:00:00Z", "2026-03-29T03:00:00"), ("2026-03-29T01:15:00Z", "2026-03-29T03:15:00")],
    ),
    // New York: 02:00 → 03:00 on 2026-03-08, 02:00 → 01:00 on 2026-11-01.
    (
        "America/New_York",
        "0 2 * * *",
        "2026-03-07T12:00:00Z",
        [("2026-03-08T07:00:00Z", "2026-03-08T03:00:00"), ("2026-03-09T06:00:00Z", "2026-03-09T02:00:00")],
    ),
    (
        "America/New_York",
        "0 1 * * *",
        "2026-10-31T12:00:00Z",
        [("2026-11-01T05:00:00Z", "2026-11-01T01:00:00"), ("2026-11-02T06:00:00Z", "2026-11-02T01:00:00")],
    ),
    (
        "America/New_York",
        "*/30 1,2 1 11 *",
        "2026-11-01T05:15:00Z",
        [("2026-11-01T05:30:00Z", "2026-11-01T01:30:00"), ("2026-11-01T07:00:00Z", "2026-11-01T02:00:00")],
    ),
    // Lord Howe: 02:00 → 02:30 on 2026-10-04, 02:00 → 01:30 on 2026-04-05.
    (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-03T00:00:00Z",
        [("2026-10-03T15:30:00Z", "2026-10-04T02:30:00"), ("2026-10-04T15:15:00Z", "2026-10-05T02:15:00")],
    ),
    (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2026-04-04T00:00:00Z",
        [("2026-04-04T14:45:00Z", "2026-04-05T01:45:00"), ("2026-04-05T15:15:00Z", "2026-04-06T01:45:00")],
    ),
    (
        "Australia/Lord_Howe",
        "0,30 2 4 10 *",
        "2026-10-03T00:00:00Z",
        [("2026-10-03T15:30:00Z", "2026-10-04T02:30:00"), ("2027-10-03T15:00:00Z", "2027-10-04T02:00:00")],
    ),
    // Santiago changes at midnight: 00:00 → 01:00 on 2026-09-06, 00:00 → 23:00 on 2026-04-04.
    (
        "America/Santiago",
        "@daily",
        "2026-09-05T12:00:00Z",
        [("2026-09-06T04:00:00Z", "2026-09-06T01:00:00"), ("2026-09-07T03:00:00Z", "2026-09-07T00:00:00")],
    ),
    (
        "America/Santiago",
        "30 23 * * *",
        "2026-04-04T12:00:00Z",
        [("2026-04-05T02:30:00Z", "2026-04-04T23:30:00"), ("2026-04-06T03:30:00Z", "2026-04-05T23:30:00")],
    ),
    (
        "America/Santiago",
        "0 30 0 * * *",
        "2026-09-05T12:00:00Z",
        [("2026-09-06T04:00:00Z", "2026-09-06T01:00:00"), ("2026-09-07T03:30:00Z", "2026-09-07T00:30:00")],
    ),
];

#[test]
fn the_hour_that_does_not_exist_and_the_hour_that_happens_twice_fire_once() {
    for (zone, expression, after, expected) in CASES {
        let schedule = Schedule::new(expression, zone, None).unwrap();
        let mut at = instant(after);
        for (due, wall) in expected {
            let next = schedule.next_after(at).unwrap();
            assert_eq!((next.at, next.local.to_string().as_str()), (instant(due), wall), "{zone} {expression}");
            assert_eq!(
                schedule.latest_until(next.at + SignedDuration::from_secs(1)),
                Some(next),
                "{zone} {expression}"
            );
            at = next.at;
        }
    }
}

#[test]
fn four_years_in_many_zones_agree_with_a_walk_through_every_minute() {
    let (from, until) = (instant("2024-01-01T00:00:00Z"), instant("2028-01-01T00:00:00Z"));
    for zone in [
        "UTC",
        "Europe/Berlin",
        "Europe/Dublin",
        "America/New_York",
        "America/St_Johns",
        "America/Santiago",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Africa/Cairo",
        "Asia/Kathmandu",
        "Pacific/Chatham",
    ] {
        let cases: [(&str, &[i64]); 3] = [
            ("30 2 * * *", &[150]),
            ("0 0 * * *", &[0]),
            ("0,45 0,1,2,3,23 * * *", &[0, 45, 60, 105, 120, 165, 180, 225, 1380, 1425]),
        ];
        for (expression, minutes) in cases {
            agrees(zone, expression, minutes, from, until);
        }
    }
}

/// Product and oracle say the same.
fn agrees(zone: &str, expression: &str, minutes: &[i64], from: Timestamp, until: Timestamp) {
    let schedule = Schedule::new(expression, zone, None).unwrap();
    let mut ours = Vec::new();
    let mut at = from;
    while let Some(next) = schedule.next_after(at).filter(|next| next.at <= until) {
        ours.push((next.at, next.local));
        at = next.at;
    }
    let theirs = oracle(zone, from, until, daily(minutes));
    let first = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    assert!(first.is_none() && ours.len() == theirs.len(), "{zone} {expression} from {from}: {first:?}");
}

#[test]
fn zones_that_changed_their_rules_agree_with_a_walk_through_every_minute() {
    for (zone, year) in [
        // A day that does not exist: 30 December 2011.
        ("Pacific/Apia", 2011),
        // Half an hour back for good, and forth again three years later.
        ("Asia/Pyongyang", 2015),
        ("Asia/Pyongyang", 2018),
        // Summer time for ever, announced weeks before.
        ("Europe/Istanbul", 2016),
        // No summer time any more.
        ("America/Sao_Paulo", 2019),
        ("America/Mexico_City", 2022),
        // An hour east, in the middle of a winter.
        ("Africa/Juba", 2021),
        // A change of half an hour without summer time.
        ("America/Caracas", 2016),
        // From three hours of difference to two within a year.
        ("Antarctica/Casey", 2020),
    ] {
        let from = instant(&format!("{year}-01-01T00:00:00Z"));
        let until = instant(&format!("{}-01-03T00:00:00Z", year + 1));
        let cases: [(&str, &[i64]); 3] = [
            ("30 2 * * *", &[150]),
            ("@daily", &[0]),
            ("*/15 0,1,23 * * *", &[0, 15, 30, 45, 60, 75, 90, 105, 1380, 1395, 1410, 1425]),
        ];
        for (expression, minutes) in cases {
            agrees(zone, expression, minutes, from, until);
        }
    }
}
