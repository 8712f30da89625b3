//! What becomes of each call that a model wants: decided once, journalled with the model's words, and never decided again.

use serde_json::{Map, Value};

use super::effect::{CallKey, Effect};
use super::event::Plan;
use super::message::{AssistantMessage, ToolCall};
use super::search::{SEARCH_TOOLS, ToolIndex, ToolSearch};
use super::state::Run;
use super::tool::Toolset;

/// Plans for all calls of `message`, in its order, whose arguments were examined. Searches for tools look in `index`, where the
/// run may search.
pub fn plan(
    run: &Run,
    message: &AssistantMessage,
    toolset: &Toolset,
    index: Option<&ToolIndex>,
    arguments: Vec<Result<Map<String, Value>, String>>,
) -> Vec<Plan> {
    let mut search = run.search().zip(index).map(|(room, index)| ToolSearch::new(index, room, run.pinned()));
    let planned = |(call, arguments): (&ToolCall, Result<Map<String, Value>, String>)| match &mut search {
        Some(search) if call.name == SEARCH_TOOLS => match arguments {
            Ok(arguments) => search.plan(&arguments),
            Err(reason) => Plan::Refuse { reason },
        },
        _ => plan_call(run, call, toolset, arguments),
    };
    message.calls.iter().zip(arguments).map(planned).collect()
}

fn plan_call(run: &Run, call: &ToolCall, toolset: &Toolset, arguments: Result<Map<String, Value>, String>) -> Plan {
    let Some(tool) = toolset.find(&call.name) else {
        return Plan::Refuse { reason: unknown_tool(&call.name, toolset) };
    };
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(reason) => return Plan::Refuse { reason },
    };
    let key = CallKey::new(tool.connection.as_str(), &tool.name, &arguments);
    if tool.effect != Effect::Read && run.is_fenced(&key) {
        let reason = "the outcome of the very same call is unknown, so it must not be repeated; check by reading, or \
                      report that the outcome is unknown";
        return Plan::Refuse { reason: reason.to_owned() };
    }
    if run.approvals.denied(&key) {
        let reason = "the very same call was not allowed before in this run; do something else, or say in your answer \
                      that it was not allowed";
        return Plan::Refuse { reason: reason.to_owned() };
    }
    Plan::Run { tool: tool.pinned(), arguments, key }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::examine::examine;
    use super::super::run::Step;
    use super::super::script::{Script, wants};
    use super::*;

    fn plan(script: &Script, message: &AssistantMessage) -> Vec<Plan> {
        super::plan(&script.run, message, &script.toolset, None, examine(message, &script.toolset, None).arguments)
    }

    fn planned(script: &Script, name: &str, arguments: &str) -> Plan {
        plan(script, &wants(&[("c", name, arguments)]).message).remove(0)
    }

    fn refusal(script: &Script, name: &str, arguments: &str) -> String {
        match planned(script, name, arguments) {
            Plan::Refuse { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_read_as_models_write_them() {
        let script = Script::ready(|_| {});
        let null = json!({});
        let page = json!({"page": 1});
        for (text, expected) in
            [("", &null), (" \n", &null), ("null", &null), ("{}", &null), ("```json\n{\"page\": 1}\n```", &page)]
        {
            let Plan::Run { arguments, .. } = planned(&script, "gmail_fetch_mails", text) else {
                panic!("{text:?} is refused")
            };
            assert_eq!(&Value::Object(arguments), expected);
        }
    }

    #[test]
    fn arguments_that_are_no_object_are_given_back() {
        let script = Script::ready(|_| {});
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100), "]".repeat(100));
        let deeper = "[".repeat(100_000);
        for text in ["[]", "1", "\"to\"", "{\"to\": ", "```", "{} {}", "to=a", "\u{0}", &deep, &deeper] {
            let reason = refusal(&script, "gmail_fetch_mails", text);
            assert!(reason.starts_with("the arguments are not a JSON object: ") && reason.len() < 300, "{reason}");
        }
    }

    #[test]
    fn arguments_nested_as_deep_as_allowed_can_be_read_back_from_the_journal() {
        let mut script = Script::ready(|_| {});
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(63), "]".repeat(63));
        script.model(wants(&[("c1", "gmail_fetch_mails", &deep)]));
        assert_eq!(script.batch(), ["c1"]);
    }

    #[test]
    fn arguments_that_break_the_tools_schema_are_given_back_with_every_problem() {
        let script = Script::ready(|_| {});
        let reason = refusal(&script, "gmail_send_message", r#"{"to": 1}"#);
        assert!(reason.contains("to: "), "{reason}");
        assert!(refusal(&script, "gmail_send_message", "").contains("\"to\""));
    }

    #[test]
    fn an_unknown_tool_is_refused_with_near_names() {
        let script = Script::ready(|_| {});
        let reason = refusal(&script, "gmail_send_mail", "{}");
        let near = "there is no tool `gmail_send_mail`; near ones are gmail_send_message, gmail_fetch_mails, ";
        assert!(reason.starts_with(near), "the ones that share most words come first: {reason}");
        assert_eq!(refusal(&script, "rm -rf", "{}"), "there is no tool `rm -rf`");
        assert_eq!(refusal(&script, "", "{}"), "there is no tool ``");
        assert!(refusal(&script, &"é_".repeat(100_000), "{}").len() < 400);
    }

    #[test]
    fn a_write_with_an_unknown_outcome_is_fenced_for_the_rest_of_the_run() {
        let mut script = Script::ready(|_| {});
        script.model(wants(&[("w1", "gmail_send_message", r#"{"to": "a", "cc": "b"}"#)])).start("w1").unknown("w1");
        let reason = refusal(&script, "gmail_send_message", r#"{"cc": "b", "to": "a"}"#);
        assert!(reason.contains("must not be repeated"), "{reason}");
        assert!(matches!(planned(&script, "gmail_send_message", r#"{"to": "c"}"#), Plan::Run { .. }));
        script.model(wants(&[("w2", "gmail_send_message", r#"{"to": "a", "cc": "b"}"#)]));
        assert_eq!(script.next(), Step::CallModel, "the fenced call is answered and never offered");
        script.model(wants(&[("r1", "gmail_fetch_mails", "{}")])).start("r1").done("r1", "mails").attempt();
        refusal(&script, "gmail_send_message", r#"{"to": "a", "cc": "b"}"#);
    }

    #[test]
    fn a_plan_stands_for_each_call_in_the_models_order() {
        let script = Script::ready(|_| {});
        let message = wants(&[("a", "nonsense", ""), ("b", "gmail_list_labels", ""), ("c", "nonsense", "")]).message;
        let runs: Vec<bool> = plan(&script, &message).iter().map(|plan| matches!(plan, Plan::Run { .. })).collect();
        assert_eq!(runs, [false, true, false]);
    }
}
