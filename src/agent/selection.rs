//! Which of a user's tools a run is offered, and under which names.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::search::{SEARCH_TOOLS, SearchRoom, terms};
use super::tool::{Tool, is_named, marked};
use crate::job::{OfferedEffects, ToolSelection};

/// The tools that a run is offered.
#[derive(Debug)]
pub struct Selected {
    /// Sorted by name, with unique model names: the same tools give the same list, so the model provider's prompt cache
    /// stays warm.
    pub tools: Vec<Arc<Tool>>,
    /// How many more the job allows, beyond the model's cap.
    pub left_out: usize,
    /// How many of them are offered at a time once searches found them; none where the model does not search.
    pub finds: usize,
    /// All that the job allows, where the model may search among them; under the names that they have when they are offered.
    pub searchable: Vec<Arc<Tool>>,
    /// How many the user has, before the job's and the operator's rules.
    pub offered: usize,
}

/// Selects by the job's rules and the operator's, of which the stricter counts; where more than `cap` remain, those that share words with
/// the prompt come first, reading ones before others, and places are kept for what the model finds among the others.
pub fn select(
    tools: Vec<Arc<Tool>>,
    rules: &ToolSelection,
    denied: &BTreeSet<String>,
    ceiling: OfferedEffects,
    prompt: &str,
    cap: usize,
) -> Selected {
    let offered = tools.len();
    let mut tools = allowed(tools, rules, denied, ceiling);
    let room = if tools.len() > cap { SearchRoom::of(cap) } else { None };
    name_uniquely(&mut tools, room.is_some());
    let searchable = room.map_or_else(Vec::new, |_| tools.clone());
    let cap = room.map_or(cap, |room| room.first);
    let left_out = keep_most_relevant(&mut tools, prompt, cap);
    Selected { tools, left_out, finds: room.map_or(0, |room| room.finds), searchable, offered }
}

/// All tools that may be found by a run whose model searches, under the names that [`select`] gives them.
pub fn searchable(
    tools: Vec<Arc<Tool>>,
    rules: &ToolSelection,
    denied: &BTreeSet<String>,
    ceiling: OfferedEffects,
) -> Vec<Arc<Tool>> {
    let mut tools = allowed(tools, rules, denied, ceiling);
    name_uniquely(&mut tools, true);
    tools
}

/// What both the job and the operator allow, sorted by name.
fn allowed(
    tools: Vec<Arc<Tool>>,
    rules: &ToolSelection,
    denied: &BTreeSet<String>,
    ceiling: OfferedEffects,
) -> Vec<Arc<Tool>> {
    let mut allowed: Vec<Arc<Tool>> = tools
        .into_iter()
        .filter(|tool| rules.allow.is_empty() || is_named(&rules.allow, &tool.name, &tool.connection))
        .filter(|tool| ![&rules.deny, denied].into_iter().any(|deny| is_named(deny, &tool.name, &tool.connection)))
        .filter(|tool| [rules.effects, ceiling].iter().all(|most| most.allows(tool.effect)))
        .collect();
    sort_by_name(&mut allowed);
    allowed
}

/// Keeps `cap` of the tools at most, sorted by name: those that share words with the prompt, reading ones before others.
/// Returns how many are left out.
pub fn keep_most_relevant(tools: &mut Vec<Arc<Tool>>, prompt: &str, cap: usize) -> usize {
    let left_out = tools.len().saturating_sub(cap);
    if left_out > 0 {
        let words = words(prompt);
        tools.sort_by_cached_key(|tool| (Reverse(relevance(tool, &words)), tool.effect, tool.name.clone()));
        tools.truncate(cap);
    }
    sort_by_name(tools);
    left_out
}

fn sort_by_name(tools: &mut [Arc<Tool>]) {
    tools.sort_by(|one, other| (&one.name, &one.connection).cmp(&(&other.name, &other.connection)));
}

/// Two connections of one provider have tools of the same name: each but the first gets a mark of its connection. So does a
/// tool that is called as the search is, where the model searches.
fn name_uniquely(tools: &mut [Arc<Tool>], searches: bool) {
    let listed = tools.to_vec();
    let mut taken: HashSet<Cow<'_, str>> = searches.then_some(Cow::Borrowed(SEARCH_TOOLS)).into_iter().collect();
    for (tool, listed) in tools.iter_mut().zip(&listed) {
        if taken.insert(Cow::Borrowed(listed.model_name.as_str())) {
            continue;
        }
        let model_name = marked(&listed.model_name, &format!("{}\n{}", listed.connection, listed.name));
        taken.insert(Cow::Owned(model_name.clone()));
        *tool = Arc::new(Tool { model_name, ..Tool::clone(listed) });
    }
}

fn words(text: &str) -> HashSet<String> {
    terms(text).collect()
}

