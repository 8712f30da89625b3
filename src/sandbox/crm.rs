//! A small register of contacts, which an operator's own MCP server offers: one for all callers, with a journal of calls.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::data::embedded;

/// One transparent pixel, and a moment of silence.
const IMAGE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
const AUDIO: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Contact {
    id: String,
    name: String,
    email: String,
    stage: String,
    notes: Vec<String>,
}

/// One call that reached the register.
#[derive(Debug, Serialize)]
struct CrmCall {
    tool: String,
    arguments: Map<String, Value>,
    /// Whether it changed the register: only such calls are effects.
    changed: bool,
    at: Timestamp,
}

/// The register.
#[derive(Debug, Serialize)]
pub(super) struct Crm {
    #[serde(skip)]
    tools: Vec<Value>,
    contacts: Vec<Contact>,
    deals: Vec<Value>,
    /// Every call, in order.
    calls: Vec<CrmCall>,
    #[serde(skip)]
    created: usize,
}

impl Default for Crm {
    fn default() -> Self {
        let CrmSeed { tools, contacts, deals } = embedded(include_str!("data/crm.json"));
        Self { tools, contacts, deals, calls: Vec::new(), created: 0 }
    }
}

/// The data file's form.
#[derive(Deserialize)]
struct CrmSeed {
    tools: Vec<Value>,
    contacts: Vec<Contact>,
    deals: Vec<Value>,
}

impl Crm {
    /// The tools as MCP describes them, and `more` that read one shelf of an archive each.
    pub(super) fn tools(&self, more: usize) -> Vec<Value> {
        let more = (0..more).map(|shelf| {
            json!({
                "name": format!("read_archive_shelf_{shelf:04}"),
                "description": format!("Reads the letters on shelf {shelf} of the archive."),
                "inputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": true},
            })
        });
        self.tools.iter().cloned().chain(more).collect()
    }

    /// Runs a tool that is on the list: a result in MCP's form, which may say that it failed.
    pub(super) fn run(&mut self, tool: &Value, arguments: Map<String, Value>, at: Timestamp) -> Value {
        let name = tool["name"].as_str().unwrap_or_default().to_owned();
        let before = self.contacts.clone();
        let result = match missing(&tool["inputSchema"], &arguments) {
            Some(missing) => words(true, format!("missing or invalid argument: {missing}")),
            None => self.act(&name, &arguments),
        };
        let changed = self.contacts != before;
        self.calls.push(CrmCall { tool: name, arguments, changed, at });
        result
    }

    fn act(&mut self, tool: &str, arguments: &Map<String, Value>) -> Value {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).unwrap_or_default();
        match tool {
            "search_contacts" => self.search(text("query"), arguments.get("limit")),
            "create_contact" => {
                self.created += 1;
                let contact = Contact {
                    id: format!("c-new{}", self.created),
                    name: text("name").to_owned(),
                    email: text("email").to_owned(),
                    stage: "lead".to_owned(),
                    notes: Vec::new(),
                };
                self.contacts.push(contact.clone());
                words(false, json!(contact).to_string())
            }
            "get_contact" => self.on_contact(text("id"), |contact| {
                let contact = json!(contact);
                let mut result = words(false, contact.to_string());
                result["structuredContent"] = contact;
                result
            }),
            "set_stage" => self.on_contact(text("id"), |contact| {
                text("stage").clone_into(&mut contact.stage);
                words(false, json!(contact).to_string())
            }),
            "notes.add" => self.on_contact(text("id"), |contact| {
                contact.notes.push(text("text").to_owned());
                words(false, "the note is added".to_owned())
            }),
            "delete_contact" => {
                let left = self.contacts.len();
                self.contacts.retain(|contact| contact.id != text("id"));
                if self.contacts.len() == left { no_contact() } else { words(false, "it is deleted".to_owned()) }
            }
            "list_deals" => {
                let deals: Vec<&Value> = self.deals.iter().filter(|deal| deal["region"] == text("region")).collect();
                words(false, json!({ "deals": deals }).to_string())
            }
            "show_report" => report(text("as")),
            "broken_header" => words(true, "no client that follows the protocol calls this".to_owned()),
            shelf => words(false, format!("{shelf}: the shelf is empty")),
        }
    }

    fn search(&self, query: &str, limit: Option<&Value>) -> Value {
        let query = query.to_lowercase();
        let limit = limit.and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok()).unwrap_or(50);
        let fits = |contact: &&Contact| {
            [&contact.name, &contact.email, &contact.stage].iter().any(|field| field.to_lowercase().contains(&query))
        };
        let found: Vec<Value> = self
            .contacts
            .iter()
            .filter(fits)
            .take(limit)
            .map(|contact| json!({"id": contact.id, "name": contact.name, "email": contact.email}))
            .collect();
        words(false, json!({ "contacts": found }).to_string())
    }

    fn on_contact(&mut self, id: &str, act: impl FnOnce(&mut Contact) -> Value) -> Value {
        self.contacts.iter_mut().find(|contact| contact.id == id).map_or_else(no_contact, act)
    }
}

fn report(form: &str) -> Value {
    let of = |form: &str| match form {
        "image" => json!({"type": "image", "data": IMAGE, "mimeType": "image/png"}),
        "audio" => json!({"type": "audio", "data": AUDIO, "mimeType": "audio/wav"}),
        "link" => json!({
            "type": "resource_link", "uri": "https://crm.example/reports/q3", "name": "q3", "title": "The third quarter",
            "mimeType": "application/pdf",
        }),
        "resource" => json!({"type": "resource", "resource": {
            "uri": "report://q3", "mimeType": "text/plain", "text": "Third quarter: three contacts, two deals.",
        }}),
        _ => json!({"type": "text", "text": "Third quarter: three contacts, two deals."}),
    };
    let forms: Vec<&str> = if form == "all" { vec!["text", "image", "audio", "link", "resource"] } else { vec![form] };
    json!({"content": forms.into_iter().map(of).collect::<Vec<_>>(), "isError": false})
}

fn missing<'a>(schema: &'a Value, arguments: &Map<String, Value>) -> Option<&'a str> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.into_iter().find(|name| arguments.get(*name).is_none_or(|value| !value.is_string()))
}

fn no_contact() -> Value {
    words(true, "there is no contact with this id".to_owned())
}

fn words(is_error: bool, text: String) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": is_error})
}
