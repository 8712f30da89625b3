//! The file of a chain: appended to by whole lines alone, whatever happens to the process, the disk or the file's name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::chain::{ChainKey, ChainLink, LONGEST_LINE};
use crate::clock::SharedClock;

/// How often another process may take the file's name away while it is being opened.
const TRIES: u32 = 10;

/// A file that lines are appended to.
pub(super) struct ChainFile {
    path: PathBuf,
    key: Option<ChainKey>,
    clock: SharedClock,
    file: File,
    /// Beside the file: its last link, for whoever goes on in a new one after it was renamed.
    beside: File,
    /// Its length after the last line that is known.
    end: u64,
    last: ChainLink,
}

impl ChainFile {
    /// Opens the file, or makes one that only its owner reads, and finds its last line.
    pub(super) fn open(path: &Path, key: Option<ChainKey>, clock: SharedClock) -> io::Result<Self> {
        let (path, mut beside) = (path.to_owned(), path.as_os_str().to_owned());
        beside.push(".last");
        let file = opened(&path)?;
        let beside = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(beside)?;
        let mut chain = Self { path, key, clock, file, beside, end: 0, last: ChainLink::none() };
        chain.lock()?;
        let caught_up = chain.catch_up();
        chain.file.unlock()?;
        caught_up?;
        Ok(chain)
    }

    /// Appends a line for each of `bodies`. They are on disk then, or none of them is there.
    pub(super) fn append(&mut self, bodies: &[String]) -> io::Result<()> {
        self.lock()?;
        let appended = self.append_locked(bodies);
        let unlocked = self.file.unlock();
        appended.and(unlocked)
    }

    fn append_locked(&mut self, bodies: &[String]) -> io::Result<()> {
        if self.file.metadata()?.len() != self.end {
            // Another process's lines, or what is left of one that failed.
            self.catch_up()?;
        }
        self.write(bodies)
    }

    fn write(&mut self, bodies: &[String]) -> io::Result<()> {
        let (mut text, mut last) = (String::new(), self.last.clone());
        for body in bodies {
            let (line, link) = last.next(self.key.as_ref(), body);
            text.push_str(&line);
            last = link;
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // If not, it is cut off next time.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += text.len() as u64;
        self.last = last;
        // Of one length, so never half new. What is missed here shows in a check of both files, and the lines are safe.
        let _ = self.beside.write_all_at(self.last.to_line().as_bytes(), 0);
        Ok(())
    }

    /// Locks the file of that name: another one where it was renamed. What is written there goes on with the chain.
    fn lock(&mut self) -> io::Result<()> {
        for _ in 0..TRIES {
            self.file.lock()?;
            let ours = self.file.metadata()?;
            match std::fs::metadata(&self.path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.file.unlock()?;
                    return Err(error);
                }
                _ => {}
            }
            self.file.unlock()?;
            self.file = opened(&self.path)?;
            // Not known, so it is looked at first.
            self.end = u64::MAX;
            info!(file = %self.path.display(), "the audit record goes on in a new file");
        }
        Err(io::Error::other("it is renamed all the time"))
    }

