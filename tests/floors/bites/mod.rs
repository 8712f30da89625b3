//! Every rule is known to bite, on small made-up sources.

mod circles;
mod floors;
mod methods;
mod rooms;
mod same_names;
mod style;

/// The breaches in made-up sources, `path` and text each, beside a small legal house.
pub(crate) fn found(sources: &[(&str, &str)]) -> Vec<String> {
    let house =
        ["job.rs", "clock.rs", "agent/mod.rs", "http.rs", "queue/mod.rs", "worker/mod.rs", "client.rs", "cli.rs"];
    let house = house.iter().filter(|path| !sources.iter().any(|(other, _)| other == *path));
    let all = sources.iter().copied().chain(house.map(|path| (*path, "")));
    crate::breaches(&all.map(|(path, text)| (path.to_owned(), text.to_owned())).collect::<Vec<_>>())
}

#[track_caller]
pub(crate) fn refused(path: &str, text: &str, line: usize) {
    let found = found(&[(path, text)]);
    assert!(found.iter().any(|breach| breach.starts_with(&format!("src/{path}:{line}: "))), "{text}: {found:?}");
}

#[track_caller]
pub(crate) fn accepted(path: &str, text: &str) {
    assert_eq!(found(&[(path, text)]), [""; 0], "{text}");
}
