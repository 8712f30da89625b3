//! What a model's tokens cost, as dated data.

use jiff::civil::Date;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::agent::message::Usage;
use crate::money::Amount;

/// No token costs as much: 10,000 USD for a million.
const HIGHEST: f64 = 10_000.0;

/// The price of one token, read from US dollars for a million of them with up to three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenPrice(
    /// Billionths of a dollar: a dollar for a million tokens is a thousand of them for one.
    u32,
);

impl<'de> Deserialize<'de> for TokenPrice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let usd = f64::deserialize(deserializer)?;
        let nano = usd * 1000.0;
        if !(0.0..=HIGHEST).contains(&usd) || (nano - nano.round()).abs() > 1e-6 {
            return Err(D::Error::custom(
                "a price is US dollars for a million tokens, from 0 to 10000, with three decimals at most",
            ));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds above")]
        Ok(Self(nano.round() as u32))
    }
}

impl JsonSchema for TokenPrice {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TokenPrice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": HIGHEST})
    }
}

/// What the tokens of one request cost, from a day on and above a length of its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The first day, in UTC, on which it is asked for; left out: since ever.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "date"))]
    pub from: Option<Date>,
    /// It is for requests whose whole input has more tokens than this.
    #[serde(default)]
    pub above: u64,
    /// An input token that comes from no cache.
    pub input: TokenPrice,
    /// One that does; left out: as `input`.
    #[serde(default)]
    pub cached_input: Option<TokenPrice>,
    /// One that is kept in the cache for some minutes; left out: as `input`.
    #[serde(default)]
    pub cache_write: Option<TokenPrice>,
    /// One that is kept there for an hour; left out: as `cache_write`.
    #[serde(default)]
    pub cache_write_1h: Option<TokenPrice>,
    /// An output token, one of reasoning included.
    pub output: TokenPrice,
}

impl Price {
    /// What a request with this usage costs.
    pub fn of(&self, usage: &Usage) -> Amount {
        let Usage { input_tokens, output_tokens, cached_tokens, cache_write_tokens, cache_write_1h_tokens } = *usage;
        // Figures that contradict each other make nothing cheaper than its whole input.
        let cached = cached_tokens.min(input_tokens);
        let written_1h = cache_write_1h_tokens.min(input_tokens - cached);
        let written = cache_write_tokens.min(input_tokens - cached - written_1h);
        let plain = input_tokens - cached - written_1h - written;
        let write = self.cache_write.unwrap_or(self.input);
        let parts = [
            (plain, self.input),
            (cached, self.cached_input.unwrap_or(self.input)),
            (written, write),
            (written_1h, self.cache_write_1h.unwrap_or(write)),
            (output_tokens, self.output),
        ];
        let nano: u128 = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(price.0)).sum();
        Amount::of_nano_usd(u64::try_from(nano).unwrap_or(u64::MAX))
    }

    /// The most that a request with so many input and output tokens may cost.
    pub fn at_most(&self, input_tokens: u64, output_tokens: u64) -> Amount {
        let written = [self.cache_write, self.cache_write_1h].into_iter().flatten();
        let input = written.fold(self.input, |most, price| if price.0 > most.0 { price } else { most });
        Self { input, ..*self }.of(&Usage { input_tokens, output_tokens, ..Usage::default() })
    }
}

/// The price of a request on `day` whose input has so many tokens; `None` where none is known.
pub(super) fn price_on(prices: &[Price], day: Date, input_tokens: u64) -> Option<&Price> {
    let began = |price: &&Price| price.from.is_none_or(|from| from <= day);
    let from = prices.iter().filter(began).map(|price| price.from).max()?;
    let band = prices.iter().filter(|price| price.from == from && price.above < input_tokens.max(1));
    band.max_by_key(|price| price.above)
}

