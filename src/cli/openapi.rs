//! `schema openapi`: what can be asked under `/v1`, as OpenAPI 3.1 has it.

use serde_json::{Map, Value, json};

use super::components::add_schema;
use crate::decision::DecisionBody;
use crate::http_server::SettlementBody;
use crate::job::Job;
use crate::reply::{CONTENT_TYPE, Reply};
use crate::worker::control::dead_letters::LetterFacts;
use crate::worker::control::standing::JobStanding;

/// What each other status means.
const ERRORS: [(u16, &str); 13] = [
    (204, "Nothing follows what was seen."),
    (400, "The request cannot be read."),
    (401, "A bearer token of `[http.tokens]` is needed."),
    (403, "The token is not good for this scope or this user, or belongs to no producer that may send this job."),
    (404, "There is nothing of this id that this token may see."),
    (408, "The request did not come whole in time."),
    (
        409,
        "The id belongs to another job; what is asked for was decided or has ended before; or the run of a dead letter is damaged.",
    ),
    (410, "The wait is over."),
    (413, "The body is too large."),
    (415, "A job is `application/json`."),
    (422, "Not a job, or not these arguments; every problem is named."),
    (500, "The journal of the job says what cannot be."),
    (503, "A service is away, or the broker takes nothing now. The same again does no harm."),
];

/// The document.
pub fn openapi() -> Value {
    let mut schemas = Map::new();
    let standing = schemars::schema_for!(JobStanding).to_value();
    for (name, schema) in [
        ("Job", Job::schema()),
        ("Reply", Reply::schema()),
        ("Decision", DecisionBody::schema()),
        ("Standing", standing),
        ("Error", error()),
        ("Accepted", accepted()),
        ("Jobs", jobs()),
        ("Decided", decided()),
        ("Settlement", schemars::schema_for!(SettlementBody).to_value()),
        ("Settled", settled()),
        ("DeadLetter", schemars::schema_for!(LetterFacts).to_value()),
        ("DeadLetters", dead_letters()),
        ("Replayed", replayed()),
        ("Events", json!({"type": "string"})),
    ] {
        add_schema(&mut schemas, name, schema);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agentkit-worker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Jobs and decisions over HTTP, beside RabbitMQ: the same jobs, the same runs."
        },
        "security": [{"bearer": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "description": "One of `[http.tokens]`; `x-scope` says what it must be good for."}},
            "schemas": schemas
        }
    })
}

fn paths() -> Value {
    let submit = Operation {
        summary: "Hands a job over. With an id the same request again runs nothing twice.",
        scope: "jobs:write",
        parameters: vec![
            header("Idempotency-Key", "The job's id, where the body has none."),
            header("traceparent", "The caller's trace."),
        ],
        body: Some("Job"),
        answers: vec![
            (200, "The job has had its reply before: this one.", CONTENT_TYPE, "Reply"),
            (202, "The broker has the job safely.", JSON, "Accepted"),
        ],
        errors: &[400, 401, 403, 408, 409, 413, 415, 422, 500, 503],
    };
    let list = Operation {
        summary: "The jobs of the token's users, the one that changed last first; each as its journal tells it. A page may have fewer \
                  rows than there are, and still another page behind it.",
        scope: "jobs:read",
        parameters: vec![
            query("state", "Those that stand so: `queued`, `running`, `waiting`, `completed` or `failed`."),
            query("identifier", "Those of this user."),
            query("since", "Those that changed then or later (RFC 3339)."),
            query("cursor", "The `next_cursor` of the page before."),
            query("limit", "So many at most: 1 to 1000, 100 where nothing is said."),
        ],
        body: None,
        answers: vec![(200, "A page.", JSON, "Jobs")],
        errors: &[400, 401, 403, 408, 503],
    };
    let wait = json!({"name": "wait", "in": "query", "description": "Seconds to wait for the job's end, at most 60.", "schema": {"type": "integer", "minimum": 0}});
    let look = Operation {
        summary: "How a job stands. Jobs that came by AMQP are known from their first attempt on.",
        scope: "jobs:read",
        parameters: vec![id("The job's id."), wait],
        body: None,
        answers: vec![(200, "How it stands.", JSON, "Standing")],
        errors: &[400, 401, 403, 404, 500, 503],
    };
    let last = header("Last-Event-ID", "The `id` of the last event that was seen: the stream goes on behind it.");
    let follow = Operation {
        summary: "What happens to a job, as server-sent events; `id` is the number of an entry in its journal. Kinds: `started`, `running`, \
                  `tools`, `step`, `tool_call`, `retry`, `model_switched`, `history_compacted`, `waiting`, `authorization_required`, `approval_required`, \
                  `approval_decided`, `journal_lost`, `reopened`, and last the reply under its own type.",
        scope: "jobs:read",
        parameters: vec![id("The job's id."), last],
        body: None,
        answers: vec![(
            200,
            "The events, until the job has ended, or for some minutes.",
            "text/event-stream",
            "Events",
        )],
        errors: &[204, 400, 401, 403, 404, 500, 503],
    };
    let cancel = Operation {
        summary: "Ends a job with `failed/cancelled`, wherever it is; its caller is told.",
        scope: "jobs:write",
        parameters: vec![id("The job's id.")],
        body: None,
        answers: vec![(200, "It has ended; it may have been cancelled before.", JSON, "Standing")],
        errors: &[401, 403, 404, 408, 409, 500, 503],
    };
    let decide = Operation {
        summary: "Says what becomes of a call that waits for approval.",
        scope: "approvals",
        parameters: vec![id("The approval's id.")],
        body: Some("Decision"),
        answers: vec![(200, "It is decided so.", JSON, "Decided")],
        errors: &[400, 401, 403, 404, 408, 409, 410, 413, 422, 503],
    };
    let settle = Operation {
        summary: "Says what became of an effect that was unknown when the job ended; its caller is told by `effect_settled`.",
        scope: "operate",
        parameters: vec![id("The job's id.")],
        body: Some("Settlement"),
        answers: vec![(200, "It is settled so.", JSON, "Settled")],
        errors: &[401, 403, 404, 408, 409, 413, 422, 500, 503],
    };
    let dead = Operation {
        summary: "The dead letters of jobs of the token's users, oldest first; messages that are no job are for a token of all users.",
        scope: "operate",
        parameters: Vec::new(),
        body: None,
        answers: vec![(200, "All of them.", JSON, "DeadLetters")],
        errors: &[401, 403, 408, 503],
    };
    let replay = Operation {
        summary: "Lets the letters of an id run again, as `dead replay` does.",
        scope: "operate",
        parameters: vec![id("As `GET /v1/dead` names it.")],
        body: None,
        answers: vec![(200, "Its message is in the job queue, and the letter is gone.", JSON, "Replayed")],
        errors: &[401, 403, 404, 408, 409, 503],
    };
    json!({
        "/v1/jobs": {"get": list.document(), "post": submit.document()},
        "/v1/jobs/{id}": {"get": look.document(), "delete": cancel.document()},
        "/v1/jobs/{id}/events": {"get": follow.document()},
        "/v1/jobs/{id}/settle": {"post": settle.document()},
        "/v1/dead": {"get": dead.document()},
        "/v1/dead/{id}/replay": {"post": replay.document()},
        "/v1/approvals/{id}": {"post": decide.document()},
    })
}

