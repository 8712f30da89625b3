//! The chain: how a line is made one of it, and how it is checked.
//!
//! A line is a JSON object that begins with `seq` (one more than the line before) and `prev` (that line's `hash`), and ends with
//! `hash`, the SHA-256 of all that stands before it in the line; with a key, which `key` names, its HMAC-SHA256. The first
//! line of a chain has the number 1 and zeros as `prev`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac as _};
use secrecy::SecretString;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::encryption::{KeyId, decoded, id_of};

/// A longer line is none of ours.
pub(super) const LONGEST_LINE: u64 = 64 << 10;
/// What stands before the first line's hash would.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What a line ends with: this, a hash, [`CLOSE`].
const HASH: &str = ",\"hash\":\"";
const CLOSE: &str = "\"}";

/// What lines are signed with.
pub(super) struct ChainKey {
    id: KeyId,
    mac: Hmac<Sha256>,
}

/// The keys of `text`; the first one signs.
pub(super) fn keys(text: &SecretString) -> Result<Vec<ChainKey>, String> {
    let key = |bytes: &[u8; 32]| ChainKey {
        id: id_of(bytes),
        mac: Hmac::new_from_slice(bytes).expect("a key of any length will do"),
    };
    Ok(decoded(text)?.iter().map(key).collect())
}

/// The last line of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainLink {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl ChainLink {
    /// Of a chain without lines.
    pub(super) fn none() -> Self {
        Self { seq: 0, hash: NOTHING.to_owned() }
    }

    /// The next line, which says what `body` does, a JSON object, and the link that it is.
    pub(super) fn next(&self, key: Option<&ChainKey>, body: &str) -> (String, Self) {
        let seq = self.seq + 1;
        let signed_by = key.map(|key| format!("\"key\":\"{}\",", key.id)).unwrap_or_default();
        let fields = body.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        let covered = format!("{{\"seq\":{seq},\"prev\":\"{}\",{signed_by}{fields}", self.hash);
        let hash = hash(key, covered.as_bytes());
        (format!("{covered}{HASH}{hash}{CLOSE}\n"), Self { seq, hash })
    }

    /// Bytes of [`Self::to_line`].
    pub(super) const BYTES: usize = 20 + 1 + NOTHING.len() + 1;

    /// Number and hash, always of one length.
    pub(super) fn to_line(&self) -> String {
        format!("{:020} {}\n", self.seq, self.hash)
    }

    /// What [`Self::to_line`] wrote.
    pub(super) fn read(line: &[u8; Self::BYTES]) -> Option<Self> {
        let (seq, hash) = str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
        let is_hash = hash.len() == NOTHING.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then_some(Self { seq: seq.parse().ok()?, hash: hash.to_owned() })
    }

    /// The link that this line says it is.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        let read = Read::of(line)?;
        Some(Self { seq: read.says.seq, hash: read.hash })
    }
}

fn hash(key: Option<&ChainKey>, covered: &[u8]) -> String {
    let hash = match key {
        Some(key) => key.mac.clone().chain_update(covered).finalize().into_bytes(),
        None => Sha256::digest(covered),
    };
    hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A line, read.
struct Read<'a> {
    says: Says,
    covered: &'a [u8],
    hash: String,
}

/// What a line says of its place.
#[derive(Deserialize)]
struct Says {
    seq: u64,
    prev: String,
    key: Option<String>,
}

impl<'a> Read<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        let says: Says = serde_json::from_slice(line).ok()?;
        let rest = line.strip_suffix(CLOSE.as_bytes())?;
        let (covered, hash) = rest.split_at_checked(rest.len().checked_sub(NOTHING.len())?)?;
        let hash = str::from_utf8(hash).ok().filter(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        Some(Self { says, covered: covered.strip_suffix(HASH.as_bytes())?, hash: hash.to_owned() })
    }
}

/// What a chain that holds came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The number of its first line; 1 where the chain begins there.
    pub first: u64,
    /// The number of its last line.
    pub last: u64,
    /// That line's hash: kept elsewhere, it shows later on that nothing was cut off.
    pub hash: String,
}

