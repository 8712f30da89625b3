//! The sandbox's models over both wire forms: what they refuse, and what they make of prompts and tool results.

use serde_json::{Value, json};

use crate::support::sandbox_peer::SandboxPeer;

/// The tools of `user_123` at these connections, as a careful client hands them to a model.
async fn tools(peer: &SandboxPeer, connections: &[&str]) -> Vec<Value> {
    let mut tools = Vec::new();
    for connection in connections {
        peer.activate(connection, "user_123").await;
        let list =
            format!("/api/v1/tools/scoped?identifier=user_123&filter.connection_names={connection}&page_size=100");
        for tool in peer.get(&list).await.1["tools"].as_array().unwrap() {
            let definition = &tool["tool"]["definition"];
            let mut parameters = definition["input_schema"].clone();
            for property in parameters["properties"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
                if property["type"] == "array" && property.get("items").is_none() {
                    property["items"] = json!({});
                }
            }
            let description = &definition["description"];
            tools.push(json!({"name": definition["name"], "description": description, "parameters": parameters}));
        }
    }
    tools
}

fn connector_of(tool: &str) -> &'static str {
    match tool.split('_').next().unwrap() {
        "gmail" => "gmail",
        "slack" => "slack",
        "googlecalendar" => "googlecalendar",
        "github" => "github",
        other => panic!("no connector for {other}"),
    }
}

async fn run_tool(peer: &SandboxPeer, name: &str, arguments: &str) -> String {
    let arguments = serde_json::from_str(arguments).unwrap();
    let (status, body) = peer.execute(connector_of(name), name, arguments).await;
    if status == 200 { body["data"].to_string() } else { json!({"error": body["message"]}).to_string() }
}

/// A whole conversation over Chat Completions: the names of the tools called, round by round, and the final text.
async fn chat(peer: &SandboxPeer, connections: &[&str], prompt: &str, more: Value) -> (Vec<Vec<String>>, String) {
    let functions = tools(peer, connections).await;
    let functions: Vec<Value> = functions.iter().map(|tool| json!({"type": "function", "function": tool})).collect();
    let mut messages =
        vec![json!({"role": "system", "content": "You help."}), json!({"role": "user", "content": prompt})];
    let mut rounds = Vec::new();
    for _ in 0..8 {
        let mut request = json!({"model": "gpt-4o", "messages": messages, "tools": functions});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = peer.model("/chat/completions", request).await;
        assert_eq!(status, 200, "{answer}");
        let message = answer["choices"][0]["message"].clone();
        messages.push(message.clone());
        let Some(calls) = message["tool_calls"].as_array() else {
            assert_eq!(answer["choices"][0]["finish_reason"], "stop");
            return (rounds, message["content"].as_str().unwrap().to_owned());
        };
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
        let mut round = Vec::new();
        for call in calls {
            let name = call["function"]["name"].as_str().unwrap();
            let result = run_tool(peer, name, call["function"]["arguments"].as_str().unwrap()).await;
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": result}));
            round.push(name.to_owned());
        }
        rounds.push(round);
    }
    (rounds, "no end".to_owned())
}

#[tokio::test]
async fn unread_mails_are_fetched_and_summarized() {
    let peer = SandboxPeer::start().await;
    let prompt = "Fetch my last 5 unread emails and summarize them.";
    let (rounds, text) = chat(&peer, &["gmail"], prompt, json!({})).await;
    assert_eq!(rounds, [["gmail_fetch_mails"]]);
    assert!(text.contains("5 emails") && text.contains("1. Priya Raman: Contract draft for review"), "{text}");
    assert!(text.contains("5. Harbor Air") && !text.contains("6."), "{text}");
}

#[tokio::test]
async fn a_chain_reads_first_and_then_sends_what_it_found() {
    let peer = SandboxPeer::start().await;
    let prompt = "Fetch my last 2 unread emails, then send a summary to bob@example.com with subject \"Your morning\".";
    let (rounds, text) = chat(&peer, &["gmail"], prompt, json!({})).await;
    assert_eq!(rounds, [["gmail_fetch_mails"], ["gmail_send_message"]]);
    assert!(text.contains("I sent the mail \"Your morning\" to bob@example.com"), "{text}");
    let effects = &peer.world().await["effects"];
    assert_eq!(effects.as_array().unwrap().len(), 1);
    assert_eq!(effects[0]["params"]["to"], "bob@example.com");
    assert!(effects[0]["params"]["body"].as_str().unwrap().contains("Priya Raman"), "{effects}");
}

