//! Which brokers and stores get no fixes from their makers any more, as far as it was known when this was written.

/// When the ends below were looked up.
pub(crate) const KNOWN_IN: &str = "2026-11";

/// The oldest version, major and minor, that was still looked after.
const OLDEST: [(&str, (u32, u32)); 3] = [("RabbitMQ", (4, 2)), ("Redis", (7, 4)), ("Valkey", (7, 2))];

/// The oldest version of `product` that gets fixes, where `version` is an older one.
pub(crate) fn oldest_instead_of(product: &str, version: &str) -> Option<String> {
    let (_, oldest) = OLDEST.iter().find(|(name, _)| *name == product)?;
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let found: (u32, u32) = (numbers.next()?, numbers.next()?);
    (found < *oldest).then(|| format!("{}.{}", oldest.0, oldest.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_that_is_known_to_be_older_is_past_its_end() {
        for (product, version) in
            [("RabbitMQ", "3.10.8"), ("RabbitMQ", "4.0.5"), ("Redis", "7.0.15"), ("Redis", "6.2.14")]
        {
            assert!(oldest_instead_of(product, version).is_some(), "{product} {version}");
        }
        for (product, version) in [
            ("RabbitMQ", "4.2.0"),
            ("RabbitMQ", "4.10.0"),
            ("RabbitMQ", "5.0.0"),
            ("Redis", "8.0.6"),
            ("Valkey", "9.1.2"),
            ("Redis", "unknown"),
            ("LavinMQ", "1.0.0"),
        ] {
            assert_eq!(oldest_instead_of(product, version), None, "{product} {version}");
        }
    }
}