/// The first line that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, line {line}: {problem}", file.display())]
pub struct BadLine {
    /// In which file.
    pub file: PathBuf,
    /// Counted from 1; 0 where the file cannot be read.
    pub line: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// Checks files that make one chain, in this order: from the first line that is there to the last; `None` where there is none.
/// With keys every line must be signed with one of them.
pub fn verify(files: &[PathBuf], keys: &SecretString) -> Result<Option<Verified>, BadLine> {
    let unread = |problem| BadLine { file: PathBuf::from("audit.key"), line: 0, problem };
    let keys = self::keys(keys).map_err(unread)?;
    let mut chain: Option<(u64, ChainLink)> = None;
    for path in files {
        verify_file(path, &keys, &mut chain).map_err(|(line, problem)| BadLine {
            file: path.clone(),
            line,
            problem,
        })?;
    }
    Ok(chain.map(|(first, ChainLink { seq, hash })| Verified { first, last: seq, hash }))
}

fn verify_file(path: &Path, keys: &[ChainKey], chain: &mut Option<(u64, ChainLink)>) -> Result<(), (u64, String)> {
    let unread = |error: std::io::Error| (0, format!("it cannot be read: {error}"));
    let file = File::open(path).map_err(unread)?;
    // Nothing is written meanwhile.
    file.lock_shared().map_err(unread)?;
    let (mut lines, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
    loop {
        line.clear();
        let read = std::io::Read::take(&mut lines, LONGEST_LINE).read_until(b'\n', &mut line).map_err(unread)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let whole = line.strip_suffix(b"\n").ok_or_else(|| (number, "it is cut off, or too long".to_owned()))?;
        let link = check(whole, keys, chain.as_ref().map(|(_, link)| link)).map_err(|problem| (number, problem))?;
        let first = chain.as_ref().map_or(link.seq, |(first, _)| *first);
        *chain = Some((first, link));
    }
}

fn check(line: &[u8], keys: &[ChainKey], before: Option<&ChainLink>) -> Result<ChainLink, String> {
    let Read { says, covered, hash: found } = Read::of(line).ok_or("it is no line of an audit record")?;
    let key = match &says.key {
        Some(id) => {
            let known = keys.iter().find(|key| key.id.to_string() == *id);
            Some(known.ok_or_else(|| format!("it is signed with the key {id}, which is not in audit.key"))?)
        }
        None if keys.is_empty() => None,
        None => return Err("it is not signed, and audit.key says that all are".to_owned()),
    };
    if hash(key, covered) != found {
        return Err("it was changed after it was written".to_owned());
    }
    let begins = before.is_none() && (says.seq > 1 || says.prev == NOTHING);
    if before.is_some_and(|before| before.seq + 1 == says.seq && before.hash == says.prev) || begins {
        return Ok(ChainLink { seq: says.seq, hash: found });
    }
    let expected = before.map_or(1, |before| before.seq + 1);
    Err(format!("it does not follow the line before it: its number is {}, and {expected} is next", says.seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmU=";
    const OTHER: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=";

    /// Lines of a chain.
    fn lines(key: &str, count: usize) -> Vec<String> {
        let (keys, mut last, mut lines) = (keys(&key.into()).unwrap(), ChainLink::none(), Vec::new());
        for number in 0..count {
            let (line, link) = last.next(keys.first(), &format!("{{\"event\":\"e\",\"job\":\"job {number}\"}}"));
            lines.push(line);
            last = link;
        }
        lines
    }

    fn verified(files: &[String], key: &str) -> Result<Option<Verified>, BadLine> {
        let folder = tempfile::tempdir().unwrap();
        let write = |(number, text): (usize, &String)| {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            path
        };
        verify(&files.iter().enumerate().map(write).collect::<Vec<_>>(), &key.into())
    }

    /// The line that is bad, and why.
    fn bad(text: &str, key: &str) -> (u64, String) {
        let error = verified(&[text.to_owned()], key).unwrap_err();
        (error.line, error.problem)
    }

    #[test]
    fn a_chain_holds_as_it_was_written_also_over_several_files_and_from_any_line_on() {
        for key in ["", KEY] {
            let lines = lines(key, 5);
            assert_eq!(verified(&[String::new()], key).unwrap(), None);
            let whole = verified(&[lines.concat()], key).unwrap().unwrap();
            assert_eq!((whole.first, whole.last), (1, 5));
            assert_eq!(verified(&[lines[..2].concat(), lines[2..].concat()], key).unwrap(), Some(whole.clone()));
            assert_eq!(verified(&[lines[3..].concat()], key).unwrap(), Some(Verified { first: 4, ..whole }));
        }
        assert_eq!(bad(&lines(KEY, 2).concat(), "").0, 1);
        assert!(bad(&lines(KEY, 2).concat(), OTHER).1.contains("is not in audit.key"));
        assert!(bad(&lines("", 2).concat(), KEY).1.contains("not signed"));
        assert!(verified(&[lines(KEY, 2).concat()], &format!("{OTHER},{KEY}")).is_ok());
        assert_eq!(verify(&["/nowhere".into()], &"".into()).unwrap_err().line, 0);
    }

    #[test]
    fn the_first_line_that_was_changed_moved_or_taken_out_is_named() {
        for key in ["", KEY] {
            let lines = lines(key, 5);
            for number in 0..5 {
                let changed = |change: &dyn Fn(&str) -> String| {
                    let mut changed = lines.clone();
                    changed[number] = change(&changed[number]);
                    bad(&changed.concat(), key).0
                };
                let at = number as u64 + 1;
                assert_eq!(changed(&|line| line.replace("job ", "job_")), at);
                assert_eq!(changed(&|line| line.replace("\"event\":\"e\",", "")), at);
                assert_eq!(changed(&|line| line.replace("}\n", " }\n")), at);
                assert_eq!(changed(&|_| "\n".to_owned()), at);
                assert_eq!(changed(&|line| format!("{line}{line}")), at + 1);
                if number < 4 {
                    assert_eq!(changed(&|line| line.trim_end().to_owned()), at);
                }
                if (1..4).contains(&number) {
                    assert_eq!(changed(&|_| String::new()), at);
                }
                if number > 0 {
                    let mut swapped = lines.clone();
                    swapped.swap(number - 1, number);
                    assert!([at - 1, at].contains(&bad(&swapped.concat(), key).0));
                }
            }
            let torn = lines.concat();
            assert_eq!(bad(&torn[..torn.len() - 1], key).0, 5);
            assert_eq!(bad(&format!("{torn}{}", "x".repeat(200_000)), key).0, 6);
            assert!(verified(&[lines[..2].concat(), lines[3..].concat()], key).unwrap_err().line == 1);
        }
        // Without a key anybody can make a chain of his own; with one nobody can who does not have it.
        let forged = lines("", 3).concat();
        assert!(verified(std::slice::from_ref(&forged), "").is_ok() && verified(&[forged], KEY).is_err());
    }

    #[test]
    fn hostile_files_are_refused_at_their_first_line() {
        for bytes in
            [b"\xff\xfe\n".as_slice(), b"null\n", b"{\"seq\":1}\n", b"\"}\n", &b"[".repeat(60_000), &vec![0; 70_000]]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(verify(&[path], &"".into()).unwrap_err().line, 1);
        }
    }
}
