//! A notebook behind an MCP server: everything comes as text in MCP's envelope, errors included.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counter::Counter;
use super::parameters::{Parameters, contains, count, text};

/// All pages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Notebook {
    notes: Vec<Note>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    id: String,
    title: String,
    content: String,
}

impl Notebook {
    pub(super) fn new(notes: Vec<Note>) -> Self {
        Self { notes }
    }
}

pub(super) fn run(notebook: &mut Notebook, action: &str, params: &Parameters, counter: &mut Counter) -> Value {
    match action {
        "notes-search" => {
            let query = text(params, "query");
            let found =
                notebook.notes.iter().filter(|note| contains(&note.title, query) || contains(&note.content, query));
            let found =
                found.take(count(params, "page_size", 10)).map(|note| json!({"id": note.id, "title": note.title}));
            envelope(false, &json!({ "results": found.collect::<Vec<_>>() }).to_string())
        }
        "notes-fetch" => match notebook.notes.iter().find(|note| note.id == text(params, "id")) {
            Some(note) => envelope(false, &json!(note).to_string()),
            None => envelope(true, "there is no page with this id"),
        },
        "notes-create-page" => {
            let id = format!("p-new{}", counter.next());
            let (title, content) = (text(params, "title").to_owned(), text(params, "content").to_owned());
            notebook.notes.push(Note { id: id.clone(), title, content });
            envelope(false, &json!({ "id": id }).to_string())
        }
        "ping" => envelope(false, "pong"),
        _ => envelope(true, "unknown tool"),
    }
}

fn envelope(is_error: bool, words: &str) -> Value {
    let content = json!([{"type": "text", "text": words}]);
    if is_error { json!({"isError": true, "content": content}) } else { json!({ "content": content }) }
}
