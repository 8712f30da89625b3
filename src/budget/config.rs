//! What the operator lets model calls cost.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::money::Amount;

/// No budget is larger: counters are exact far beyond it.
const MOST: Amount = Amount::of_nano_usd(1_000_000_000_000_000);

/// Budgets in US dollars, each off where it is 0; see `config/default.toml`. Days and months are those of UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// For all runs of one user on one day.
    pub identifier_day: Amount,
    /// For all runs of one firing of a digest.
    pub digest_firing: Amount,
    /// For all runs of all workers on one day.
    pub day: Amount,
    /// For all runs of all workers in one month.
    pub month: Amount,
}

impl BudgetConfig {
    /// Whether there is any.
    pub fn is_on(&self) -> bool {
        *self != Self::default()
    }

    /// Everything that is wrong with it, each as `key: problem`.
    pub fn problems(&self) -> Vec<String> {
        let all = [
            ("identifier_day", self.identifier_day),
            ("digest_firing", self.digest_firing),
            ("day", self.day),
            ("month", self.month),
        ];
        let large = all.into_iter().filter(|(_, amount)| *amount > MOST);
        large.map(|(key, _)| format!("{key}: must be at most {MOST}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_amount_is_refused_and_what_is_too_much_is_named() {
        let read = |text: &str| toml::from_str::<BudgetConfig>(text);
        assert!(!read("").unwrap().is_on() && !read("day = 0").unwrap().is_on());
        let config = read("identifier_day = 0.5\nmonth = 2000").unwrap();
        assert!(config.is_on() && config.problems().is_empty());
        assert_eq!(config.month, Amount::of_nano_usd(2_000_000_000_000));
        for text in ["day = -1", "day = nan", "day = \"1\"", "week = 1.0", "day = []"] {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["day = 1e308", "day = inf", "day = 1000000.1"] {
            assert_eq!(read(text).unwrap().problems(), ["day: must be at most 1000000 USD"], "{text}");
        }
    }
}
