//! The search for links in a text: all that some viewer might take for one, however it is written.

use std::collections::BTreeMap;

use super::address::{alternative, decoded, is_scheme, is_scheme_byte, values};

/// Stands where a link was that had no text of its own.
pub(super) const LEFT_OUT: &str = "(link left out)";
const MOST_LABEL_BYTES: usize = 999;
const LONGEST_SCHEME: usize = 24;
/// An address in brackets that does not end within so many bytes is none: looking for its end must not take for ever.
const LONGEST_ADDRESS: usize = 4096;

/// `text` without the links for which `leads_to` knows where they lead, or with that beside them.
pub(super) fn scan(text: &str, strips: bool, leads_to: &dyn Fn(&str) -> Option<String>) -> String {
    Scan::of(text, strips, leads_to).run()
}

/// A link whose text is being read: at `close`, `then` is written and everything up to `end` left out.
struct Open {
    close: usize,
    end: usize,
    then: String,
}

/// One pass over a text; each step looks at bounded parts or at what no later step looks at again.
struct Scan<'a> {
    text: &'a str,
    /// Whether links to elsewhere are taken out, and not marked.
    strips: bool,
    leads_to: &'a dyn Fn(&str) -> Option<String>,
    /// For each opening bracket, its closing one, and for parentheses the same.
    partners: BTreeMap<usize, usize>,
    /// For each place, the next white space.
    next_space: Vec<usize>,
    /// Names of reference links that lead elsewhere, and where.
    labels: BTreeMap<String, String>,
    open: Vec<Open>,
    /// Of the `a` elements that are open, whether their beginning was left out.
    anchors: Vec<bool>,
    /// A tag that does not end was found: nothing after it is one.
    no_more_tags: bool,
    /// Where the last thing ends that may have been a definition.
    defined_until: usize,
    out: String,
}