/// What is wrong with the prices of one model.
pub(super) fn problems(prices: &[Price]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, price) in prices.iter().enumerate() {
        let from = price.from.map_or_else(|| "the first day".to_owned(), |from| from.to_string());
        let same = |other: &&Price| other.from == price.from && other.above == price.above;
        if prices[..index].iter().any(|other| same(&other)) {
            problems.push(format!("prices: there are two from {from} above {} tokens", price.above));
        }
        if !prices.iter().any(|other| other.from == price.from && other.above == 0) {
            problems.push(format!("prices: from {from} there is none for short requests (above = 0)"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn read(text: &str) -> Result<Vec<Price>, String> {
        #[derive(Deserialize)]
        struct File {
            prices: Vec<Price>,
        }
        toml::from_str::<File>(&format!("prices = [{text}]")).map(|file| file.prices).map_err(|error| error.to_string())
    }

    fn usage(input: u64, cached: u64, output: u64) -> Usage {
        Usage { input_tokens: input, cached_tokens: cached, output_tokens: output, ..Usage::default() }
    }

    #[test]
    fn each_kind_of_token_has_its_price_and_sums_are_exact() {
        let price = read("{ input = 2.50, cached_input = 1.25, output = 10 }").unwrap()[0];
        assert_eq!(price.of(&usage(1000, 0, 100)).nano_usd(), 2_500_000 + 1_000_000);
        assert_eq!(price.of(&usage(1000, 400, 100)).nano_usd(), 600 * 2_500 + 400 * 1_250 + 1_000_000);
        assert_eq!(price.of(&usage(3, 1, 1)).to_string(), "0.00001625 USD");
        assert_eq!(price.of(&Usage::default()), Amount::ZERO);
        let text = "{ input = 2, cached_input = 0.1, cache_write = 2.5, cache_write_1h = 4, output = 10 }";
        let price = read(text).unwrap()[0];
        let written = Usage { cache_write_tokens: 100, cache_write_1h_tokens: 10, ..usage(1000, 200, 1) };
        assert_eq!(price.of(&written).nano_usd(), 690 * 2_000 + 200 * 100 + 100 * 2_500 + 10 * 4_000 + 10_000);
        assert_eq!(price.at_most(10, 1).nano_usd(), 10 * 4_000 + 10_000);
        let plain = read("{ input = 1, output = 2 }").unwrap()[0];
        assert_eq!(plain.of(&Usage { cache_write_tokens: 5, ..usage(10, 5, 0) }).nano_usd(), 10_000);
    }

    #[test]
    fn figures_that_cannot_be_cost_no_less_than_their_input_and_nothing_overflows() {
        let price = read("{ input = 2, cached_input = 1, output = 10000 }").unwrap()[0];
        let odd = Usage { cache_write_tokens: u64::MAX, cache_write_1h_tokens: u64::MAX, ..usage(10, u64::MAX, 0) };
        assert_eq!(price.of(&odd).nano_usd(), 10 * 1000);
        assert_eq!(price.of(&usage(u64::MAX, 0, u64::MAX)).nano_usd(), u64::MAX);
    }

    #[test]
    fn the_day_and_the_length_of_the_request_decide() {
        let text = "{ input = 4, output = 9 }, { from = \"2026-10-07\", input = 2, output = 9 }, \
                    { from = \"2026-10-07\", above = 272_000, input = 3, output = 9 }, { above = 1000, input = 5, output = 9 }";
        let prices = read(text).unwrap();
        assert_eq!(problems(&prices), [""; 0]);
        let input = |day, tokens| price_on(&prices, day, tokens).unwrap().input.0;
        assert_eq!(input(date(2026, 10, 6), 1000), 4000);
        assert_eq!(input(date(2026, 10, 6), 1001), 5000, "the band of that day");
        assert_eq!(input(date(2026, 10, 7), 272_000), 2000);
        assert_eq!(input(date(2026, 10, 7), 272_001), 3000, "the whole request");
        assert_eq!(input(date(2030, 1, 1), 0), 2000);
        let later = read("{ from = \"2026-10-07\", input = 2, output = 9 }").unwrap();
        assert_eq!(price_on(&later, date(2026, 10, 6), 5), None, "what was asked for before is not known");
        assert_eq!(price_on(&[], date(2026, 10, 6), 5), None);
    }

    #[test]
    fn what_is_no_price_is_refused_and_what_cannot_be_is_named() {
        for text in [
            "{ input = -1, output = 1 }",
            "{ input = nan, output = 1 }",
            "{ input = inf, output = 1 }",
            "{ input = 1e308, output = 1 }",
            "{ input = 0.0001, output = 1 }",
            "{ input = \"2.50\", output = 1 }",
            "{ input = 1 }",
            "{ input = 1, output = 1, outputs = 1 }",
            "{ input = 1, output = 1, from = \"soon\" }",
            "{ input = 1, output = 1, above = -1 }",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let twice = read("{ input = 1, output = 1 }, { input = 2, output = 1 }").unwrap();
        assert_eq!(problems(&twice), ["prices: there are two from the first day above 0 tokens"]);
        let long = read("{ from = \"2026-01-01\", above = 5, input = 1, output = 1 }").unwrap();
        assert_eq!(problems(&long).len(), 1);
    }
}
