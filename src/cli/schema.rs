//! `schema`: what the messages look like, for machines.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::CommandError;
use super::components::add_schema;
use super::config_schema::config_schema;
use super::openapi::openapi;
use crate::config::DEFAULTS;
use crate::decision::DecisionBody;
use crate::job::Job;
use crate::reply::Reply;

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker schema job > job.schema.json
  agentkit-worker schema config > config.schema.json
  agentkit-worker schema config --toml > agentkit-worker.toml")]
pub struct SchemaArguments {
    /// Which one
    pub what: What,
    /// Of the configuration: every key with its default and its meaning, as TOML
    #[arg(long)]
    pub toml: bool,
}

/// What can be printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// JSON Schema of the job message
    Job,
    /// JSON Schema of the replies
    Reply,
    /// JSON Schema of the configuration
    Config,
    /// AsyncAPI 3 document of queues and messages
    Asyncapi,
    /// OpenAPI 3.1 document of what can be asked by HTTP
    Openapi,
}

/// Carries out `schema`.
pub(crate) fn schema(arguments: &SchemaArguments) -> Result<ExitCode, CommandError> {
    if arguments.toml && !matches!(arguments.what, What::Config) {
        return Err(CommandError::Usage("--toml goes with `schema config` only: messages are JSON".to_owned()));
    }
    let document = match arguments.what {
        What::Job => Job::schema(),
        What::Reply => Reply::schema(),
        What::Asyncapi => asyncapi(),
        What::Openapi => openapi(),
        What::Config if arguments.toml => {
            print!("{DEFAULTS}");
            return Ok(ExitCode::SUCCESS);
        }
        What::Config => config_schema(),
    };
    println!("{document:#}");
    Ok(ExitCode::SUCCESS)
}

/// Queues, messages and operations as AsyncAPI 3.0 has them.
fn asyncapi() -> Value {
    let mut schemas = Map::new();
    for (name, schema) in [("job", Job::schema()), ("reply", Reply::schema()), ("decision", DecisionBody::schema())] {
        add_schema(&mut schemas, name, schema);
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "agentkit-worker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Prompt jobs in, CloudEvents out, over RabbitMQ's default exchange."
        },
        "defaultContentType": "application/json",
        "channels": {
            "jobs": {
                "address": "agentkit.jobs",
                "messages": {"job": {"$ref": "#/components/messages/job"}},
                "bindings": {"amqp": {"is": "queue", "queue": {"name": "agentkit.jobs", "durable": true, "exclusive": false, "autoDelete": false}}}
            },
            "decisions": {
                "address": "agentkit.decisions",
                "description": "What people say to calls that wait for approval.",
                "messages": {"decision": {"$ref": "#/components/messages/decision"}},
                "bindings": {"amqp": {"is": "queue", "queue": {"name": "agentkit.decisions", "durable": true, "exclusive": false, "autoDelete": false}}}
            },
            "replies": {
                "address": null,
                "description": "The queue that the job names in `reply_to`; `agentkit.replies` where it names none or the queue is gone.",
                "messages": {"reply": {"$ref": "#/components/messages/reply"}}
            }
        },
        "operations": {
            "decide": {
                "action": "receive",
                "channel": {"$ref": "#/channels/decisions"},
                "reply": {"address": {"location": "$message.header#/reply_to"}, "channel": {"$ref": "#/channels/replies"}}
            },
            "run": {
                "action": "receive",
                "channel": {"$ref": "#/channels/jobs"},
                "reply": {"address": {"location": "$message.header#/reply_to"}, "channel": {"$ref": "#/channels/replies"}}
            }
        },
        "components": {
            "schemas": schemas,
            "messages": {
                "job": {
                    "contentType": "application/json",
                    "payload": {"$ref": "#/components/schemas/job"},
                    "correlationId": {"location": "$message.header#/correlation_id"}
                },
                "decision": {"contentType": "application/json", "payload": {"$ref": "#/components/schemas/decision"}},
                "reply": {
                    "contentType": crate::reply::CONTENT_TYPE,
                    "payload": {"$ref": "#/components/schemas/reply"},
                    "correlationId": {"location": "$message.header#/correlation_id"}
                }
            }
        }
    })
}
