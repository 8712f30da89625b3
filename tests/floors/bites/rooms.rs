use super::found;

const ROOM: (&str, &str) = ("worker/settle/mod.rs", "pub struct Charge;");

#[test]
fn in_a_room_all_may_know_each_other() {
    let room = [
        ("worker/run/mod.rs", "mod one;\nmod two;"),
        ("worker/run/one.rs", "use super::two::Two;\npub struct One;\nimpl One { fn f(&self) { self.back() } }"),
        ("worker/run/two.rs", "use crate::worker::run::one::One;\npub struct Two;\nimpl One { fn back(&self) {} }"),
    ];
    assert_eq!(found(&room), [""; 0]);
}

#[test]
fn rooms_stand_in_an_order_whichever_files_use_each_other() {
    let one_way = [
        ("worker/run/one.rs", "use crate::worker::message::mail::Mail;"),
        ("worker/message/mail.rs", "pub struct Mail;"),
        ("worker/message/post.rs", ""),
        ("worker/run/two.rs", ""),
    ];
    assert_eq!(found(&one_way), [""; 0]);
    let back = ("worker/message/post.rs", "use super::super::run::two::Two;");
    let breaches = found(&[one_way[0], one_way[1], back, one_way[3]]);
    assert_eq!(breaches.len(), 2, "{breaches:?}");
    let said = "src/worker/message/post.rs:1: `worker::message` uses `worker::run`, which comes back to it: a cycle";
    assert_eq!(breaches[0], said);
}

#[test]
fn rooms_that_are_tied_by_methods_are_a_circle() {
    let rooms = [
        ("worker/run/step.rs", "pub struct Step;\nimpl Step { fn f(&self) { self.end_of_it() } }"),
        ("worker/settle/end.rs", "use crate::worker::run::step::Step;\nimpl Step { pub fn end_of_it(&self) {} }"),
    ];
    let breaches = found(&rooms);
    assert_eq!(breaches.len(), 2, "{breaches:?}");
    assert!(breaches[0].contains("`worker::run` uses `worker::settle` (by `self.end_of_it`)"), "{breaches:?}");
    let by_name = ("worker/run/step.rs", "pub struct Step;\nfn f(step: Step) { step.end_of_it() }");
    assert_eq!(found(&[by_name, rooms[1]]).len(), 2);
}

#[test]
fn a_room_does_not_use_the_worker() {
    let worker = ("worker/mod.rs", "mod run;\npub struct Worker;\nuse run::Run;");
    for text in ["use crate::worker::Worker;", "use super::super::Worker;", "fn f(x: &crate::worker::Worker) {}"] {
        let breaches = found(&[worker, ("worker/run/mod.rs", "pub struct Run;"), ("worker/run/step.rs", text)]);
        let said = "src/worker/run/step.rs:1: `worker::run` must not use `worker`, which is above it";
        assert_eq!(breaches, [said], "{text}");
    }
    let two = [("worker/run/one.rs", "use super::super::X;"), ("worker/run/two.rs", "use super::super::X;")];
    assert_eq!(found(&two).len(), 2, "each file is named");
    let seen_by = "pub(in crate::worker) struct Run;\npub(super) struct Step;";
    assert_eq!(found(&[worker, ("worker/run/mod.rs", seen_by)]), [""; 0]);
    let method = ("worker/mod.rs", "use run::Run;\nimpl Run { pub fn end_of_it(&self) {} }");
    let run = ("worker/run/mod.rs", "pub struct Run;\nimpl Run { fn f(&self) { self.end_of_it() } }");
    assert_eq!(found(&[method, run]).len(), 1);
}

#[test]
fn rooms_use_plain_data_that_does_not_use_the_worker_either() {
    let room = ("worker/run/step.rs", "use crate::worker::config::Rules;");
    let data = ("worker/config.rs", "use std::time::Duration;\npub struct Rules;");
    assert_eq!(found(&[room, data]), [""; 0]);
    for text in ["use super::Worker;", "use crate::worker::Worker;"] {
        let breaches = found(&[room, ("worker/config.rs", text)]);
        assert_eq!(breaches, ["src/worker/config.rs:1: `worker::config` must not use `worker`, which is above it"]);
    }
    let through = [room, ("worker/config.rs", "use super::more::X;"), ("worker/more.rs", "use super::Worker;")];
    assert_eq!(found(&through).len(), 1);
    assert_eq!(found(&[room, ("worker/config.rs", "use super::run::step::Step;")]).len(), 2, "a circle");
}

#[test]
fn files_without_a_room_use_the_worker_as_they_did() {
    let files = [("worker/mod.rs", "mod one;\npub use one::One;"), ("worker/one.rs", "use super::Worker;"), ROOM];
    assert_eq!(found(&files[..2]), [""; 0]);
    assert_eq!(found(&files), [""; 0]);
}

#[test]
fn only_two_rooms_settle_a_delivery() {
    for text in
        ["fn f() {\n    charge.ack().await }", "fn f() {\n    join!(x.requeue()) }", "fn f() {\n    Charge::ack(x) }"]
    {
        for path in ["worker/run/step.rs", "worker/mod.rs", "worker/config.rs"] {
            let breaches = found(&[ROOM, (path, text)]);
            assert_eq!(breaches.len(), 1, "{path}: {text}: {breaches:?}");
            assert!(breaches[0].starts_with(&format!("src/{path}:2: ")), "{breaches:?}");
            assert_eq!(found(&[(path, text)]), [""; 0], "as long as there is no such room");
        }
        for path in ["worker/settle/end.rs", "worker/settle/mod.rs", "worker/message/mail.rs", "queue/memory.rs"] {
            assert_eq!(found(&[ROOM, (path, text)]), [""; 0], "{path}");
        }
    }
    assert_eq!(found(&[ROOM, ("worker/run/step.rs", "fn f() { x.acked(); x.ack }")]), [""; 0]);
}
