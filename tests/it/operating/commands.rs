//! The commands as people and scripts call them: what they print, what they cost, how they end.

use std::time::Instant;

use agentkit_worker::internals::queue::amqp::Config;
use agentkit_worker::internals::schema::Schema;
use agentkit_worker::reply::Reply;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::program::Program;
use crate::support::redis::Redis;
use crate::support::sandbox_peer::{SandboxPeer, plain_client};
use crate::support::{eventually, soon};

const COMMANDS: [&str; 9] = ["demo", "run", "worker", "enqueue", "digests", "tools", "doctor", "sandbox", "schema"];

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn the_demo_tells_its_story_without_a_terminal_in_half_a_minute() {
    let started = Instant::now();
    let demo = Program::new().run(&["demo"]).await;
    assert_eq!(demo.code, Some(0), "{}", demo.all());
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    contains_all(
        &demo.stdout,
        &[
            "Authorization required.",
            "/magicLink/",
            "allowed; the same run goes on by itself",
            "5 emails",
            "retried: gmail_fetch_mails 1 time(s)",
            "tool lists: 1 from Scalekit, 1 from this process's cache",
            "effect: gmail_send_message",
            "no second mail was sent",
            "Approval required: gmail_send_message",
            "archive@ledger-archive.example",
            "it was denied by a person, who said: we have no such archive",
            "to: archive@ledger-archive.example) denied",
            "shown with an accelerated clock",
            "the digest fires",
            "it does not fire twice",
            "the model is a set of rules and says so",
        ],
    );
    assert!(!demo.stdout.contains('\x1b'), "no colour without a terminal");
}

