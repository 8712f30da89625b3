//! Which of a user's tools a run is offered, and under which names.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::tool::{Tool, marked};
use crate::job::{OfferedEffects, ToolSelection};

/// The tools that a run is offered.
#[derive(Debug)]
pub struct Selected {
    /// Sorted by name, with unique model names: the same tools give the same list, so the model provider's prompt cache
    /// stays warm.
    pub tools: Vec<Arc<Tool>>,
    /// How many more the job allows, beyond the model's cap.
    pub left_out: usize,
    /// How many the user has, before the job's and the operator's rules.
    pub offered: usize,
}

/// Selects by the job's rules and the operator's, of which the stricter counts; where more than `cap` remain, those that share words with
/// the prompt come first, reading ones before others.
pub fn select(
    tools: Vec<Arc<Tool>>,
    rules: &ToolSelection,
    denied: &BTreeSet<String>,
    ceiling: OfferedEffects,
    prompt: &str,
    cap: usize,
) -> Selected {
    let offered = tools.len();
    let mut allowed: Vec<Arc<Tool>> = tools
        .into_iter()
        .filter(|tool| rules.allow.is_empty() || rules.allow.contains(&tool.name))
        .filter(|tool| !rules.deny.contains(&tool.name))
        .filter(|tool| !denied.contains(&tool.name))
        .filter(|tool| [rules.effects, ceiling].iter().all(|most| most.allows(tool.effect)))
        .collect();
    let left_out = keep_most_relevant(&mut allowed, prompt, cap);
    name_uniquely(&mut allowed);
    Selected { tools: allowed, left_out, offered }
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
    tools.sort_by(|one, other| (&one.name, &one.connection).cmp(&(&other.name, &other.connection)));
    left_out
}

/// Two connections of one provider have tools of the same name: each but the first gets a mark of its connection.
fn name_uniquely(tools: &mut [Arc<Tool>]) {
    let listed = tools.to_vec();
    let mut taken = HashSet::new();
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
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| word.chars().count() > 2)
        .map(|word| word.to_lowercase().trim_end_matches('s').to_owned())
        .collect()
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
        assert_eq!((selected.tools.len(), selected.left_out, selected.offered), (128, 173, 301));
        assert!(names(&selected).contains(&"github_list_issues"));
        assert!(names(&selected).is_sorted());
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
