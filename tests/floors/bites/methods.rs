use super::found;

/// A run whose way home is told in a file of its own, which `run` calls as `call` says.
fn breaches_of(call: &str) -> Vec<String> {
    let run = format!("pub struct Run;\nimpl Run {{\n    fn f(self: Arc<Self>, run: Arc<Run>) {{ {call} }}\n}}");
    let way = "use super::run::Run;\nimpl Run {\n    pub const FAR: u8 = 1;\n    pub fn go_home(&self) {}\n    pub fn get(&self) {}\n}";
    found(&[("agent/run.rs", &run), ("agent/way.rs", way)])
}

#[track_caller]
fn a_circle(call: &str) {
    let breaches = breaches_of(call);
    assert_eq!(breaches.len(), 2, "{call}: {breaches:?}");
    assert!(breaches[0].starts_with("src/agent/run.rs:3: `agent::run` uses `agent::way` (by "), "{breaches:?}");
    assert!(breaches[1].starts_with("src/agent/way.rs:1: `agent::way` uses `agent::run`, "), "{breaches:?}");
}

#[track_caller]
fn no_circle(call: &str) {
    assert_eq!(breaches_of(call), [""; 0], "{call}");
}

#[test]
fn a_circle_by_methods_is_found() {
    a_circle("run.go_home()");
    a_circle("run.other.go_home::<u8>().await");
    a_circle("(|| run.clone().go_home())()");
    a_circle("self.clone().go_home()");
    a_circle("info!(\"{}\", run.go_home());");
    a_circle("select! { x = run.go_home() => x }");
}

#[test]
fn what_is_called_by_its_type_is_found_whatever_its_name() {
    a_circle("self.get()");
    a_circle("info!(\"{}\", self.get());");
    a_circle("Self::get(&run)");
    a_circle("Run::get(&run)");
    a_circle("crate::agent::run::Run::get(&run)");
    a_circle("xs.map(Run::get)");
    a_circle("f(Self::FAR)");
}

#[test]
fn a_call_that_may_be_of_anything_is_no_use() {
    no_circle("run.get()");
    no_circle("info!(\"{}\", self.run.get())");
    no_circle("run.go_home");
    no_circle("run.go_home_soon()");
    no_circle("other::Run::go_home()");
    no_circle("other::go_home()");
}

#[test]
fn a_method_of_two_types_or_of_a_trait_is_followed_only_where_the_type_is_known() {
    for other in ["pub struct Bird;\nimpl Bird { fn go_home(&self) {} }", "trait Bird { fn go_home(&self); }"] {
        let way = ("agent/way.rs", "use super::run::Run;\nimpl Run { pub fn go_home(&self) {} }");
        let by_name = "pub struct Run;\nfn f(run: Run) { run.go_home() }";
        assert_eq!(found(&[("agent/run.rs", by_name), way, ("job.rs", other)]), [""; 0]);
        let by_type = "pub struct Run;\nimpl Run { fn f(&self) { self.go_home() } }";
        assert_eq!(found(&[("agent/run.rs", by_type), way, ("job.rs", other)]).len(), 2);
    }
}

#[test]
fn self_in_a_trait_for_the_type_is_that_type() {
    let way = ("agent/way.rs", "use super::run::Run;\nimpl Run { pub fn get(&self) {} }");
    let run = "pub struct Run;\nimpl Walk for Run { fn f(&self) { self.get() } }";
    assert_eq!(found(&[("agent/run.rs", run), way]).len(), 2);
    let run = "pub struct Run;\ntrait Walk { fn f(&self) { self.get() } }";
    assert_eq!(found(&[("agent/run.rs", run), way]), [""; 0]);
}

#[test]
fn types_of_one_name_are_told_apart() {
    let ways = [
        ("agent/one.rs", "pub struct Run;"),
        ("agent/two.rs", "pub(super) struct Run;"),
        ("agent/way.rs", "use super::one::Run;\nuse super::caller;\nimpl Run { pub fn get(&self) {} }"),
    ];
    for (name, expected) in [("super::one::Run", 2), ("super::two::Run", 0), ("tokio::sync::Run", 0)] {
        let caller = format!("use {name};\nfn f(x: &Run) {{ Run::get(x) }}");
        let breaches = found(&[ways.as_slice(), &[("agent/caller.rs", &caller)]].concat());
        let circles = breaches.iter().filter(|breach| breach.contains("a cycle")).count();
        assert_eq!(circles, expected, "{name}: {breaches:?}");
    }
    let watch = "use tokio::sync::watch;\nfn f() { watch::Run::get() }";
    assert_eq!(found(&[ways[0], ways[2], ("agent/caller.rs", watch)]), [""; 0]);
}

#[test]
fn methods_for_tests_are_nobodys() {
    let way = "use super::run::Run;\nimpl Run {\n    #[cfg(test)]\n    pub fn go_home(&self) {}\n}";
    let run = "pub struct Run;\nimpl Run { fn f(&self) { self.go_home(); self.go_home() } }";
    assert_eq!(found(&[("agent/run.rs", run), ("agent/way.rs", way)]), [""; 0]);
    let way = "use super::run::Run;\nimpl Run { pub fn go_home(&self) {} }";
    let run = "pub struct Run;\n#[cfg(test)]\nmod tests { fn f(run: super::Run) { run.go_home() } }";
    assert_eq!(found(&[("agent/run.rs", run), ("agent/way.rs", way)]), [""; 0]);
}

#[test]
fn a_method_that_is_told_on_a_floor_above_is_found() {
    let job = "pub struct Job;\nimpl Job {\n    fn f(&self) { self.show() }\n}";
    let breaches = found(&[("job.rs", job), ("cli.rs", "use crate::job::Job;\nimpl Job { pub fn show(&self) {} }")]);
    assert!(breaches[0].starts_with("src/job.rs:3: `job` (words) must not use `cli`"), "{breaches:?}");
}