#[tokio::test]
async fn whoever_wrote_a_mail_is_obeyed_where_the_prompt_says_so() {
    for (obey, rounds) in [("", 1), (" and do what it asks", 2)] {
        let peer = SandboxPeer::start().await;
        let (calls, text) =
            chat(&peer, &["gmail"], &format!("Search my mail from Ledger Desk{obey}."), json!({})).await;
        assert_eq!(calls.len(), rounds, "{text}");
        let effects = &peer.world().await["effects"];
        assert_eq!(effects.as_array().unwrap().len(), rounds - 1);
        assert!(rounds == 1 || effects[0]["params"]["to"] == "archive@ledger-archive.example", "{effects}");
    }
}

#[tokio::test]
async fn words_to_pass_on_are_not_obeyed() {
    let peer = SandboxPeer::start().await;
    let prompt =
        "Send an email to bob@example.com with subject Hello saying \"please fetch all unread mail, then call me\"";
    let (rounds, _) = chat(&peer, &["gmail"], prompt, json!({})).await;
    assert_eq!(rounds, [["gmail_send_message"]]);
    let params = &peer.world().await["effects"][0]["params"];
    assert_eq!(
        *params,
        json!({"to": "bob@example.com", "subject": "Hello", "body": "please fetch all unread mail, then call me"})
    );
}

#[tokio::test]
async fn two_reads_are_parallel_unless_that_is_switched_off() {
    let peer = SandboxPeer::start().await;
    let prompt = "Show my last 3 emails and what is on my calendar today";
    let both = ["gmail", "googlecalendar"];
    let (rounds, text) = chat(&peer, &both, prompt, json!({})).await;
    assert_eq!(rounds, [["gmail_fetch_mails", "googlecalendar_list_events"]]);
    assert!(
        text.contains("3 emails") && text.contains("11:00 Roadmap review") && !text.contains("Customer call"),
        "{text}"
    );
    let (rounds, _) = chat(&peer, &both, prompt, json!({"parallel_tool_calls": false})).await;
    assert_eq!(rounds, [["gmail_fetch_mails"], ["googlecalendar_list_events"]]);
}

#[tokio::test]
async fn further_prompts_reach_their_tools() {
    let peer = SandboxPeer::start().await;
    let all = ["gmail", "googlecalendar", "slack"];
    let cases: [(&str, &[&str]); 7] = [
        ("Post to #general saying the build is green", &["slack_send_message"]),
        ("Summarize the channel #general", &["slack_fetch_conversation_history"]),
        ("Draft a mail to bob@example.com saying hi, then send the draft", &["gmail_create_draft", "gmail_send_draft"]),
        ("Create an event called Retro", &["googlecalendar_create_event"]),
        (
            "Fetch my last 2 unread emails, then mark them as read",
            &["gmail_fetch_mails", "gmail_batch_modify_messages"],
        ),
        ("Find emails from Mara, then trash the first", &["gmail_fetch_mails", "gmail_trash_message"]),
        (
            "call gmail_list_labels with {} then call gmail_create_label with {\"name\": \"call it\"}",
            &["gmail_list_labels", "gmail_create_label"],
        ),
    ];
    for (prompt, expected) in cases {
        let (rounds, text) = chat(&peer, &all, prompt, json!({})).await;
        assert_eq!(rounds.concat(), expected, "{prompt}: {text}");
        assert!(!text.contains("did not work"), "{prompt}: {text}");
    }
    let effects = peer.effects().await;
    assert_eq!(effects, 7);
}

#[tokio::test]
async fn failures_and_doubts_are_reported_honestly() {
    let peer = SandboxPeer::start().await;
    let (rounds, text) = chat(&peer, &["slack"], "Post to #nowhere saying hello", json!({})).await;
    assert_eq!(rounds.len(), 1);
    assert!(text.contains("did not work: channel_not_found"), "{text}");
    let (_, text) = chat(&peer, &["slack"], "Send an email to bob@example.com saying hi", json!({})).await;
    assert!(text.contains("no tool to send a mail"), "{text}");
    let call = json!({"id": "c1", "type": "function", "function": {"name": "gmail_send_message", "arguments": "{}"}});
    let request = json!({"model": "gpt-4o", "messages": [
        {"role": "user", "content": "Send an email to bob@example.com saying hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "{\"status\":\"unknown\",\"message\":\"the connection broke\"}"},
    ]});
    let (_, answer) = peer.model("/chat/completions", request).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        text.contains("do not know whether gmail_send_message took effect") && text.contains("the connection broke")
    );
}

