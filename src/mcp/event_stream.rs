//! Server-sent events, as much of them as MCP needs: the data of each event, from a body that is still growing.

/// Where an event ends: an empty line, whichever way lines are ended.
const ENDS: [&[u8]; 3] = [b"\r\n\r\n", b"\n\n", b"\r\r"];
/// The longest of these.
const LONGEST_END: usize = 4;

/// How far a body was read.
#[derive(Debug, Default)]
pub(super) struct EventStream {
    /// Up to here all events are known.
    read: usize,
    /// Up to here no event ends.
    searched: usize,
}

impl EventStream {
    /// The data of the next event that is whole, or `None` until more has come. Comments, and events without data, are no events.
    pub(super) fn next(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        loop {
            let from = self.searched.saturating_sub(LONGEST_END - 1).max(self.read);
            let Some((at, length)) = end(&body[from..]) else {
                self.searched = body.len();
                return None;
            };
            let event = &body[self.read..from + at];
            self.read = from + at + length;
            self.searched = self.read;
            let data = data(event);
            if !data.is_empty() {
                return Some(data);
            }
        }
    }
}

/// Where the first event in `bytes` ends, and how long its end is.
fn end(bytes: &[u8]) -> Option<(usize, usize)> {
    let is_end = |at: usize| ENDS.iter().find(|end| bytes[at..].starts_with(end)).map(|end| (at, end.len()));
    bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'\r' | b'\n')).find_map(|(at, _)| is_end(at))
}

fn data(event: &[u8]) -> Vec<u8> {
    // A mark of the byte order may stand before the first line.
    let event = event.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(event);
    let mut data: Vec<u8> = Vec::new();
    for line in event.split(|byte| matches!(byte, b'\r' | b'\n')) {
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        if !data.is_empty() {
            data.push(b'\n');
        }
        data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stream: &mut EventStream, body: &[u8]) -> Vec<String> {
        std::iter::from_fn(|| stream.next(body)).map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_are_read_however_they_are_cut() {
        let body = "\u{FEFF}: hello\r\n\r\nevent: message\r\nid: 1\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nretry: 5\n\ndata:two\n\n\
                    data: thr\u{e9}e\r\rdata: unfinished\n";
        let expected = ["{\"a\":\n1}", "two", "thr\u{e9}e"];
        assert_eq!(all(&mut EventStream::default(), body.as_bytes()), expected);
        for step in 1..9 {
            let (mut stream, mut found) = (EventStream::default(), Vec::new());
            for length in (0..body.len()).step_by(step).chain([body.len()]) {
                found.extend(all(&mut stream, &body.as_bytes()[..length]));
            }
            assert_eq!(found, expected, "{step} bytes at a time");
        }
    }

    #[test]
    fn what_is_no_event_gives_none() {
        for body in
            ["", "\n\n\n\n", "data: x", "data: x\n", ": ping\n\n: ping\n\n", "id: 4\n\n", "\u{0}\u{0}\n\n", "{}\n\n"]
        {
            assert_eq!(all(&mut EventStream::default(), body.as_bytes()), Vec::<String>::new(), "{body:?}");
        }
    }
}
