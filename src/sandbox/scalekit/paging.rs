//! Pages of lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::errors::Refusal;
use super::parameters::Parameters;

/// A window into a list.
pub(super) struct Page {
    start: usize,
    size: usize,
}

impl Page {
    /// Reads `page_size` and `page_token`. Sizes above `cap` are refused where the list is `strict`, else cut down.
    pub(super) fn read(query: &Parameters, default: usize, cap: usize, strict: bool) -> Result<Self, Refusal> {
        let size = match query.first("page_size").map(str::parse::<usize>) {
            None | Some(Ok(0)) => default,
            Some(Ok(size)) if strict && size > cap => {
                return Err(Refusal::field("page_size", "the value is too large", "lte"));
            }
            Some(Ok(size)) => size,
            Some(Err(_)) => return Err(Refusal::field("page_size", "not a number", "type")),
        };
        let start = match query.first("page_token") {
            None => 0,
            Some(token) => start_of(token).ok_or_else(|| Refusal::field("page_token", "not a page token", "format"))?,
        };
        Ok(Self { start, size: size.min(cap) })
    }

    /// The answer for this window: the items under `key`, the tokens of the neighbours and the size of the whole.
    pub(super) fn cut(&self, key: &str, items: Vec<Value>) -> Value {
        let total = items.len();
        let end = self.start.saturating_add(self.size).min(total);
        let next = if end < total { token_of(end) } else { String::new() };
        let previous = if self.start > 0 { token_of(self.start.saturating_sub(self.size)) } else { String::new() };
        let items: Vec<Value> = items.into_iter().skip(self.start).take(self.size).collect();
        json!({key: items, "next_page_token": next, "prev_page_token": previous, "total_size": total})
    }
}

fn token_of(start: usize) -> String {
    URL_SAFE_NO_PAD.encode(json!({ "start": start }).to_string())
}

fn start_of(token: &str) -> Option<usize> {
    let decoded = URL_SAFE_NO_PAD.decode(token).ok()?;
    let decoded: Value = serde_json::from_slice(&decoded).ok()?;
    usize::try_from(decoded["start"].as_u64()?).ok()
}
