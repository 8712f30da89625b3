//! Who gets a digest: listed in its definition, in a CSV or NDJSON file, or in a Redis set. Files and sets are read piece
//! by piece and never held whole; a recipient that cannot be read is named and stops nobody else.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Time;
use serde_json::{Map, Value};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::occurrence::time_of_day;
use crate::digest_store::{DigestStore, StoreError};
use crate::job::Identifier;

/// A longer line is no recipient.
const LONGEST_LINE: usize = 64 * 1024;

/// Somebody who gets a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The user at Scalekit.
    pub identifier: Identifier,
    /// IANA zone, where it is not the digest's.
    pub timezone: Option<String>,
    /// Time of the day, where it is not the digest's.
    pub time: Option<Time>,
    /// Everything else that is given, for placeholders.
    pub fields: BTreeMap<String, String>,
}

/// Where recipients come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Listed in the definition.
    List(Vec<Recipient>),
    /// A file with a header line, then a line for each.
    Csv(PathBuf),
    /// A file with a JSON object in each line.
    Ndjson(PathBuf),
    /// A Redis set that others maintain; members are identifiers, or JSON objects as in NDJSON.
    Set(String),
}

/// One that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BadRecipient {
    /// `file:line`, or the set.
    pub place: String,
    /// What is wrong, without the values.
    pub problem: String,
}

/// Why no more recipients can be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The path as it was opened.
        path: PathBuf,
        /// As the operating system says it.
        error: io::Error,
    },
    /// The header line of a CSV file does not do.
    #[error("{}:1: {problem}", path.display())]
    Header {
        /// The path as it was opened.
        path: PathBuf,
        /// What is wrong with it, such as no column `identifier` or one twice.
        problem: String,
    },
    /// The set cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Recipient {
    /// Reads `identifier`, `timezone`, `time` and any other fields; empty texts and nulls count as absent.
    pub fn from_fields(fields: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut fields: BTreeMap<String, String> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let identifier = fields.remove("identifier").ok_or("it has no `identifier`")?;
        let identifier = Identifier::new(identifier).ok_or("its `identifier` is longer than 100 characters")?;
        let time = fields.remove("time").map(|text| time_of_day(&text)).transpose()?;
        Ok(Self { identifier, timezone: fields.remove("timezone"), time, fields })
    }

    /// As [`Recipient::from_fields`], from JSON.
    pub fn from_json(object: Map<String, Value>) -> Result<Self, String> {
        Self::from_fields(object.into_iter().map(|(name, value)| match value {
            Value::String(text) => (name, text),
            Value::Null => (name, String::new()),
            other => (name, other.to_string()),
        }))
    }

    fn from_line(line: &str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(Value::Object(object)) => Self::from_json(object),
            Ok(_) => Err("it is no JSON object".to_owned()),
            Err(error) => Err(format!("it is not JSON (column {})", error.column())),
        }
    }

    fn from_member(member: &[u8]) -> Result<Self, String> {
        if member.len() > LONGEST_LINE {
            return Err(format!("a member is longer than {LONGEST_LINE} bytes"));
        }
        let text = str::from_utf8(member).map_err(|_| "a member is not UTF-8")?;
        if text.starts_with('{') {
            return Self::from_line(text).map_err(|problem| format!("a member: {problem}"));
        }
        Self::from_fields([("identifier".to_owned(), text.to_owned())])
            .map_err(|problem| format!("a member: {problem}"))
    }
}

/// The recipients of a source, one after another.
pub struct Recipients<'a>(Inner<'a>);

enum Inner<'a> {
    List(std::slice::Iter<'a, Recipient>),
    Csv { lines: Lines, header: Vec<String> },
    Ndjson(Lines),
    Set { store: &'a dyn DigestStore, set: &'a str, part: std::vec::IntoIter<Vec<u8>>, next: Option<u64> },
}

impl<'a> Recipients<'a> {
    /// Begins to read `source`; rows are read one at a time, so that a list may be larger than memory.
    pub async fn open(source: &'a Source, store: &'a dyn DigestStore) -> Result<Self, SourceError> {
        Ok(Self(match source {
            Source::List(list) => Inner::List(list.iter()),
            Source::Ndjson(path) => Inner::Ndjson(Lines::open(path).await?),
            Source::Csv(path) => {
                let mut lines = Lines::open(path).await?;
                let first = lines.next().await?.unwrap_or_else(|| Ok(String::new()));
                let header = first.and_then(|line| header(&line));
                let header = header.map_err(|problem| SourceError::Header { path: path.clone(), problem })?;
                Inner::Csv { lines, header }
            }
            Source::Set(set) => Inner::Set { store, set, part: Vec::new().into_iter(), next: Some(0) },
        }))
    }

    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Result<Recipient, BadRecipient>>, SourceError> {
        match &mut self.0 {
            Inner::List(list) => Ok(list.next().cloned().map(Ok)),
            Inner::Ndjson(lines) => lines.next_with(Recipient::from_line).await,
            Inner::Csv { lines, header } => {
                lines
                    .next_with(|line| Recipient::from_fields(header.iter().cloned().zip(cells(line, header.len())?)))
                    .await
            }
            Inner::Set { store, set, part, next } => loop {
                if let Some(member) = part.next() {
                    let bad = |problem| BadRecipient { place: format!("set {set}"), problem };
                    return Ok(Some(Recipient::from_member(&member).map_err(bad)));
                }
                let Some(from) = *next else { return Ok(None) };
                let members = store.members(set, from).await?;
                *next = members.next;
                *part = members.members.into_iter();
            },
        }
    }
}

