//! How the fields of spans are written: as the library does it, but for the user's identifier, which is left out, written as a
//! pseudonym, or as it is.

use std::fmt;

use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sha2::Sha256;
use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, JsonVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, FormattedFields};

use super::{Identifiers, LogConfig, LogFormat};

/// The field that names a user, in whatever span.
const IDENTIFIER: &str = "job.identifier";
/// Bytes of a pseudonym: enough for no two users of a deployment to have the same one.
const PSEUDONYM_BYTES: usize = 8;

/// Writes the fields of spans, and in text form those of events.
pub(super) struct Fields {
    json: bool,
    names: Names,
}

struct Names {
    how: Identifiers,
    key: SecretString,
}

impl Fields {
    pub(super) fn new(config: &LogConfig) -> Self {
        let names = Names { how: config.identifiers, key: config.pseudonym_key.clone() };
        Self { json: config.format == LogFormat::Json, names }
    }
}

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        if self.json {
            let mut visitor = JsonVisitor::new(&mut writer);
            fields.record(&mut Named { visitor: &mut visitor, names: &self.names });
            return visitor.finish();
        }
        let mut visitor = DefaultVisitor::new(writer, true);
        fields.record(&mut Named { visitor: &mut visitor, names: &self.names });
        visitor.finish()
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut added = String::new();
        self.format_fields(Writer::new(&mut added), fields)?;
        if !self.json {
            if !current.fields.is_empty() && !added.is_empty() {
                current.fields.push(' ');
            }
            current.fields.push_str(&added);
            return Ok(());
        }
        let object = |text: &str| match text {
            "" => Ok(Map::new()),
            text => serde_json::from_str::<Map<String, Value>>(text).map_err(|_| fmt::Error),
        };
        let mut all = object(&current.fields)?;
        all.extend(object(&added)?);
        current.fields = Value::Object(all).to_string();
        Ok(())
    }
}

/// Passes all fields on, the user's identifier as configured.
struct Named<'a> {
    visitor: &'a mut dyn Visit,
    names: &'a Names,
}

impl Visit for Named<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match self.names.how {
            _ if field.name() != IDENTIFIER => self.visitor.record_debug(field, value),
            Identifiers::Debug => {}
            Identifiers::Pseudonym => {
                let name = pseudonym(&format!("{value:?}"), &self.names.key);
                // As `%` has it: without quotation marks in text.
                self.visitor.record_debug(field, &format_args!("{name}"));
            }
            Identifiers::Plain => self.visitor.record_debug(field, value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == IDENTIFIER {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.visitor.record_str(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.visitor.record_u64(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.visitor.record_i64(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.visitor.record_bool(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.visitor.record_f64(field, value);
    }
}

/// `user_` and the beginning of an HMAC-SHA256, in hexadecimal.
pub(super) fn pseudonym(identifier: &str, key: &SecretString) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(identifier.as_bytes());
    let code = mac.finalize().into_bytes();
    code.iter().take(PSEUDONYM_BYTES).fold("user_".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{error_span, field, info};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(format: LogFormat, identifiers: Identifiers) -> String {
        let (filter, pseudonym_key) = ("info".to_owned(), "a key".into());
        let fields = Fields::new(&LogConfig { format, filter, identifiers, pseudonym_key });
        let lines = Lines::default();
        let written = lines.clone();
        let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone());
        let say = || {
            let span = error_span!("job", job.id = "j-1", job.identifier = %"zebra", job.attempt = field::Empty);
            span.record("job.attempt", 7);
            span.in_scope(|| info!(tools = 2, "listed"));
        };
        match format {
            LogFormat::Text => tracing::subscriber::with_default(builder.fmt_fields(fields).finish(), say),
            LogFormat::Json => {
                tracing::subscriber::with_default(builder.json().flatten_event(true).fmt_fields(fields).finish(), say);
            }
        }
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn users_are_left_out_or_named_as_configured_and_all_else_is_as_ever() {
        let pseudonym = pseudonym("zebra", &"a key".into());
        for (identifiers, text, json) in [
            (Identifiers::Debug, String::new(), None),
            (Identifiers::Pseudonym, format!(" job.identifier={pseudonym}"), Some(pseudonym.as_str())),
            (Identifiers::Plain, " job.identifier=zebra".to_owned(), Some("zebra")),
        ] {
            let found = line(LogFormat::Text, identifiers);
            assert!(found.contains(&format!("job{{job.id=\"j-1\"{text} job.attempt=7}}")), "{found}");
            assert!(found.ends_with("listed tools=2\n"), "{found}");
            let found: Value = serde_json::from_str(&line(LogFormat::Json, identifiers)).unwrap();
            assert_eq!(found["span"]["job.identifier"].as_str(), json, "{found}");
            assert_eq!((&found["span"]["job.attempt"], &found["tools"]), (&7.into(), &2.into()), "{found}");
        }
    }

    #[test]
    fn a_pseudonym_is_the_same_for_one_user_and_key_only() {
        let of = |identifier: &str, key: &str| pseudonym(identifier, &key.into());
        assert_eq!(of("zebra", "k"), of("zebra", "k"));
        assert_eq!(of("zebra", "k").len(), "user_".len() + 16);
        assert_ne!(of("zebra", "k"), of("okapi", "k"));
        assert_ne!(of("zebra", "k"), of("zebra", "l"));
        // printf user_123 | openssl dgst -sha256 -hmac hunter2
        assert_eq!(of("user_123", "hunter2"), "user_0a95b8ce336ca85b");
    }
}
