//! How a Redis loses what it had acknowledged: by its append-only files.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// Files and what is in them.
pub(crate) type Files = Vec<(PathBuf, Vec<u8>)>;

/// The server that has this folder, and was killed, begins without the last bytes, as after a power cut.
pub(crate) fn lose_the_end(folder: &Path, bytes: u64) {
    let newest = append_only_files(folder).into_iter().rfind(|path| path.to_string_lossy().contains(".incr."));
    let file = OpenOptions::new().write(true).open(newest.expect("an append-only file")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(bytes)).unwrap();
}

/// What a replica of the server that has this folder has at this moment.
pub(crate) fn replica(folder: &Path) -> Files {
    append_only_files(folder).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// A server without files begins with what a replica had, as after a fail-over to it.
pub(crate) fn become_replica(files: &Files) {
    for (path, bytes) in files {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn append_only_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("appendonlydir")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