    /// Finds the last whole line; what follows it is cut off, and a line says so. An empty file goes on with the chain of the
    /// one before it.
    fn catch_up(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let from = length.saturating_sub(2 * LONGEST_LINE);
        self.file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        Read::by_ref(&mut self.file).take(2 * LONGEST_LINE).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
        if whole > 0 {
            let begin = tail[..whole - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
            self.last = ChainLink::of(&tail[begin..whole - 1]).ok_or_else(foreign)?;
        } else if from > 0 {
            return Err(foreign());
        } else {
            let mut beside = [0; ChainLink::BYTES];
            let known = self.beside.read_exact_at(&mut beside, 0).ok().and_then(|()| ChainLink::read(&beside));
            self.last = known.filter(|known| known.seq > self.last.seq).unwrap_or_else(|| self.last.clone());
        }
        self.end = from + whole as u64;
        let torn = length - self.end;
        if torn > 0 {
            warn!(file = %self.path.display(), bytes = torn, "the last line of the audit record was cut off; it is removed");
            self.file.set_len(self.end)?;
            let now = self.clock.now();
            self.write(&[format!("{{\"time\":\"{now}\",\"event\":\"torn_line_removed\",\"bytes\":{torn}}}")])?;
        }
        Ok(())
    }
}

fn foreign() -> io::Error {
    io::Error::other("its last line is none of an audit record; move it away")
}

fn opened(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // The file's name must survive what its lines survive.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::audit::chain::{Verified, verify};
    use crate::clock::SystemClock;

    fn open(path: &Path) -> io::Result<ChainFile> {
        ChainFile::open(path, None, Arc::new(SystemClock))
    }

    fn body(number: usize) -> String {
        format!("{{\"number\":{number}}}")
    }

    fn verified(paths: &[&Path]) -> Verified {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        verify(&paths, &"".into()).unwrap().unwrap()
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_beside_another_process_and_in_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut one = open(&path).unwrap();
        assert_eq!(one.file.metadata().unwrap().mode() & 0o777, 0o600);
        one.append(&[body(1), body(2)]).unwrap();
        let mut other = open(&path).unwrap();
        other.append(&[body(3)]).unwrap();
        one.append(&[body(4)]).unwrap();
        other.append(&[body(5)]).unwrap();
        assert_eq!((verified(&[&path]).first, verified(&[&path]).last), (1, 5));
        let renamed = folder.path().join("audit.1");
        std::fs::rename(&path, &renamed).unwrap();
        // Who knows least of it makes the new one; then one that has just started.
        one.append(&[body(6)]).unwrap();
        other.append(&[body(7)]).unwrap();
        assert_eq!((verified(&[&renamed, &path]).last, verified(&[&path]).first), (7, 6));
        let again = folder.path().join("audit.2");
        std::fs::rename(&path, &again).unwrap();
        open(&path).unwrap().append(&[body(8)]).unwrap();
        assert_eq!((verified(&[&renamed, &again, &path]).last, verified(&[&path]).first), (8, 8));
        // What stands beside the file is nobody's to trust: it names no line of a file that has some.
        std::fs::write(folder.path().join("audit.last"), "x".repeat(200)).unwrap();
        open(&path).unwrap().append(&[body(9)]).unwrap();
        assert_eq!(verified(&[&renamed, &again, &path]).last, 9);
    }

    #[test]
    fn a_line_that_was_cut_off_anywhere_is_removed_and_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        open(&path).unwrap().append(&[body(1), body(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        // Each cut waits for the disk: some of them, and those around the ends of lines.
        let near = [0, 1, first - 1, first, first + 1, whole.len() - 1];
        for cut in (2..whole.len()).step_by(29).chain(near) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let _ = std::fs::remove_file(folder.path().join("audit.last"));
            open(&path).unwrap().append(&[body(3)]).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let kept = usize::from(cut >= first);
            let torn = cut - kept * first;
            assert_eq!(text.contains(&format!("\"event\":\"torn_line_removed\",\"bytes\":{torn}")), torn > 0, "{text}");
            assert_eq!(verified(&[&path]).last, (kept + usize::from(torn > 0) + 1) as u64);
        }
    }

    #[test]
    fn a_file_of_others_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        for text in ["hello\n".to_owned(), "x".repeat(300_000), format!("{}\n", "[".repeat(200_000))] {
            std::fs::write(&path, &text).unwrap();
            assert!(open(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(open(folder.path()).is_err() && open(&folder.path().join("no/folder")).is_err());
    }

    #[test]
    fn what_could_not_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut chain = open(&path).unwrap();
        assert!(chain.append(&[body(1)]).is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(std::fs::read(folder.path().join("audit.last")).unwrap(), b"");
        chain.append(&[body(1)]).unwrap();
        assert_eq!((verified(&[&path]).first, verified(&[&path]).last), (1, 1));
    }
}
