//! `schema`: what the messages look like, for machines.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::config::DEFAULTS;
use crate::job::Job;
use crate::reply::Reply;

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker schema job > job.schema.json
  agentkit-worker schema config > agentkit-worker.toml")]
pub struct SchemaArguments {
    /// Which one
    pub what: What,
}

/// What can be printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// JSON Schema of the job message
    Job,
    /// JSON Schema of the replies
    Reply,
    /// Every configuration key with its default and its meaning, as TOML
    Config,
    /// AsyncAPI 3 document of queues and messages
    Asyncapi,
}

/// Carries out `schema`.
pub fn schema(arguments: &SchemaArguments) -> ExitCode {
    let document = match arguments.what {
        What::Job => Job::schema(),
        What::Reply => Reply::schema(),
        What::Asyncapi => asyncapi(),
        What::Config => {
            print!("{DEFAULTS}");
            return ExitCode::SUCCESS;
        }
    };
    println!("{document:#}");
    ExitCode::SUCCESS
}

/// Queues, messages and operations as AsyncAPI 3.0 has them.
fn asyncapi() -> serde_json::Value {
    serde_json::json!({
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
            "replies": {
                "address": null,
                "description": "The queue that the job names in `reply_to`; `agentkit.replies` where it names none or the queue is gone.",
                "messages": {"reply": {"$ref": "#/components/messages/reply"}}
            }
        },
        "operations": {
            "run": {
                "action": "receive",
                "channel": {"$ref": "#/channels/jobs"},
                "reply": {"address": {"location": "$message.header#/reply_to"}, "channel": {"$ref": "#/channels/replies"}}
            }
        },
        "components": {
            "messages": {
                "job": {
                    "contentType": "application/json",
                    "payload": Job::schema(),
                    "correlationId": {"location": "$message.header#/correlation_id"}
                },
                "reply": {
                    "contentType": crate::reply::CONTENT_TYPE,
                    "payload": Reply::schema(),
                    "correlationId": {"location": "$message.header#/correlation_id"}
                }
            }
        }
    })
}