impl<'a> Scan<'a> {
    fn of(text: &'a str, strips: bool, leads_to: &'a dyn Fn(&str) -> Option<String>) -> Self {
        let bytes = text.as_bytes();
        let (mut partners, mut brackets, mut parentheses) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 1,
                b'[' => brackets.push(at),
                b'(' => parentheses.push(at),
                b']' => drop(brackets.pop().map(|open| partners.insert(open, at))),
                b')' => drop(parentheses.pop().map(|open| partners.insert(open, at))),
                _ => {}
            }
            at += 1;
        }
        let (mut next_space, mut next) = (vec![bytes.len(); bytes.len() + 1], bytes.len());
        for (at, byte) in bytes.iter().enumerate().rev() {
            next = if byte.is_ascii_whitespace() { at } else { next };
            next_space[at] = next;
        }
        let (labels, open, anchors) = (BTreeMap::new(), Vec::new(), Vec::new());
        let out = String::with_capacity(text.len());
        let mut scan = Self {
            strips,
            leads_to,
            text,
            partners,
            next_space,
            labels,
            open,
            anchors,
            no_more_tags: false,
            defined_until: 0,
            out,
        };
        scan.find_labels();
        scan
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or_default()
    }

    /// The first place from `at` on that is no white space.
    fn skip_space(&self, mut at: usize) -> usize {
        while self.byte(at).is_ascii_whitespace() {
            at += 1;
        }
        at
    }

    /// The address that begins at `at`, and the place after it.
    fn address(&self, at: usize, limit: usize) -> (&'a str, usize) {
        if self.byte(at) == b'<'
            && let Some(length) = self.text.as_bytes()[at..limit.max(at).min(at + LONGEST_ADDRESS)]
                .iter()
                .position(|byte| b">\n".contains(byte))
            && self.byte(at + length) == b'>'
        {
            return (&self.text[at + 1..at + length], at + length + 1);
        }
        let end = self.next_space[at].min(limit).max(at);
        (&self.text[at..end], end)
    }

    /// Definitions of reference links: `[name]: address`.
    fn find_labels(&mut self) {
        let mut labels = BTreeMap::new();
        let mut after = 0;
        for (open, close) in &self.partners {
            if *open < after || self.byte(*open) != b'[' || self.byte(close + 1) != b':' {
                continue;
            }
            let (address, end) = self.address(self.skip_space(close + 2), self.text.len());
            after = end;
            if let Some(label) = label(&self.text[open + 1..*close])
                && let Some(host) = (self.leads_to)(address)
            {
                labels.insert(label, host);
            }
        }
        self.labels = labels;
    }

    fn run(mut self) -> String {
        let mut at = 0;
        while at < self.text.len() {
            at = self.step(at);
        }
        while let Some(open) = self.open.pop() {
            self.out.push_str(&open.then);
        }
        self.out
    }

    /// Writes what begins at `at`; returns the place after it.
    fn step(&mut self, at: usize) -> usize {
        if self.open.last().is_some_and(|open| open.close <= at)
            && let Some(open) = self.open.pop()
        {
            self.out.push_str(&open.then);
            return open.end.max(at);
        }
        match self.byte(at) {
            b'\\' if self.byte(at + 1).is_ascii_punctuation() => self.copy(at, at + 2),
            b'!' if self.byte(at + 1) == b'[' => self.bracket(at, at + 1),
            b'[' => self.bracket(at, at),
            b'<' => self.angle(at),
            byte if byte.is_ascii_alphabetic() && self.begins_word(at) => self.word(at),
            _ => {
                let length = self.text[at..].chars().next().map_or(1, char::len_utf8);
                self.copy(at, at + length)
            }
        }
    }

    fn copy(&mut self, from: usize, to: usize) -> usize {
        self.out.push_str(&self.text[from..to]);
        to
    }

    /// Says where the link before it leads.
    fn beside(&mut self, host: &str) {
        self.out.extend([" (", host, ")"]);
    }

    fn begins_word(&self, at: usize) -> bool {
        at == 0 || !self.text.as_bytes()[at - 1].is_ascii_alphanumeric()
    }

    /// `[` at `open`, with `!` before it where that is at `from`.
    fn bracket(&mut self, from: usize, open: usize) -> usize {
        let Some(close) = self.partners.get(&open).copied() else { return self.copy(from, open + 1) };
        let (host, end, defines) = match self.byte(close + 1) {
            b'(' => {
                let end = self.partners.get(&(close + 1)).copied().unwrap_or(self.text.len());
                let (address, after) = self.address(self.skip_space(close + 2), end);
                let end = if end < self.text.len() { (end + 1).max(after) } else { after };
                ((self.leads_to)(address), end, false)
            }
            b':' if open >= self.defined_until => {
                let begins = self.skip_space(close + 2);
                let (address, after) = self.address(begins, self.text.len());
                self.defined_until = after;
                match (self.leads_to)(address) {
                    Some(host) => (Some(host), after, true),
                    None => (None, close + 1, false),
                }
            }
            b'[' => {
                let end = self.partners.get(&(close + 1)).copied().unwrap_or(close + 1);
                let name = self.text.get(close + 2..end).filter(|name| !name.is_empty());
                let host = label(name.unwrap_or(&self.text[open + 1..close])).and_then(|name| self.labels.get(&name));
                (host.cloned(), if host.is_some() { end + 1 } else { close + 1 }, false)
            }
            _ if self.labels.is_empty() => return self.copy(from, open + 1),
            _ => {
                let host = label(&self.text[open + 1..close]).and_then(|name| self.labels.get(&name));
                (host.cloned(), close + 1, false)
            }
        };
        let whole = &self.text[close..end];
        let then = match host {
            Some(_) if self.strips && defines => {
                // Nothing refers to it any more.
                return end;
            }
            Some(_) if self.strips => {
                self.open.push(Open { close, end, then: String::new() });
                return open + 1;
            }
            Some(host) => format!("{whole} ({host})"),
            None if end == close + 1 => return self.copy(from, open + 1),
            None => whole.to_owned(),
        };
        self.open.push(Open { close, end, then });
        self.copy(from, open + 1)
    }

    /// `<`: an address, a tag, or a sign.
    fn angle(&mut self, at: usize) -> usize {
        let next = self.byte(at + 1);
        if !next.is_ascii_alphabetic() && next != b'/' {
            return self.copy(at, at + 1);
        }
        let Some(end) = self.tag_end(at) else {
            // A viewer might take all that follows for one tag.
            self.no_more_tags = true;
            self.out.push_str("&lt;");
            return at + 1;
        };
        let inner = &self.text[at + 1..end];
        let is_address = !inner.contains(|character: char| character.is_whitespace() || "<\"'=".contains(character))
            || inner
                .split_once(':')
                .is_some_and(|(scheme, _)| is_scheme(scheme) && !inner.contains(char::is_whitespace));
        if is_address && inner.contains([':', '@']) {
            let address = if inner.contains(':') { inner.to_owned() } else { format!("mailto:{inner}") };
            return self.alone(at, end + 1, &address);
        }
        let name: String = inner.chars().take_while(|c| *c == '/' || c.is_ascii_alphanumeric()).collect();
        if name.eq_ignore_ascii_case("/a") {
            let was_left_out = self.anchors.pop().unwrap_or(false);
            return if was_left_out { end + 1 } else { self.copy(at, end + 1) };
        }
        let host = values(inner).find_map(|value| self.worst(&value));
        let is_left_out = host.is_some() && self.strips;
        if name.eq_ignore_ascii_case("a") {
            self.anchors.push(is_left_out);
        }
        match host {
            Some(_) if is_left_out => {
                if let Some(text) = alternative(inner) {
                    self.out.push_str(&text);
                }
                end + 1
            }
            Some(host) => {
                self.copy(at, end + 1);
                self.beside(&host);
                self.out.push(' ');
                end + 1
            }
            None => self.copy(at, end + 1),
        }
    }

    /// Where a tag's value leads; it may hold several addresses.
    fn worst(&self, value: &str) -> Option<String> {
        let value = decoded(value);
        let parts = value.split(|c: char| c.is_whitespace() || ",()'\";".contains(c)).filter(|part| !part.is_empty());
        (self.leads_to)(&value).or_else(|| parts.map(|part| (self.leads_to)(part)).find_map(|host| host))
    }

    /// The `>` that ends the tag at `at`.
    fn tag_end(&self, at: usize) -> Option<usize> {
        if self.no_more_tags {
            return None;
        }
        let mut quote = None;
        for (index, byte) in self.text.as_bytes()[at + 1..].iter().enumerate() {
            match (quote, byte) {
                (None, b'>') => return Some(at + 1 + index),
                (None, b'"' | b'\'') => quote = Some(*byte),
                (Some(open), byte) if open == *byte => quote = None,
                _ => {}
            }
        }
        None
    }

    /// A word, which may be an address.
    fn word(&mut self, at: usize) -> usize {
        let rest = &self.text[at..];
        let starts = |with: &str| rest.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
        let scheme = rest.bytes().take(LONGEST_SCHEME).take_while(|byte| is_scheme_byte(*byte)).count();
        let is_address = starts("www.") || starts("mailto:") || starts("xmpp:") || rest[scheme..].starts_with("://");
        if !is_address {
            let word = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
            return self.copy(at, at + word);
        }
        let limit = self.open.last().map_or(self.text.len(), |open| open.close);
        let until = rest.find(|c: char| c.is_whitespace() || c.is_control() || "<>\"`".contains(c));
        let end = until.map_or(self.text.len(), |length| at + length).min(limit);
        let address = self.text[at..end].trim_end_matches(|c: char| ".,;:!?'\")]}*_~|".contains(c));
        self.alone(at, at + address.len().max(1), address)
    }

    /// An address without a text of its own.
    fn alone(&mut self, from: usize, to: usize, address: &str) -> usize {
        match (self.leads_to)(address) {
            Some(_) if self.strips => self.out.push_str(LEFT_OUT),
            Some(host) => {
                self.copy(from, to);
                self.beside(&host);
            }
            None => drop(self.copy(from, to)),
        }
        to
    }
}

/// The name of a reference as it is compared: none where it cannot be one.
fn label(text: &str) -> Option<String> {
    if text.len() > MOST_LABEL_BYTES || text.contains('[') {
        return None;
    }
    Some(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()).filter(|name| !name.is_empty())
}