/// The column names of a CSV file.
pub fn header(line: &str) -> Result<Vec<String>, String> {
    let names = split(line)?;
    if !names.iter().any(|name| name == "identifier") {
        return Err("the header line has no column `identifier`".to_owned());
    }
    if let Some(name) = names.iter().enumerate().find_map(|(index, name)| names[..index].contains(name).then_some(name))
    {
        return Err(format!("the header line has two columns `{name}`"));
    }
    Ok(names)
}

fn cells(line: &str, columns: usize) -> Result<Vec<String>, String> {
    let cells = split(line)?;
    if cells.len() != columns {
        return Err(format!("it has {} cells, the header line has {columns}", cells.len()));
    }
    Ok(cells)
}

/// The cells of a line, as in RFC 4180, but without line breaks within quotes: one stray quote must not swallow everybody
/// behind it.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            cells.push(rest[..end].trim().to_owned());
            if end == rest.len() {
                return Ok(cells);
            }
            rest = &rest[end + 1..];
            continue;
        };
        let mut cell = String::new();
        let mut characters = quoted.char_indices().peekable();
        let end = loop {
            match characters.next() {
                None => return Err("a quote is not closed on its line".to_owned()),
                Some((_, '"')) if characters.peek().is_some_and(|(_, next)| *next == '"') => {
                    characters.next();
                    cell.push('"');
                }
                Some((index, '"')) => break index + 1,
                Some((_, character)) => cell.push(character),
            }
        };
        cells.push(cell);
        rest = match quoted[end..].strip_prefix(',') {
            Some(rest) => rest,
            None if quoted[end..].is_empty() => return Ok(cells),
            None => return Err("something follows a closing quote".to_owned()),
        };
    }
}

