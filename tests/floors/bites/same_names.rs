use super::found;

#[test]
fn two_public_types_of_one_name_are_found() {
    for one in ["pub struct Twin;", "pub enum Twin {}", "pub(crate) trait Twin {}", "pub(super) type Twin = u8;"] {
        let breaches = found(&[("job.rs", one), ("clock.rs", "\npub struct Twin;")]);
        assert_eq!(breaches, ["src/job.rs:1: `Twin` is also src/clock.rs:2"], "{one}");
    }
    assert_eq!(found(&[("job.rs", "pub struct Twin;\nmod inner {\n    pub(super) struct Twin;\n}")]).len(), 1);
}

#[test]
fn private_types_and_those_for_tests_may_be_called_as_they_like() {
    for other in ["struct Twin;", "#[cfg(test)]\npub struct Twin;", "pub fn twin() {}", "pub use crate::clock::Twin;"] {
        assert_eq!(found(&[("job.rs", other), ("clock.rs", "pub struct Twin;")]), [""; 0], "{other}");
    }
}