#[tokio::test]
async fn remarks_during_the_work_and_after_it_do_not_change_the_wish() {
    let peer = SandboxPeer::start().await;
    let tool = json!({"type": "function", "function": {"name": "gmail_fetch_mails", "parameters": {"type": "object"}}});
    let call = json!({"id": "c1", "type": "function", "function": {"name": "gmail_fetch_mails", "arguments": "{}"}});
    let mut messages = vec![
        json!({"role": "user", "content": "Loop forever, fetch my mails"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "c1", "content": "{\"messages\":[{\"from\":\"Ada\",\"subject\":\"Hi\"},\"… 1 of 2 items left out\"]}"}),
        json!({"role": "user", "content": "You made the same call several times."}),
    ];
    let ask = |messages: &[Value]| json!({"model": "gpt-4o", "messages": messages, "tools": [tool]});
    let (_, answer) = peer.model("/chat/completions", ask(&messages)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    messages[0] = json!({"role": "user", "content": "Fetch my mails"});
    messages[3] = json!({"role": "assistant", "content": "Done."});
    messages.push(json!({"role": "user", "content": "That was not in the form wanted."}));
    let (_, answer) = peer.model("/chat/completions", ask(&messages)).await;
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("1. Ada: Hi"), "{answer}");
}

#[tokio::test]
async fn special_prompts_behave_as_tests_need_them() {
    let peer = SandboxPeer::start().await;
    let (rounds, text) = chat(&peer, &["gmail"], "Loop forever.", json!({})).await;
    assert_eq!((rounds.len(), text.as_str()), (8, "no end"));
    assert_eq!(chat(&peer, &["gmail"], "Say nothing", json!({})).await, (vec![], String::new()));
    let (rounds, text) = chat(&peer, &["gmail"], "Answer without tools: fetch my mails", json!({})).await;
    assert!(rounds.is_empty() && !text.is_empty());
}

#[tokio::test]
async fn an_output_schema_is_fitted() {
    let peer = SandboxPeer::start().await;
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["summary", "mails"],
        "properties": {"summary": {"type": "string"}, "mails": {"type": "array", "items": {
            "type": "object", "additionalProperties": false, "required": ["sender", "subject"],
            "properties": {"sender": {"type": "string"}, "subject": {"type": "string"}},
        }}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "digest", "strict": true, "schema": schema}});
    let (_, text) = chat(&peer, &["gmail"], "Fetch my last 2 emails", json!({ "response_format": format })).await;
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(jsonschema::is_valid(&schema, &value), "{value}");
    assert_eq!(value["mails"][0]["subject"], "Contract draft for review");
    assert!(value["mails"][1]["sender"].as_str().unwrap().contains("ci@builds.example"), "{value}");
}

#[tokio::test]
async fn chat_completions_refuses_what_the_real_one_refuses() {
    let peer = SandboxPeer::start().await;
    let user = json!([{"role": "user", "content": "hi"}]);
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let object = json!({"type": "object", "properties": {}});
    let many: Vec<Value> = (0..129).map(|index| tool(&format!("t{index}"), object.clone())).collect();
    let listless = json!({"type": "object", "properties": {"ids": {"type": "array"}}});
    let asking = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}},
    ]});
    let unanswered = json!([{"role": "user", "content": "hi"}, asking, {"role": "user", "content": "and?"}]);
    let stray = json!([{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c1", "content": "x"}]);
    let one = [tool("t", object.clone())];
    let cases = [
        (json!({"model": "gpt-2", "messages": user}), 404, json!("model_not_found"), json!(null)),
        (json!({"model": "gpt-4o", "messages": []}), 400, json!(null), json!("messages")),
        (
            json!({"model": "gpt-4o", "messages": user, "tools": many}),
            400,
            json!("array_above_max_length"),
            json!("tools"),
        ),
        (
            json!({"model": "gpt-4o", "messages": user, "tools": [tool("a.b", object.clone())]}),
            400,
            json!("invalid_value"),
            json!("tools[0].function.name"),
        ),
        (
            json!({"model": "gpt-4o", "messages": user, "tools": [tool("t", listless)]}),
            400,
            json!("invalid_function_parameters"),
            json!("tools[0].function.parameters"),
        ),
        (json!({"model": "gpt-4o", "messages": user, "tool_choice": "auto"}), 400, json!(null), json!("tool_choice")),
        (json!({"model": "gpt-4o", "messages": user, "tols": []}), 400, json!("unknown_parameter"), json!("tols")),
        (json!({"model": "gpt-4o", "messages": unanswered}), 400, json!(null), json!("messages[2]")),
        (json!({"model": "gpt-4o", "messages": stray}), 400, json!(null), json!("messages[1]")),
        (
            json!({"model": "gpt-6-luna", "messages": user, "tools": one}),
            400,
            json!("unsupported_value"),
            json!("reasoning_effort"),
        ),
        (
            json!({"model": "gpt-6-luna", "messages": user, "temperature": 0}),
            400,
            json!("unsupported_parameter"),
            json!("temperature"),
        ),
    ];
    for (request, status, code, parameter) in cases {
        let (seen, answer) = peer.model("/chat/completions", request).await;
        assert_eq!(
            (seen, &answer["error"]["code"], &answer["error"]["param"]),
            (status, &code, &parameter),
            "{answer}"
        );
    }
    let quiet = json!({"model": "gpt-6-luna", "messages": user, "tools": one, "reasoning_effort": "none"});
    assert_eq!(peer.model("/chat/completions", quiet).await.0, 200);
    let anonymous = peer.client.get(format!("{}/models", peer.sandbox.model_url())).send().await.unwrap();
    assert_eq!(anonymous.status(), 401);
}

#[tokio::test]
async fn the_model_says_what_it_is_and_what_it_cost() {
    let peer = SandboxPeer::start().await;
    let models = peer.client.get(format!("{}/models", peer.sandbox.model_url())).bearer_auth(peer.sandbox.api_key());
    let models: Value = models.send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["owned_by"], "sandbox-rule-based");
    let request = json!({
        "model": "gpt-4o", "max_completion_tokens": 2,
        "messages": [{"role": "user", "content": format!("answer without tools {}", "x".repeat(4_000))}],
    });
    let (_, answer) = peer.model("/chat/completions", request).await;
    assert_eq!(answer["system_fingerprint"], "sandbox-rule-based");
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]),
        (&json!("length"), &json!(2))
    );
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 1_000);
}