/// Lines of a file, numbered, each bounded.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(path: &Path) -> Result<Self, SourceError> {
        let file = File::open(path).await.map_err(|error| SourceError::File { path: path.to_owned(), error })?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(64 * 1024, file),
            number: 0,
            buffer: Vec::new(),
        })
    }

    /// The next line that is not empty, without its end.
    async fn next(&mut self) -> Result<Option<Result<String, String>>, SourceError> {
        loop {
            let Some(complete) = self.read().await.map_err(|error| self.broken(error))? else { return Ok(None) };
            self.number += 1;
            if !complete {
                return Ok(Some(Err(format!("it is longer than {LONGEST_LINE} bytes"))));
            }
            let bytes = self.buffer.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.number == 1).unwrap_or(&self.buffer);
            let Ok(text) = str::from_utf8(bytes) else { return Ok(Some(Err("it is not UTF-8".to_owned()))) };
            if !text.trim().is_empty() {
                return Ok(Some(Ok(text.trim_end_matches(['\r', '\n']).to_owned())));
            }
        }
    }

    async fn next_with(
        &mut self,
        read: impl Fn(&str) -> Result<Recipient, String>,
    ) -> Result<Option<Result<Recipient, BadRecipient>>, SourceError> {
        let Some(line) = self.next().await? else { return Ok(None) };
        let place = || format!("{}:{}", self.path.display(), self.number);
        Ok(Some(line.and_then(|line| read(&line)).map_err(|problem| BadRecipient { place: place(), problem })))
    }

    /// Reads up to and with the next line's end; false where the line is too long, `None` at the end of the file.
    async fn read(&mut self) -> io::Result<Option<bool>> {
        self.buffer.clear();
        let mut read = 0;
        loop {
            let piece = self.reader.fill_buf().await?;
            if piece.is_empty() {
                return Ok((read > 0).then_some(self.buffer.len() == read));
            }
            let end = piece.iter().position(|byte| *byte == b'\n').map(|index| index + 1);
            let piece = &piece[..end.unwrap_or(piece.len())];
            if self.buffer.len() == read && read + piece.len() <= LONGEST_LINE {
                self.buffer.extend_from_slice(piece);
            }
            let length = piece.len();
            read += length;
            self.reader.consume(length);
            if end.is_some() {
                return Ok(Some(self.buffer.len() == read));
            }
        }
    }

    fn broken(&self, error: io::Error) -> SourceError {
        SourceError::File { path: self.path.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::digest_store::memory::MemoryDigestStore;

    async fn all(source: &Source) -> Result<Vec<Result<Recipient, String>>, SourceError> {
        let store = MemoryDigestStore::new(Arc::new(SystemClock));
        let members: Vec<Vec<u8>> = vec![
            b"user_1".into(),
            br#"{"identifier": "user_2", "time": "7:30"}"#.into(),
            b"\xff".into(),
            b"{".into(),
            b"".into(),
        ];
        store.set_members("subscribers", members);
        let mut recipients = Recipients::open(source, &store).await?;
        let mut all = Vec::new();
        while let Some(next) = recipients.next().await? {
            all.push(next.map_err(|bad| bad.to_string()));
        }
        Ok(all)
    }

    async fn of_file(name: &str, content: &[u8]) -> Result<Vec<Result<Recipient, String>>, SourceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let source = if name.ends_with("csv") { Source::Csv(path) } else { Source::Ndjson(path) };
        let strip = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        Ok(all(&source).await?.into_iter().map(|one| one.map_err(strip)).collect())
    }

    fn names(all: &[Result<Recipient, String>]) -> Vec<&str> {
        all.iter().map(|one| one.as_ref().map_or_else(String::as_str, |one| one.identifier.as_str())).collect()
    }

    #[tokio::test]
    async fn csv_has_quotes_crlf_a_byte_order_mark_and_empty_lines() {
        let text =
            "\u{feff}identifier,timezone,time,name\r\n\r\nuser_1,Asia/Tokyo,7:30,\"Ada \"\"A\"\" L, Esq\"\r\nuser_2,,,";
        let all = of_file("a.csv", text.as_bytes()).await.unwrap();
        let one = all[0].as_ref().unwrap();
        assert_eq!(one.timezone.as_deref(), Some("Asia/Tokyo"));
        assert_eq!(one.time, Some(jiff::civil::time(7, 30, 0, 0)));
        assert_eq!(one.fields["name"], "Ada \"A\" L, Esq");
        assert_eq!(all[1].as_ref().unwrap().fields.len(), 0);
        assert_eq!(all.len(), 2);
    }

    #[tokio::test]
    async fn a_bad_line_is_named_and_stops_nobody_else() {
        let mut text = b"identifier,time\n".to_vec();
        for line in [&b"a,"[..], b"\"b,", b"c", b"d,1,2", b"\xff,", b"e,25:00", b",8:00", b"\"f\"x,", b"\0,", b"g,8:00"]
        {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend(vec![b'x'; LONGEST_LINE + 1]);
        text.extend_from_slice(b"\nh,");
        let all = of_file("a.csv", &text).await.unwrap();
        assert_eq!(
            names(&all),
            [
                "a",
                "a.csv:3: a quote is not closed on its line",
                "a.csv:4: it has 1 cells, the header line has 2",
                "a.csv:5: it has 3 cells, the header line has 2",
                "a.csv:6: it is not UTF-8",
                "a.csv:7: `25:00` is no time of the day; write it like `08:30`",
                "a.csv:8: it has no `identifier`",
                "a.csv:9: something follows a closing quote",
                "\0",
                "g",
                "a.csv:12: it is longer than 65536 bytes",
                "h",
            ]
        );
    }

    #[tokio::test]
    async fn ndjson_takes_objects_only() {
        let deep = "[".repeat(10_000);
        let text = format!(
            "{{\"identifier\": \"a\", \"count\": 3, \"none\": null}}\n[]\n{deep}\n{{\"identifier\": 1\n{{\"name\": \"x\"}}\n\"a\"\n{{\"identifier\":\"b\"}}"
        );
        let all = of_file("a.ndjson", text.as_bytes()).await.unwrap();
        assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 2);
        assert_eq!(all[0].as_ref().unwrap().fields["count"], "3");
        assert_eq!(all[1].as_ref().unwrap_err(), "a.ndjson:2: it is no JSON object");
        assert!(all[2].as_ref().unwrap_err().starts_with("a.ndjson:3: it is not JSON"), "{:?}", all[2]);
        assert_eq!(all[6].as_ref().unwrap().identifier.as_str(), "b");
    }

    #[tokio::test]
    async fn a_file_that_is_missing_or_has_no_header_is_an_error() {
        let missing = all(&Source::Csv("/does/not/exist.csv".into())).await;
        assert!(matches!(missing, Err(SourceError::File { .. })));
        for content in ["", "name\nx", "identifier,identifier\n", "\"identifier\n"] {
            assert!(matches!(of_file("a.csv", content.as_bytes()).await, Err(SourceError::Header { .. })), "{content}");
        }
    }

    #[tokio::test]
    async fn members_of_a_set_are_identifiers_or_objects() {
        let all = all(&Source::Set("subscribers".into())).await.unwrap();
        assert_eq!(all[0].as_ref().unwrap().identifier.as_str(), "user_1");
        assert_eq!(all[1].as_ref().unwrap().time, Some(jiff::civil::time(7, 30, 0, 0)));
        assert!(all[2..].iter().all(Result::is_err));
    }
}
