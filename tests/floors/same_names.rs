//! One name, one public type: two of a name are mixed up by whoever reads.

use std::collections::BTreeMap;

use crate::map::SAME_NAME;
use crate::uses::File;

/// Where the public types stand that are not alone with their name, by name.
pub(crate) fn shared(files: &[File]) -> BTreeMap<&str, Vec<String>> {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in files {
        for defined in file.types.iter().filter(|defined| defined.is_public) {
            places.entry(&defined.name).or_default().push(format!("src/{}:{}", file.path, defined.line));
        }
    }
    places.retain(|_, places| places.len() > 1);
    places
}

pub(crate) fn breaches(files: &[File]) -> Vec<String> {
    let shared = shared(files);
    let breach = shared.iter().filter(|(name, _)| !SAME_NAME.iter().any(|(permitted, _)| permitted == *name));
    breach.map(|(name, places)| format!("{}: `{name}` is also {}", places[0], places[1..].join(", "))).collect()
}
