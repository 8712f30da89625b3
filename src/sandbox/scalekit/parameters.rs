//! Query parameters and forms.

/// Decoded `name=value` pairs; names may repeat.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value that is not empty.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values that are not empty.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let fits = |(key, value): &&(String, String)| key == name && !value.is_empty();
        self.0.iter().filter(fits).map(|(_, value)| value.as_str()).collect()
    }
}
