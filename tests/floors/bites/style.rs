use super::{accepted, found, refused};

#[test]
fn a_file_of_more_than_400_lines_is_too_long_and_tests_do_not_count() {
    let long = "const X: u8 = 1;\n".repeat(401);
    refused("job.rs", &long, 400);
    let tests = format!("const X: u8 = 1;\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    accepted("job.rs", &tests);
    refused("job.rs", &format!("{tests}{long}"), 400);
}

#[test]
fn what_the_style_forbids_is_found() {
    refused("job.rs", "\n#[allow(dead_code)]\nfn f() {}", 2);
    refused("job.rs", "#![allow(dead_code)]", 1);
    refused("job.rs", "#[cfg_attr(unix, allow(dead_code))]\nfn f() {}", 1);
    refused("job.rs", "fn f() {\n    todo!()\n}", 2);
    refused("job.rs", "fn f() { unimplemented!(\"later\") }", 1);
    refused("job.rs", "fn f() {\n    g()\n        .unwrap()\n}", 3);
    accepted("job.rs", "#[expect(dead_code, reason = \"r\")]\nfn f() { g().unwrap_or_default(); rules.allow(1); }");
}

#[test]
fn comments_and_strings_trip_nothing() {
    accepted(
        "job.rs",
        "// use crate::agent::Run;\n/* todo!() /* .unwrap() */ crate::agent::x */\n/// [`crate::agent::Run`]\nfn f() {}",
    );
    accepted(
        "job.rs",
        r##"const A: &str = "crate::agent::x \" .unwrap()"; const B: &str = r#"todo!() " crate::agent"#; const C: &[u8] = b"#[allow(x)]";"##,
    );
    accepted(
        "job.rs",
        "fn f<'a>(x: &'a str) -> char { match x { _ => '\"' } }\nconst Q: char = '\\'';\nconst R: &str = \"crate::agent::x\";",
    );
}

#[test]
fn what_follows_a_string_is_still_seen() {
    refused("job.rs", "const A: char = '\"';\nuse crate::agent::Run;", 2);
    refused("job.rs", "const A: &str = r\"\\\";\nuse crate::agent::Run;", 2);
    refused("job.rs", "const A: &str = \"\n\n\";\nuse crate::agent::Run;", 4);
    refused("job.rs", "fn f<'a>(x: &'a str) {}\nuse crate::agent::Run;", 2);
}

#[test]
fn code_for_tests_is_free() {
    accepted(
        "job.rs",
        "#[cfg(test)]\nmod tests {\n    use crate::sandbox::X;\n    fn f() { g().unwrap(); todo!() }\n}",
    );
    refused("job.rs", "#[cfg(test)]\nmod tests {\n}\nuse crate::agent::Run;", 4);
    let script = [("agent/mod.rs", "#[cfg(test)]\nmod script;"), ("agent/script.rs", "fn f() { g().unwrap(); }")];
    assert_eq!(found(&script), [""; 0]);
    let folder = [("agent/mod.rs", "#[cfg(test)]\nmod script;"), ("agent/script/one.rs", "fn f() { g().unwrap(); }")];
    assert_eq!(found(&folder), [""; 0]);
    for text in [
        "fn f() {\n    #[cfg(test)]\n    g().unwrap();\n}",
        "fn f() {\n    #[cfg(test)]\n    let x = g().unwrap();\n}",
        "impl A {\n    #[cfg(test)]\n    fn f() { todo!() }\n}",
        "struct S {\n    #[cfg(test)]\n    x: crate::agent::Run,\n}",
    ] {
        accepted("job.rs", text);
    }
    refused("job.rs", "#[cfg(not(test))]\nfn f() { todo!() }", 2);
}

#[test]
fn macros_are_read() {
    refused("job.rs", "fn f() {\n    info!(\n        \"x\", run = crate::agent::Run::id()\n    );\n}", 3);
    refused("job.rs", "fn f() {\n    select! { x = g() => x.unwrap() }\n}", 2);
    refused("job.rs", "fn f() {\n    select! {\n        _ = g() => todo!(),\n    }\n}", 3);
    refused("job.rs", "m! {\n    #[allow(dead_code)]\n    fn f() {}\n}", 2);
    accepted("job.rs", "fn f() { m!(\"crate::agent::x\", a.unwrap_or(1), todo != 1, x.crate_name, 'x'); }");
}

#[test]
fn a_source_that_cannot_be_read_is_a_breach() {
    refused("job.rs", "\nfn f( {}", 2);
}