/// A word in the name says more than one in the description.
fn relevance(tool: &Tool, prompt: &HashSet<String>) -> usize {
    3 * words(&tool.name).intersection(prompt).count() + words(&tool.description).intersection(prompt).count()
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;
    use crate::job::ConnectionName;

    fn tool(name: &str, connection: &str) -> Arc<Tool> {
        let connection = ConnectionName::new(connection).unwrap();
        Arc::new(Tool::from_definition(&json!({ "name": name }), &connection).unwrap())
    }

    fn names(selected: &Selected) -> Vec<&str> {
        selected.tools.iter().map(|tool| tool.model_name.as_str()).collect()
    }

    #[test]
    fn the_jobs_rules_and_the_operators_list_both_count() {
        let tools = ["gmail_fetch_mails", "gmail_send_message", "gmail_list_labels", "gmail_create_delegate"];
        let tools: Vec<Arc<Tool>> = tools.iter().map(|name| tool(name, "gmail")).collect();
        let denied = BTreeSet::from(["gmail_create_delegate".to_owned()]);
        let rules = ToolSelection { deny: BTreeSet::from(["gmail_list_labels".to_owned()]), ..Default::default() };
        assert_eq!(
            names(&select(tools.clone(), &rules, &denied, OfferedEffects::All, "", 9)),
            ["gmail_fetch_mails", "gmail_send_message"]
        );
        let rules = ToolSelection { effects: OfferedEffects::Read, ..Default::default() };
        assert_eq!(
            names(&select(tools.clone(), &rules, &denied, OfferedEffects::All, "", 9)),
            ["gmail_fetch_mails", "gmail_list_labels"]
        );
        let rules = ToolSelection { allow: BTreeSet::from(["gmail_create_delegate".to_owned()]), ..Default::default() };
        assert_eq!(
            names(&select(tools, &rules, &denied, OfferedEffects::All, "", 9)),
            Vec::<&str>::new(),
            "the operator has the last word"
        );
    }

    #[test]
    fn over_the_cap_the_prompts_words_decide() {
        let tools: Vec<Arc<Tool>> = (0..300)
            .map(|index| tool(&format!("github_list_thing{index}"), "github"))
            .chain([tool("github_list_issues", "github")])
            .collect();
        let selected =
            select(tools, &ToolSelection::default(), &BTreeSet::new(), OfferedEffects::All, "List my open issues", 128);
        assert_eq!((selected.tools.len(), selected.left_out, selected.offered), (95, 206, 301));
        assert_eq!((selected.finds, selected.searchable.len()), (32, 301), "the search has the last place");
        assert!(names(&selected).contains(&"github_list_issues"));
        assert!(names(&selected).is_sorted());
    }

    #[test]
    fn what_may_be_searched_keeps_its_names_and_holds_nothing_that_is_denied() {
        let listed = || {
            let tools = ["search_tools", "b_read", "c_send", "d_list"].map(|name| tool(name, "work"));
            tools.into_iter().chain([tool("b_read", "home")]).collect::<Vec<_>>()
        };
        let denied = BTreeSet::from(["d_list".to_owned()]);
        let rules = ToolSelection { deny: BTreeSet::from(["c_send".to_owned()]), ..Default::default() };
        let selected = select(listed(), &ToolSelection::default(), &denied, OfferedEffects::All, "", 3);
        assert_eq!((selected.finds, selected.tools.len(), selected.left_out), (0, 3, 1), "too few places for a search");
        let many = || (0..10).map(|index| tool(&format!("e_list_{index}"), "work")).chain(listed()).collect::<Vec<_>>();
        let selected = select(many(), &rules, &denied, OfferedEffects::All, "", 8);
        assert_eq!((selected.tools.len(), selected.finds), (5, 2));
        let found: Vec<&str> = selected.searchable.iter().map(|tool| tool.model_name.as_str()).collect();
        assert!(
            !found.contains(&"c_send") && !found.contains(&"d_list") && !found.contains(&SEARCH_TOOLS),
            "{found:?}"
        );
        assert!(found.iter().any(|name| name.starts_with("search_tools_")), "{found:?}");
        assert_eq!(found.len(), 13);
        let again = searchable(many(), &rules, &denied, OfferedEffects::All);
        assert_eq!(again, selected.searchable);
        let reading = searchable(many(), &ToolSelection::default(), &denied, OfferedEffects::Read);
        assert!(
            reading.iter().all(|tool| OfferedEffects::Read.allows(tool.effect)) && reading.len() == 12,
            "{reading:?}"
        );
    }

    #[test]
    fn the_same_tool_of_two_connections_gets_two_names() {
        let selected = select(
            vec![tool("gmail_fetch_mails", "work"), tool("gmail_fetch_mails", "home")],
            &ToolSelection::default(),
            &BTreeSet::new(),
            OfferedEffects::All,
            "",
            9,
        );
        let unique: HashSet<_> = names(&selected).into_iter().collect();
        assert_eq!(unique.len(), 2);
        assert_eq!(selected.tools[0].connection.as_str(), "home");
        assert_eq!(selected.tools[0].model_name, "gmail_fetch_mails");
    }
}