const JSON: &str = "application/json";

/// One method of one path.
struct Operation {
    summary: &'static str,
    /// What the token must be good for.
    scope: &'static str,
    parameters: Vec<Value>,
    /// The schema of the body.
    body: Option<&'static str>,
    /// Status, meaning, media type and schema.
    answers: Vec<(u16, &'static str, &'static str, &'static str)>,
    errors: &'static [u16],
}

impl Operation {
    fn document(&self) -> Value {
        let content = |media_type: &str, schema: &str| json!({media_type: {"schema": reference(schema)}});
        let answers = self.answers.iter().map(|(status, meaning, media_type, schema)| {
            (status.to_string(), json!({"description": meaning, "content": content(media_type, schema)}))
        });
        let errors = ERRORS.iter().filter(|(status, _)| self.errors.contains(status)).map(|(status, meaning)| {
            let mut answer = json!({"description": meaning});
            // Whoever is too slow is told nothing else, and who has seen all nothing at all.
            if ![204, 408].contains(status) {
                answer["content"] = content(JSON, "Error");
            }
            if *status == 503 {
                answer["headers"] = json!({"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}});
            }
            (status.to_string(), answer)
        });
        let responses: Map<String, Value> = answers.chain(errors).collect();
        let mut document = json!({
            "summary": self.summary, "x-scope": self.scope, "parameters": self.parameters, "responses": responses
        });
        if let Some(schema) = self.body {
            document["requestBody"] = json!({"required": true, "content": content(JSON, schema)});
        }
        document
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn id(description: &str) -> Value {
    json!({"name": "id", "in": "path", "required": true, "description": description, "schema": {"type": "string"}})
}

fn query(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "string"}})
}

fn header(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}}
            },
            "problems": {"type": "array", "items": {"type": "string"}, "description": "Of a job, each as `field: problem`."}
        }
    })
}

fn jobs() -> Value {
    json!({
        "type": "object",
        "required": ["jobs", "next_cursor"],
        "additionalProperties": false,
        "properties": {
            "jobs": {"type": "array", "items": {
                "type": "object",
                "required": ["id", "identifier", "state", "at"],
                "additionalProperties": false,
                "properties": {
                    "id": {"type": "string"},
                    "producer": {"type": "string", "description": "Whose job it is, where producers are named."},
                    "identifier": {"type": "string"},
                    "state": {"enum": ["queued", "running", "waiting", "completed", "failed"]},
                    "at": {"type": "string", "format": "date-time", "description": "Since when."}
                }
            }},
            "next_cursor": {"type": ["string", "null"], "description": "Where the next page begins; `null` after the last one."}
        }
    })
}

fn accepted() -> Value {
    json!({
        "type": "object",
        "required": ["id", "status_url"],
        "properties": {
            "id": {"type": "string"},
            "status_url": {"type": "string", "format": "uri-reference"},
            "derived_id": {"const": true, "description": "Nobody gave an id: it was made of the body."}
        }
    })
}

fn decided() -> Value {
    json!({
        "type": "object",
        "required": ["approval", "decision"],
        "properties": {
            "approval": {"type": "string"},
            "decision": {"type": "string", "enum": ["approve", "deny", "edit"]},
            "already": {"const": true, "description": "The same was decided before."}
        }
    })
}

fn settled() -> Value {
    json!({
        "type": "object",
        "required": ["call", "state"],
        "properties": {
            "call": {"type": "string"},
            "state": {"type": "string", "enum": ["done", "not_done"]},
            "already": {"const": true, "description": "The same was said before."}
        }
    })
}

fn dead_letters() -> Value {
    json!({
        "type": "object",
        "required": ["dead"],
        "properties": {"dead": {"type": "array", "items": reference("DeadLetter")}}
    })
}

fn replayed() -> Value {
    json!({
        "type": "object",
        "required": ["id", "outcome"],
        "properties": {
            "id": {"type": "string"},
            "outcome": {
                "type": "string",
                "enum": ["reopened", "goes_on", "anew", "same_reply", "not_a_job"],
                "description": "Its run goes on where it had stopped, had not ended, is not known, or ended otherwise and gets the same reply again; or it is no job for this version."
            }
        }
    })
}