#[tokio::test]
async fn the_demo_stays_with_its_pages_and_a_run_that_waits_until_it_is_interrupted() {
    let program = Program::new();
    let demo = program.start(&["demo", "--stay"]);
    let line = demo.line("The worker stays").await;
    let url = line.split_whitespace().last().unwrap().to_owned();
    let line = demo.line("Sign in with the token ").await;
    let token = line.split_whitespace().nth(5).unwrap().to_owned();
    let get = async |path: &str| {
        let answer = plain_client().get(format!("{url}{path}")).bearer_auth(&token).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let inbox = eventually("the run waits", || async {
        Some(get("inbox").await).filter(|page| page.contains("archive@ledger-archive.example"))
    })
    .await;
    contains_all(&inbox, &["demo-4", "Approve", "No message was given up"]);
    contains_all(&get("").await, &["Work is taken", "wait for approval"]);
    contains_all(&get("job?id=demo-1").await, &["authorization requested", "gmail_fetch_mails", "completed"]);
    contains_all(&get("digests").await, &["demo-digest", "0 8 * * mon-fri in Europe/Berlin"]);
    demo.signal("INT");
    let (status, log) = demo.end().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
}

#[tokio::test]
async fn a_run_in_the_sandbox_shows_link_tools_prompt_and_answer() {
    let run = Program::new().run(&["run", "--sandbox"]).await;
    assert_eq!(run.code, Some(0), "{}", run.all());
    contains_all(
        &run.stdout,
        &[
            "[gmail] Authorization required.",
            "/magicLink/",
            "Connected account for user_123 is active.",
            "Discovered 22 tools: gmail_",
            "Prompt: Fetch my last 5 unread emails and summarize them.",
            "5 emails",
            "model gpt-4o",
        ],
    );
    let order = ["Authorization required.", "is active", "Discovered", "Prompt:", "5 emails"];
    let places: Vec<usize> = order.iter().map(|part| run.stdout.find(part).unwrap()).collect();
    assert!(places.is_sorted(), "{}", run.stdout);

    let json = Program::new().run(&["run", "--sandbox", "--json", "--read-only", "Fetch my last unread email"]).await;
    assert_eq!(json.code, Some(0), "{}", json.all());
    let schema = Schema::compile(&Reply::schema()).unwrap();
    let mut kinds = Vec::new();
    for line in json.stdout.lines() {
        let reply: Value = serde_json::from_str(line).unwrap();
        assert_eq!(schema.problems(&reply), Vec::<String>::new(), "{reply:#}");
        kinds.push(reply["type"].as_str().unwrap().to_owned());
    }
    assert!(kinds.contains(&"agentkit.job.authorization_required".to_owned()), "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("agentkit.job.completed"));

    let failed = Program::new().run(&["run", "--sandbox", "--connection", "nothing"]).await;
    assert_eq!(failed.code, Some(1), "{}", failed.all());
    contains_all(&failed.stderr, &["connection_not_found", "what to do"]);
}

#[tokio::test]
async fn the_schemas_take_our_samples_and_refuse_others() {
    let print_with = async |arguments: &[&str]| {
        let printed = Program::new().run(&[&["schema"], arguments].concat()).await;
        assert_eq!(printed.code, Some(0), "{}", printed.all());
        printed.stdout
    };
    let print = async |what: &str| print_with(&[what]).await;
    let job: Value = serde_json::from_str(&print("job").await).unwrap();
    let job = Schema::compile(&job).unwrap();
    let sample = json!({"identifier": "user_123", "connections": ["gmail"], "prompt": "hello"});
    assert_eq!(job.problems(&sample), Vec::<String>::new());
    for (field, value) in
        [("promt", json!("x")), ("connections", json!([])), ("identifier", json!("")), ("limits", json!({"steps": 0}))]
    {
        let mut wrong = sample.clone();
        wrong[field] = value;
        assert!(!job.problems(&wrong).is_empty(), "{wrong}");
    }
    let reply: Value = serde_json::from_str(&print("reply").await).unwrap();
    let reply = Schema::compile(&reply).unwrap();
    let lines = Program::new().run(&["run", "--sandbox", "--json", "--connection", "nothing"]).await.stdout;
    let mut sample: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(reply.problems(&sample), Vec::<String>::new());
    sample["type"] = "agentkit.job.eaten".into();
    assert!(!reply.problems(&sample).is_empty());

    let parse = async |what| serde_json::from_str::<Value>(&print(what).await).unwrap();
    let (document, openapi) = (parse("asyncapi").await, parse("openapi").await);
    assert_eq!((&document["asyncapi"], &openapi["openapi"]), (&json!("3.0.0"), &json!("3.1.0")));
    for document in [&document, &openapi] {
        for (pointer, name) in references(document, "") {
            let target = name.strip_prefix('#').and_then(|place| document.pointer(place));
            assert!(target.is_some(), "{pointer} refers to {name}, which is not there");
        }
    }
    let paths = openapi["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, all)| all.as_object().unwrap().values().map(move |one| (path, one)));
    for (path, operation) in operations {
        let named = operation["parameters"].as_array().unwrap().iter().filter(|parameter| parameter["in"] == "path");
        assert_eq!(named.count(), path.matches('{').count(), "{path}");
        for (status, answer) in operation["responses"].as_object().unwrap() {
            assert!(answer["description"].as_str().is_some_and(|words| !words.is_empty()), "{path} {status}");
        }
    }
    for name in ["job", "reply"] {
        let payload = document.pointer(&format!("/components/messages/{name}/payload/$ref")).unwrap();
        assert_eq!(payload, &json!(format!("#/components/schemas/{name}")));
    }
    let defaults: Value = toml::from_str(&print_with(&["config", "--toml"]).await).unwrap();
    let config = Schema::compile(&serde_json::from_str(&print("config").await).unwrap()).unwrap();
    assert_eq!(config.problems(&defaults), Vec::<String>::new());
    assert_eq!(Program::new().run(&["schema", "job", "--toml"]).await.code, Some(64));
}

/// Every `$ref` of a document with its place.
fn references(value: &Value, place: &str) -> Vec<(String, String)> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| match (name.as_str(), field.as_str()) {
                ("$ref", Some(target)) => vec![(place.to_owned(), target.to_owned())],
                _ => references(field, &format!("{place}/{name}")),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| references(item, place)).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn bad_usage_and_bad_configuration_end_with_64_and_name_every_problem() {
    for arguments in [
        &["nonsense"][..],
        &["enqueue"],
        &["run", "--nonsense"],
        &["schema", "nothing"],
        &[],
        &["run", "--identifier", ""],
        &["run", "--connection", "../x"],
    ] {
        let output = Program::new().run(arguments).await;
        assert_eq!(output.code, Some(64), "{arguments:?}: {}", output.all());
    }
    let bad = Program::new()
        .set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "hunter2")
        .set("AGENTKIT_WORKER__WORKER__LEASE_SECONDS", "hunter3")
        .set("AGENTKIT_WORKER__WORKER__GRACES", "1")
        .set("AGENTKIT_WORKER__HTTP__BINDD", "x")
        .set("AGENTKIT_WORKER__NONSENSE__KEY", "x");
    let output = bad.run(&["worker"]).await;
    assert_eq!(output.code, Some(64), "{}", output.all());
    contains_all(&output.stderr, &["worker.concurrency", "worker.lease_seconds", "graces", "bindd", "nonsense"]);
    assert!(!output.all().contains("hunter"), "{}", output.all());

    let bad = Program::new()
        .set("AMQP_URL", "http://guest:hunter4@127.0.0.1")
        .set("REDIS_URL", "nonsense")
        .set("AGENTKIT_WORKER__WORKER__CONCURRENCY", "0")
        .set("AGENTKIT_WORKER__HTTP__BIND", "nowhere");
    let output = bad.run(&["worker"]).await;
    assert_eq!(output.code, Some(64), "{}", output.all());
    contains_all(
        &output.stderr,
        &[
            "scalekit.environment_url",
            "scalekit.client_id",
            "scalekit.client_secret",
            "worker.concurrency",
            "amqp.url",
            "redis.url",
            "http.bind",
        ],
    );
    assert!(!output.all().contains("hunter"), "{}", output.all());
    for filter in ["agentkit_worker=nonsense", "inof", ","] {
        let output = Program::new().set("RUST_LOG", filter).run(&["demo"]).await;
        assert_eq!(output.code, Some(64), "{filter}: {}", output.all());
        contains_all(&output.stderr, &["log.filter", "RUST_LOG", "debug", "MODULE=LEVEL"]);
    }
    for text in ["[redis]\nurl = \"hunter5\n", "[redis]\nurl = hunter5\n", "[redis]\nurl = [\"hunter5\"]\n"] {
        let program = Program::new();
        std::fs::write(program.folder().join("own.toml"), text).unwrap();
        let output = program.run(&["--config", "own.toml", "demo"]).await;
        assert_eq!(output.code, Some(64), "{}", output.all());
        assert!(output.stderr.contains("own.toml") && !output.all().contains("hunter"), "{}", output.all());
    }
    let missing = Program::new().run(&["--config", "missing.toml", "demo"]).await;
    assert_eq!(missing.code, Some(64), "{}", missing.all());
}

#[tokio::test]
async fn a_broker_that_is_away_ends_with_69() {
    let away = || {
        Program::new()
            .set("AMQP_URL", "amqp://guest:hunter2@127.0.0.1:1")
            .set("AGENTKIT_WORKER__AMQP__CONNECT_ATTEMPTS", "1")
            .set("SCALEKIT_ENV_URL", "http://127.0.0.1:1")
            .set("SCALEKIT_CLIENT_ID", "skc_1")
            .set("SCALEKIT_CLIENT_SECRET", "hunter3")
            .set("OPENAI_API_KEY", "hunter4")
    };
    let enqueue = ["enqueue", "x", "--identifier", "u", "--connection", "gmail"];
    for arguments in [&["worker"][..], &enqueue] {
        let output = away().run(arguments).await;
        assert_eq!(output.code, Some(69), "{arguments:?}: {}", output.all());
        assert!(output.stderr.contains("RabbitMQ") && !output.all().contains("hunter"), "{}", output.all());
    }
    let tools = away().run(&["tools", "u"]).await;
    assert_eq!(tools.code, Some(69), "{}", tools.all());
    assert!(!tools.all().contains("hunter"), "{}", tools.all());
}

#[tokio::test]
async fn tools_shows_effects_and_where_the_list_came_from() {
    let redis = Redis::start().await;
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let program = Program::new().pointed_to(&peer.sandbox).set("REDIS_URL", &redis.url());
    let arguments = ["tools", "user_123", "--connection", "gmail"];
    for (more, source) in [(&[][..], "(from scalekit)"), (&[], "(from redis)"), (&["--refresh"], "(from scalekit)")] {
        let output = program.run(&[&arguments[..], more].concat()).await;
        assert_eq!(output.code, Some(0), "{}", output.all());
        contains_all(
            &output.stdout,
            &["gmail: 22 tools for user_123", source, "read       gmail_fetch_mails", "write      gmail_send_message"],
        );
    }
    let nobody = program.run(&["tools", "user_404"]).await;
    assert_eq!(nobody.code, Some(1), "{}", nobody.all());
    assert!(nobody.stderr.contains("let the user connect"), "{}", nobody.stderr);
    let away = Program::new().pointed_to(&peer.sandbox).set("REDIS_URL", "redis://127.0.0.1:1");
    let output = away.run(&arguments).await;
    assert_eq!(output.code, Some(0), "without Redis the list comes from Scalekit: {}", output.all());
}

#[tokio::test]
async fn the_doctor_finds_what_is_broken_and_nothing_else() {
    let redis = Redis::start_with(&["--appendfsync", "everysec"]).await;
    let peer = SandboxPeer::start().await;
    peer.activate("gmail", "user_123").await;
    let amqp = Broker::shared().await.config();
    let program = Program::of_service(&peer.sandbox, &amqp, &redis.url()).set("CONNECTION_NAME", "gmail");
    let fine = program.run(&["doctor"]).await;
    assert_eq!(fine.code, Some(0), "{}", fine.all());
    contains_all(
        &fine.stdout,
        &[
            "RabbitMQ: RabbitMQ ",
            "note    consumer timeout: cannot be read over AMQP; it is taken to be 1800 s",
            "rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'",
            "ok      Redis",
            "ok      Redis persistence",
            "ok      Redis appendfsync: everysec",
            "ok      clock: as Redis'",
            "ok      connection gmail: 1 connected",
            "ok      model gpt-4o",
            "once it is gone its jobs go on with gpt-6-luna, and say so",
            "ok      model gpt-6-luna, which takes over from gpt-4o: the server knows it",
            " 0 broken",
        ],
    );
    assert!(["Redis: Redis ", "Redis: Valkey "].iter().any(|store| fine.stdout.contains(store)), "{}", fine.stdout);
    let replica = Redis::start().await;
    replica.command(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    let warned = eventually("the replica is there", || async {
        let output = program.run(&["doctor"]).await;
        output.stdout.contains("1 connected, min-replicas-to-write 0").then_some(output)
    })
    .await;
    assert_eq!(warned.code, Some(0), "{}", warned.all());
    redis.command(&["CONFIG", "SET", "appendfsync", "no"]);
    contains_all(
        &program.run(&["doctor"]).await.stdout,
        &["warning Redis appendfsync: no", "set `appendfsync everysec`"],
    );
    let held_too_long = program.set("AGENTKIT_WORKER__WORKER__HOLD_DELIVERY_SECONDS", "1081");
    let output = held_too_long.run(&["doctor"]).await;
    assert_eq!(output.code, Some(1), "{}", output.all());
    contains_all(&output.stdout, &["BROKEN  configuration: worker.hold_delivery_seconds", "(1800 s)"]);
    let program = held_too_long.set("AGENTKIT_WORKER__WORKER__HOLD_DELIVERY_SECONDS", "1080");
    // Scalekit's list of accounts does not tell a name without accounts from one that does not exist.
    let doubtful = program.run(&["doctor", "--connection", "Gmail"]).await;
    assert_eq!(doubtful.code, Some(0), "{}", doubtful.all());
    contains_all(&doubtful.stdout, &["warning connection Gmail", "upper and lower case count", "what to do"]);

    let nothing = Program::new()
        .set("AMQP_URL", "amqp://guest:hunter2@127.0.0.1:1")
        .set("REDIS_URL", "redis://:hunter3@127.0.0.1:1")
        .set("SCALEKIT_ENV_URL", peer.sandbox.scalekit_url())
        .set("SCALEKIT_CLIENT_ID", peer.sandbox.client_id())
        .set("SCALEKIT_CLIENT_SECRET", "hunter4")
        .set("OPENAI_BASE_URL", &peer.sandbox.model_url())
        .set("OPENAI_API_KEY", "hunter5");
    let output = nothing.run(&["doctor"]).await;
    assert_eq!(output.code, Some(1), "{}", output.all());
    contains_all(
        &output.stdout,
        &[
            "BROKEN  RabbitMQ",
            "BROKEN  Redis",
            "BROKEN  Scalekit",
            "BROKEN  model gpt-4o",
            "BROKEN  model gpt-6-luna",
            " 5 broken",
        ],
    );
    assert!(!output.all().contains("hunter"), "{}", output.all());
    let unset = Program::new()
        .set("AMQP_URL", "amqp://127.0.0.1:1")
        .set("REDIS_URL", "redis://127.0.0.1:1")
        .run(&["doctor"])
        .await;
    assert_eq!(unset.code, Some(1), "{}", unset.all());
    contains_all(&unset.stdout, &["BROKEN  configuration: scalekit.client_id", "scalekit.client_secret"]);
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example() {
    for command in COMMANDS {
        let help = Program::new().run(&[command, "--help"]).await;
        assert_eq!(help.code, Some(0), "{}", help.all());
        contains_all(&help.stdout, &["Example", &format!("agentkit-worker {command}")]);
    }
    let help = Program::new().run(&["--help"]).await;
    contains_all(&help.stdout, &COMMANDS);
    contains_all(&help.stdout, &["Exit codes"]);
}

#[tokio::test]
async fn the_dot_env_of_the_original_script_is_read_and_the_environment_wins() {
    let peer = SandboxPeer::start().await;
    peer.activate("slack", "from_file").await;
    let program = Program::new().set("OPENAI_BASE_URL", &peer.sandbox.model_url());
    let lines = format!(
        "SCALEKIT_ENV_URL={}\nSCALEKIT_CLIENT_ID={}\nSCALEKIT_CLIENT_SECRET=\"{}\"\n# a comment\nOPENAI_API_KEY='{}'\n\
         USER_IDENTIFIER=from_file\nCONNECTION_NAME=slack\nOPENAI_BASE_URL=http://127.0.0.1:1\n",
        peer.sandbox.scalekit_url(),
        peer.sandbox.client_id(),
        peer.sandbox.client_secret(),
        peer.sandbox.api_key()
    );
    std::fs::write(program.folder().join(".env"), lines).unwrap();
    let run = program.run(&["run", "List the channels"]).await;
    assert_eq!(run.code, Some(0), "{}", run.all());
    contains_all(&run.stdout, &["Connected account for from_file is active.", "slack_"]);
    for secret in [peer.sandbox.client_secret(), peer.sandbox.api_key()] {
        assert!(!run.all().contains(secret));
    }
    std::fs::write(program.folder().join(".env"), "SCALEKIT_CLIENT_SECRET=hunter2 hunter3\n=\n").unwrap();
    let broken = program.run(&["run"]).await;
    assert_eq!(broken.code, Some(64), "{}", broken.all());
    assert!(broken.stderr.contains(".env") && !broken.all().contains("hunter"), "{}", broken.all());
}

#[tokio::test]
async fn an_interrupted_run_ends_with_130_and_the_sandbox_with_0() {
    let program = Program::new();
    let running = program.start(&["run", "--sandbox"]);
    running.line("waiting for a person").await;
    running.signal("INT");
    let (status, log) = running.end().await;
    assert_eq!(status.code(), Some(130), "{log:#?}");

    let sandbox = program.start(&["sandbox", "--port", "0"]);
    sandbox.line("SCALEKIT_ENV_URL=http://127.0.0.1:").await;
    sandbox.signal("TERM");
    assert_eq!(sandbox.end().await.0.code(), Some(0));
}

#[tokio::test]
async fn the_sandbox_writes_the_env_of_its_worker_and_over_nobody_elses() {
    let program = Program::new();
    let file = program.folder().join("stand-ins.env");
    let arguments = ["sandbox", "--port", "0", "--env-file", file.to_str().unwrap()];
    for _ in 0..2 {
        let sandbox = program.start(&arguments);
        sandbox.line("is the .env of a worker").await;
        let env = std::fs::read_to_string(&file).unwrap();
        let url = env.lines().find_map(|line| line.strip_prefix("SCALEKIT_ENV_URL=")).unwrap();
        assert_eq!(plain_client().get(format!("{url}/")).send().await.unwrap().status(), 200, "it listens");
        for name in ["SCALEKIT_CLIENT_SECRET=", "SCALEKIT_WEBHOOK_SECRET=whsec_", "OPENAI_API_KEY="] {
            assert!(env.lines().any(|line| line.starts_with(name)), "{name}: {env}");
        }
        sandbox.signal("TERM");
        sandbox.end().await;
    }
    std::fs::write(&file, "OPENAI_API_KEY=mine\n").unwrap();
    let refused = program.run(&arguments).await;
    assert!(refused.code == Some(64) && refused.stderr.contains("it is left as it is"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "OPENAI_API_KEY=mine\n");
    let secret = program.run(&["sandbox", "--port", "0", "--webhook-secret", "nonsense"]).await;
    assert!(secret.code == Some(64) && secret.stderr.contains("whsec_"), "{secret:?}");
}

#[tokio::test]
async fn a_worker_that_still_looks_for_its_broker_survives_a_hang_up_and_stops_when_told_to() {
    let peer = SandboxPeer::start().await;
    // Takes connections and says nothing.
    let broker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let amqp = Config { url: format!("amqp://{}", broker.local_addr().unwrap()).into(), ..Config::default() };
    let worker = Program::of_service(&peer.sandbox, &amqp, "redis://127.0.0.1:1")
        .set("AGENTKIT_WORKER__AMQP__CONNECT_TIMEOUT_MILLISECONDS", "600000")
        .start(&["worker"]);
    let (_connection, _) = soon("the worker's connection", broker.accept()).await.unwrap();
    worker.signal("HUP");
    worker.line("SIGHUP").await;
    worker.signal("TERM");
    let (status, log) = worker.end().await;
    assert_eq!(status.code(), Some(0), "{log:#?}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_agentkit-worker"));
    let output =
        command.args(["schema", "config"]).stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
