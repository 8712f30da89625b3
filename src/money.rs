//! Money in whole billionths of a US dollar: sums are exact, and the price of a single token is a whole number.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Billionths in a dollar.
const NANO: f64 = 1e9;

/// An amount of US dollars, never negative. As JSON a number of dollars such as `0.0125`, exact up to some four million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many billionths of a dollar.
    pub const fn of_nano_usd(nano: u64) -> Self {
        Self(nano)
    }

    /// The same as a number.
    pub const fn nano_usd(self) -> u64 {
        self.0
    }

    /// So many dollars, to the next billionth; `None` where that is negative or no number.
    pub fn of_usd(usd: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive; what is too much is the most"
        )]
        let nano = (usd * NANO).round() as u64;
        (usd >= 0.0).then_some(Self(nano))
    }

    /// In dollars.
    #[expect(clippy::cast_precision_loss, reason = "exact up to some four million dollars")]
    pub fn usd(self) -> f64 {
        self.0 as f64 / NANO
    }

    /// The sum; the most there is where it would be more.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left; nothing where `other` is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Such as `0.0125 USD`.
impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} USD", self.usd())
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.usd())
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let usd = f64::deserialize(deserializer)?;
        Self::of_usd(usd).ok_or_else(|| D::Error::custom("an amount of money is a number of dollars, 0 or more"))
    }
}

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0})
    }
}

/// The currencies that amounts are given in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Currency {
    /// US dollars.
    #[default]
    #[serde(rename = "USD")]
    Usd,
}

/// As a list of names: whoever gives another one is told which there are.
impl JsonSchema for Currency {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Currency".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": ["USD"]})
    }
}

/// An amount with its currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

/// What something cost. As JSON [`Money`], or null where it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelCost {
    /// Exactly this.
    Known(Money),
    /// More than nothing, perhaps, and nobody knows how much.
    Unknown,
    /// Versions up to 0.1.0 did not speak of it. Not written.
    Unsaid,
}

impl ModelCost {
    /// So much.
    pub fn of(amount: Amount) -> Self {
        Self::Known(Money { amount, currency: Currency::Usd })
    }

    /// The amount, where it is known.
    pub fn amount(self) -> Option<Amount> {
        match self {
            Self::Known(money) => Some(money.amount),
            Self::Unknown | Self::Unsaid => None,
        }
    }

    pub(crate) fn unsaid() -> Self {
        Self::Unsaid
    }

    pub(crate) fn is_unsaid(&self) -> bool {
        *self == Self::Unsaid
    }
}

/// For people.
impl fmt::Display for ModelCost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(money) => money.amount.fmt(formatter),
            Self::Unknown | Self::Unsaid => formatter.write_str("not known"),
        }
    }
}

/// Nothing was asked for, nothing is to be paid.
impl Default for ModelCost {
    fn default() -> Self {
        Self::of(Amount::ZERO)
    }
}

impl Serialize for ModelCost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(money) => money.serialize(serializer),
            Self::Unknown | Self::Unsaid => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for ModelCost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Unknown, Self::Known))
    }
}

impl JsonSchema for ModelCost {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelCost".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<Money>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_amount_is_a_number_of_dollars_and_nothing_else() {
        for (text, nano) in
            [("0.20", 200_000_000), ("1", 1_000_000_000), ("1e-9", 1), ("0.30000000000000004", 300_000_000), ("0", 0)]
        {
            assert_eq!(serde_json::from_str::<Amount>(text).unwrap(), Amount(nano), "{text}");
        }
        assert_eq!(serde_json::from_str::<Amount>("1e308").unwrap(), Amount(u64::MAX));
        for text in ["-1", "-1e-3", "\"0.2\"", "\"NaN\"", "null", "[]", "1e999"] {
            assert!(serde_json::from_str::<Amount>(text).is_err(), "{text}");
        }
        assert_eq!((Amount::of_usd(f64::NAN), Amount::of_usd(-1.0)), (None, None));
        assert_eq!(Amount(12_500_000).to_string(), "0.0125 USD");
        assert_eq!(Amount(u64::MAX).plus(Amount(1)), Amount(u64::MAX));
        assert_eq!(Amount(1).minus(Amount(2)), Amount::ZERO);
    }

    #[test]
    fn a_cost_that_is_not_known_is_null_and_one_that_was_not_said_is_not_written() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Usage {
            #[serde(default = "ModelCost::unsaid", skip_serializing_if = "ModelCost::is_unsaid")]
            cost: ModelCost,
        }
        let written = [
            (ModelCost::of(Amount(2_500_000)), json!({"cost": {"amount": 0.0025, "currency": "USD"}})),
            (ModelCost::Unknown, json!({"cost": null})),
            (ModelCost::Unsaid, json!({})),
        ];
        for (cost, value) in written {
            assert_eq!(serde_json::to_value(Usage { cost }).unwrap(), value);
            assert_eq!(serde_json::from_value::<Usage>(value).unwrap(), Usage { cost });
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_exactly(nano in 0_u64..4_000_000_000_000_000) {
            let text = serde_json::to_string(&Amount(nano)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Amount>(&text).unwrap(), Amount(nano));
        }
    }
}
