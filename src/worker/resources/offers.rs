//! What runs offer their models. Most jobs of a service offer the same few sets of tools: each set is printed once, and a
//! tool's schema compiled once, for all runs of the process that offer it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::agent::event::PinnedTool;
use crate::agent::search;
use crate::agent::tool::{Tool, Toolset};
use crate::llm::{Api, Profile, RenderedTools};

/// Printed definitions are kept up to so many bytes; some two hundred sets of as many tools as a model takes, or thousands of
/// a dozen. The definitions themselves and the compiled schemas of tools that were called come to a few times as much.
const MOST_BYTES: u64 = 32 << 20;
/// What no run has asked for this long goes: as long as a tool list stays in the shared cache.
const IDLE: Duration = Duration::from_mins(10);

/// Pinned tools with their definitions, and as they stand in every request.
pub(crate) struct Offer {
    pub(crate) toolset: Toolset,
    pub(crate) pinned: Arc<[PinnedTool]>,
    pub(crate) rendered: RenderedTools,
}

/// The offers of the runs under way and of those lately.
pub(crate) struct Offers {
    recent: moka::future::Cache<Content, Arc<Offer>>,
}

/// All that an offer is made of. Tools that came from one list are told to be the same by where they are.
#[derive(PartialEq, Eq)]
struct Content {
    api: Api,
    description_cap: usize,
    tools: Vec<Arc<Tool>>,
    /// Whether the search for further tools stands behind them.
    searches: bool,
}

impl Hash for Content {
    /// Names alone: two sets that differ in nothing else are seldom there at a time, and told apart by comparison.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.api.hash(state);
        self.tools.iter().for_each(|tool| tool.model_name.hash(state));
    }
}

impl Default for Offers {
    fn default() -> Self {
        let weight = |_: &Content, offer: &Arc<Offer>| u32::try_from(offer.rendered.bytes()).unwrap_or(u32::MAX);
        let recent = moka::future::Cache::builder().max_capacity(MOST_BYTES).weigher(weight).time_to_idle(IDLE);
        Self { recent: recent.build() }
    }
}

impl Offers {
    /// The offer of `tools` to a model of this profile, and of the search for further ones.
    pub(crate) async fn of(&self, profile: &Profile, tools: Vec<Arc<Tool>>, searches: bool) -> Arc<Offer> {
        let content = Content { api: profile.api, description_cap: profile.description_cap, tools, searches };
        if let Some(offer) = self.recent.get(&content).await {
            return offer;
        }
        let tools = content.tools.clone();
        let offer = async {
            let search = searches.then(search::definition);
            Arc::new(Offer {
                rendered: RenderedTools::new(profile, tools.iter().map(|tool| &**tool).chain(&search)),
                pinned: tools.iter().map(|tool| tool.pinned()).collect(),
                toolset: Toolset::new(tools),
            })
        };
        self.recent.get_with(content, offer).await
    }
}

#[cfg(test)]
mod tests {

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::agent::effect::Effect;
    use crate::job::ConnectionName;

    /// Read anew, as from a list that came a second time.
    fn tool(definition: &Value) -> Tool {
        Tool::from_definition(definition, &ConnectionName::new("gmail").unwrap()).unwrap()
    }

    fn definition() -> Value {
        json!({"name": "gmail_fetch_mails", "description": "Fetches mails.", "input_schema": {"required": ["query"]}})
    }

    async fn offer(offers: &Offers, profile: &Profile, tool: Tool) -> Arc<Offer> {
        offers.of(profile, vec![Arc::new(tool)], false).await
    }

    #[tokio::test]
    async fn the_same_tools_are_offered_in_one_copy_wherever_they_came_from() {
        let (offers, profile) = (Offers::default(), Profile::default());
        let first = offer(&offers, &profile, tool(&definition())).await;
        let again = offer(&offers, &profile, tool(&definition())).await;
        assert!(Arc::ptr_eq(&first, &again));
        let fetch = again.toolset.find("gmail_fetch_mails").unwrap();
        assert_eq!(again.toolset.problems(fetch, &Map::new()).len(), 1);
        assert_eq!(again.pinned[..], [fetch.pinned()]);
    }

    #[tokio::test]
    async fn whatever_differs_makes_an_offer_of_its_own() {
        let (offers, profile) = (Offers::default(), Profile::default());
        let first = offer(&offers, &profile, tool(&definition())).await;
        let changed = |change: fn(&mut Value)| {
            let mut definition = definition();
            change(&mut definition);
            tool(&definition)
        };
        let other_connection = ConnectionName::new("gmail-2").unwrap();
        let others = [
            changed(|definition| definition["name"] = json!("gmail_fetch_mail")),
            changed(|definition| definition["description"] = json!("Fetches all mails.")),
            changed(|definition| definition["input_schema"]["required"] = json!(["question"])),
            Tool { effect: Effect::Write, ..tool(&definition()) },
            Tool { model_name: "gmail_fetch_mails_2".to_owned(), ..tool(&definition()) },
            Tool { connection: other_connection, ..tool(&definition()) },
        ];
        for other in others {
            let name = other.model_name.clone();
            let other = offer(&offers, &profile, other).await;
            assert!(!Arc::ptr_eq(&first, &other), "{name}: {:?}", other.pinned);
        }
        for profile in [profile.clone().over(Api::Responses), Profile { description_cap: 5, ..profile }] {
            let other = offer(&offers, &profile, tool(&definition())).await;
            assert!(!Arc::ptr_eq(&first, &other), "{profile:?}");
        }
    }
}