#[tokio::test]
async fn responses_wants_the_reasoning_back_with_its_calls() {
    let peer = SandboxPeer::start().await;
    let tools: Vec<Value> = tools(&peer, &["gmail"])
        .await
        .into_iter()
        .map(|mut tool| {
            tool["type"] = json!("function");
            tool["strict"] = json!(false);
            tool
        })
        .collect();
    let request = |input: &[Value]| {
        json!({
            "model": "gpt-6-luna", "instructions": "You help.", "input": input, "tools": tools, "store": false,
            "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"},
        })
    };
    let mut input =
        vec![json!({"role": "user", "content": [{"type": "input_text", "text": "Fetch my last 2 unread emails"}]})];
    let (status, first) = peer.model("/responses", request(&input)).await;
    assert_eq!(status, 200, "{first}");
    let output = first["output"].as_array().unwrap();
    assert_eq!((&output[0]["type"], &output[1]["type"]), (&json!("reasoning"), &json!("function_call")));
    let (reasoning, call) = (output[0].clone(), output[1].clone());
    let result = run_tool(&peer, call["name"].as_str().unwrap(), call["arguments"].as_str().unwrap()).await;
    let answered = json!({"type": "function_call_output", "call_id": call["call_id"], "output": result});

    let mut sealed_wrong = reasoning.clone();
    sealed_wrong["encrypted_content"] = json!("changed");
    let mut unsealed = reasoning.clone();
    unsealed["encrypted_content"] = Value::Null;
    let refused = [
        (vec![call.clone(), answered.clone()], 400),
        (vec![reasoning.clone(), call.clone()], 400),
        (vec![reasoning.clone()], 400),
        (vec![answered.clone()], 400),
        (vec![sealed_wrong, call.clone(), answered.clone()], 400),
        (vec![unsealed, call.clone(), answered.clone()], 404),
    ];
    for (items, expected) in refused {
        let items: Vec<Value> = input.iter().cloned().chain(items).collect();
        let (status, answer) = peer.model("/responses", request(&items)).await;
        assert_eq!(status, expected, "{answer}");
    }

    input.extend([reasoning, call, answered]);
    let (status, last) = peer.model("/responses", request(&input)).await;
    assert_eq!(status, 200, "{last}");
    let message = last["output"].as_array().unwrap().iter().find(|item| item["type"] == "message").unwrap();
    assert!(message["content"][0]["text"].as_str().unwrap().contains("2 emails"), "{message}");
    let usage = &last["usage"];
    assert!(usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{usage}");
    let many = json!({"model": "gpt-4o", "input": "hi", "tools": vec![tools[0].clone(); 129]});
    assert_eq!(peer.model("/responses", many).await.1["error"]["code"], "array_above_max_length");
}
