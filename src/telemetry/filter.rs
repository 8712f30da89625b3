//! What a filter of the log may be. The library takes almost any word for the name of a module and then logs nothing, or
//! everything of one that does not exist.

/// What is allowed, for whoever wrote something else.
pub(super) const ALLOWED: &str = "allowed are off, error, warn, info, debug, trace, and MODULE=LEVEL, several separated by commas: `agentkit_worker=debug,info`";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is wrong with a filter that the library would take, if anything.
pub(super) fn problem(filter: &str) -> Option<String> {
    // Commas within the fields of a span separate nothing: that form is left to the library.
    if filter.contains('[') {
        return None;
    }
    let directives: Vec<&str> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Some("it is empty".to_owned());
    }
    directives.into_iter().find_map(of_directive)
}

fn of_directive(directive: &str) -> Option<String> {
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    match directive.split_once('=') {
        None if is_level(directive) || is_ours(directive) => None,
        None => Some(format!("`{directive}` is no level{}", meant(directive))),
        Some((module, _)) if module.trim().is_empty() => Some(format!("`{directive}` names no module")),
        Some((_, level)) if is_level(level.trim()) => None,
        Some((_, level)) => Some(format!("`{}` is no level{}", level.trim(), meant(level.trim()))),
    }
}

/// A module of ours alone is meant as it stands: all of it.
fn is_ours(module: &str) -> bool {
    module == env!("CARGO_CRATE_NAME") || module.starts_with(concat!(env!("CARGO_CRATE_NAME"), "::"))
}

/// The level that begins alike, if one does.
fn meant(word: &str) -> String {
    let word = word.to_ascii_lowercase();
    let first = |level: &&&str| word.chars().next().is_some_and(|first| level.starts_with(first));
    LEVELS.iter().find(first).map(|level| format!(" (did you mean `{level}`?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_log_nothing_by_mistake_is_refused_with_what_was_meant() {
        for good in [
            "info",
            "INFO",
            "off",
            "agentkit_worker=debug,info",
            "agentkit_worker::queue=trace, warn",
            "agentkit_worker",
            "[job{job.id=a,b=c}]=debug",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, words) in [
            ("", "empty"),
            (" , ", "empty"),
            ("inof", "did you mean `info`"),
            ("Debgu", "did you mean `debug`"),
            ("verbose", "is no level"),
            ("agentkit_worker=nonsense", "`nonsense` is no level"),
            ("agentkit_worker=,info", "`` is no level"),
            ("=debug", "names no module"),
            ("info,qq", "`qq` is no level"),
        ] {
            let found = problem(bad).unwrap();
            assert!(found.contains(words), "{bad}: {found}");
        }
    }
}
