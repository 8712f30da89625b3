//! The data files beside this one, which are compiled into the program.

use serde::de::DeserializeOwned;

/// Parses one of them.
pub(super) fn embedded<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("the data files are part of the program and read by its tests")
}
