//! When a server asks to be asked again.

use std::time::Duration;

use jiff::Timestamp;

/// What is limited of a model's use, as its headers call it.
const LIMITS: [&str; 4] = ["requests", "tokens", "input-tokens", "output-tokens"];

/// `milliseconds` wins over `after`, which is a number of seconds or an HTTP date.
pub(super) fn retry_after(milliseconds: Option<String>, after: Option<String>, now: Timestamp) -> Option<Duration> {
    if let Some(milliseconds) = milliseconds.and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    let after = after?;
    if let Ok(seconds) = after.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(&after).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// How long until all limits are reset of which nothing remains, by the headers that `text` gives.
pub(super) fn used_up(text: impl Fn(&str) -> Option<String>, now: Timestamp) -> Option<Duration> {
    let of = |limit: &str, what: &str| text(&format!("anthropic-ratelimit-{limit}-{what}"));
    let used_up = LIMITS.iter().filter(|limit| of(limit, "remaining").is_some_and(|left| left == "0"));
    let resets = used_up.filter_map(|limit| of(limit, "reset")?.parse::<Timestamp>().ok());
    resets.max().map(|reset| Duration::try_from(reset.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_waited_for_and_nothing_else() {
        let now: Timestamp = "2026-11-30T08:00:00Z".parse().unwrap();
        let read = |headers: &[(&str, &str)]| {
            let find =
                |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            used_up(find, now)
        };
        let requests = ("anthropic-ratelimit-requests-remaining", "0");
        let at = |value| ("anthropic-ratelimit-requests-reset", value);
        assert_eq!(read(&[requests, at("2026-11-30T08:00:20Z")]), Some(Duration::from_secs(20)));
        assert_eq!(read(&[requests, at("2026-11-30T07:00:00Z")]), Some(Duration::ZERO), "a time gone by");
        let input = [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-30T08:01:00Z"),
        ];
        assert_eq!(read(&[requests, at("2026-11-30T08:00:20Z"), input[0], input[1]]), Some(Duration::from_secs(60)));
        let left = ("anthropic-ratelimit-requests-remaining", "7");
        for headers in [&[left, at("2026-11-30T08:00:20Z")][..], &[requests], &[requests, at("soon")], &[]] {
            assert_eq!(read(headers), None, "{headers:?}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_milliseconds_and_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let read = |ms: Option<&str>, after: Option<&str>| retry_after(ms.map(Into::into), after.map(Into::into), now);
        assert_eq!(read(None, Some("40")), Some(Duration::from_secs(40)));
        assert_eq!(read(None, Some("1.5")), Some(Duration::from_millis(1500)));
        assert_eq!(read(Some("250"), Some("40")), Some(Duration::from_millis(250)));
        assert_eq!(read(None, Some("Sun, 06 Nov 1994 08:49:37 GMT")), Some(Duration::from_secs(37)));
        assert_eq!(read(None, Some("Sun, 06 Nov 1994 08:48:00 GMT")), Some(Duration::ZERO), "a date gone by");
        for nonsense in ["", "soon", "-1", "NaN", "inf", "1e400", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(None, Some(nonsense)), None, "{nonsense}");
        }
    }
}
