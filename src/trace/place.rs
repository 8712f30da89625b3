//! Where in which trace something happens, as W3C Trace Context writes it.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::key::digest;

/// A span as seen from outside: its trace, its id, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
    remote: bool,
}

impl Place {
    /// Reads a `traceparent` header; `None` for one that says nothing, which is then as if it were not there.
    pub(super) fn of_header(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        // Later versions may add parts, the first one has none.
        if !well_formed || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let known = trace != TraceId::INVALID && span != SpanId::INVALID;
        known.then_some(Self { trace, span, sampled, remote: true })
    }

    /// The trace of a job whose caller has none; there is no span in it yet.
    pub(super) fn of_job(job: &str) -> Self {
        let trace = TraceId::from_hex(&digest(job, 16)).unwrap_or(TraceId::INVALID);
        Self { trace, span: SpanId::INVALID, sampled: true, remote: false }
    }

    pub(super) fn is_sampled(self) -> bool {
        self.sampled
    }

    pub(super) fn is_remote(self) -> bool {
        self.remote
    }

    pub(super) fn trace(self) -> TraceId {
        self.trace
    }

    pub(super) fn span(self) -> SpanId {
        self.span
    }

    /// Another span of the same trace, of our own.
    pub(super) fn with_span(self, span: SpanId) -> Self {
        Self { span, remote: false, ..self }
    }

    pub(super) fn context(self) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, self.remote, TraceState::default())
    }

    /// The header that tells others of it.
    pub(crate) fn header(self) -> String {
        format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let place = Place::of_header(HEADER).unwrap();
        assert_eq!((place.header().as_str(), place.is_sampled(), place.is_remote()), (HEADER, true, true));
        assert!(!Place::of_header(&HEADER.replace("-01", "-00")).unwrap().is_sampled());
        assert!(Place::of_header(&HEADER.replace("-01", "-03")).unwrap().is_sampled(), "flags to come");
        assert!(Place::of_header(&format!("cc-{}-later", &HEADER[3..])).is_some(), "versions to come");
    }

    #[test]
    fn what_is_no_header_counts_as_none() {
        let huge = "0".repeat(100_000);
        for bad in [
            "",
            "00",
            &HEADER[..54],
            &format!("{HEADER}-more"),
            &HEADER.to_uppercase(),
            &HEADER.replace("00-4", "ff-4"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473ä-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            &huge,
        ] {
            assert_eq!(Place::of_header(bad), None, "{bad:.60}");
        }
    }
}
