//! When a server asks to be asked again.

use std::time::Duration;

use jiff::Timestamp;

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

#[cfg(test)]
mod tests {
    use super::*;

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
