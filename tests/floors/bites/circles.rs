use super::found;

#[test]
fn cycles_are_found_within_a_folder_and_between_words() {
    let ring = [
        ("agent/one.rs", "use super::two::Two;"),
        ("agent/two.rs", "use crate::agent::three::Three;"),
        ("agent/three.rs", "fn f() { super::one::g() }"),
    ];
    let breaches = found(&ring);
    assert_eq!(breaches.len(), 3, "{breaches:?}");
    assert!(breaches[0].contains("a cycle"), "{breaches:?}");
    assert!(!found(&[("job.rs", "use crate::clock::Clock;"), ("clock.rs", "use crate::job::Job;")]).is_empty());
    let by_folders =
        [("reply/one.rs", "use crate::job::Job;"), ("reply/two.rs", ""), ("job.rs", "use crate::reply::two::X;")];
    assert!(!found(&by_folders).is_empty(), "two folders that need each other are a cycle, whichever files do");
}

#[test]
fn a_folder_and_its_files_are_one_thing() {
    let folder = [("agent/mod.rs", "mod run;\npub use run::Run;"), ("agent/run.rs", "use super::Event;")];
    assert_eq!(found(&folder), [""; 0]);
}
