//! What becomes of each call that a model wants: decided once, journalled with the model's words, and never decided again.

use serde_json::{Map, Value};

use super::effect::{CallKey, Effect};
use super::event::Plan;
use super::message::{AssistantMessage, ToolCall};
use super::state::Run;
use super::tool::Toolset;
use super::turn::without_fence;

/// Plans for all calls of `message`, in its order.
pub fn plan(run: &Run, message: &AssistantMessage, toolset: &Toolset) -> Vec<Plan> {
    message.calls.iter().map(|call| plan_call(run, call, toolset)).collect()
}

fn plan_call(run: &Run, call: &ToolCall, toolset: &Toolset) -> Plan {
    let Some(tool) = toolset.find(&call.name) else {
        return Plan::Refuse { reason: unknown_tool(&call.name, toolset) };
    };
    let arguments = match arguments(&call.arguments) {
        Ok(arguments) => arguments,
        Err(problem) => return Plan::Refuse { reason: format!("the arguments are not a JSON object: {problem}") },
    };
    let problems = toolset.problems(tool, &arguments);
    if !problems.is_empty() {
        return Plan::Refuse { reason: format!("the arguments do not fit the tool's schema: {}", problems.join("; ")) };
    }
    let key = CallKey::new(tool.connection.as_str(), &tool.name, &arguments);
    if tool.effect != Effect::Read && run.is_fenced(&key) {
        let reason = "the outcome of the very same call is unknown, so it must not be repeated; check by reading, or \
                      report that the outcome is unknown";
        return Plan::Refuse { reason: reason.to_owned() };
    }
    Plan::Run { tool: tool.pinned(), arguments, key }
}

/// Arguments as models write them: sometimes nothing at all, sometimes in a Markdown fence.
fn arguments(text: &str) -> Result<Map<String, Value>, String> {
    let text = without_fence(text);
    if text.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(arguments)) => Ok(arguments),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err("it is another kind of value".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn unknown_tool(name: &str, toolset: &Toolset) -> String {
    const NAMED: usize = 5;
    let words: Vec<&str> = name.split(['_', '-']).filter(|word| word.len() > 2).collect();
    let mut near: Vec<_> = toolset
        .tools()
        .iter()
        .map(|tool| (words.iter().filter(|word| tool.model_name.contains(*word)).count(), tool.model_name.as_str()))
        .filter(|(shared, _)| *shared > 0)
        .collect();
    near.sort_by_key(|(shared, name)| (std::cmp::Reverse(*shared), *name));
    let near: Vec<&str> = near.into_iter().take(NAMED).map(|(_, name)| name).collect();
    let name = super::turn::shorten(name, 100);
    if near.is_empty() {
        return format!("there is no tool `{name}`");
    }
    format!("there is no tool `{name}`; near ones are {}", near.join(", "))
}
