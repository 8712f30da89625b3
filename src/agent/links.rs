//! Links and images in an answer: whoever wrote what a tool returned may have the model put a user's data into the address of
//! one, and many viewers load images by themselves. The operator says what becomes of those that lead elsewhere.
//!
//! Markdown is not parsed but searched, code included: everything that some viewer might take for a link counts as one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::address::decoded;
use super::link_scan::scan;

/// What becomes of links that lead to hosts which are not the operator's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkPolicy {
    /// They stay.
    #[default]
    Keep,
    /// Their host stands in parentheses beside them.
    Mark,
    /// Their text alone stays.
    Strip,
}

/// The section `[answer]` of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerRules {
    /// What becomes of links to other hosts.
    pub links: LinkPolicy,
    /// Hosts whose links stay, such as `example.com` or `*.example.com`, which does not stand for `example.com` itself.
    pub hosts: Vec<String>,
}

/// What an address without a host is read beside.
const HERE: &str = "https://relative.invalid/";
/// Whoever nests links deeper loses their signs, too.
const PASSES: usize = 4;

impl AnswerRules {
    /// Whether every answer stays as it is.
    pub fn keeps_all(&self) -> bool {
        self.links == LinkPolicy::Keep
    }

    /// `text` as the caller gets it.
    pub fn text(&self, text: String) -> String {
        match self.links {
            LinkPolicy::Keep => text,
            LinkPolicy::Mark => self.scanned(&text),
            LinkPolicy::Strip => self.stripped(text),
        }
    }

    fn scanned(&self, text: &str) -> String {
        scan(text, self.links == LinkPolicy::Strip, &|address| self.leads_to(address))
    }

    /// What is left where one was taken out may make another one.
    fn stripped(&self, mut text: String) -> String {
        for _ in 0..PASSES {
            let left = self.scanned(&text);
            if left == text {
                return text;
            }
            text = left;
        }
        self.scanned(&text.replace(['<', '[', ']'], " "))
    }

    /// `value` with all its texts so, but for the names of fields.
    pub fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, self.value(value))).collect(),
            other => other,
        }
    }

    /// Where `address` leads, if that is neither one of the operator's hosts nor the page that it stands on; as it is written,
    /// or as a viewer may read it.
    fn leads_to(&self, address: &str) -> Option<String> {
        let read = decoded(address);
        self.host_of(&read).or_else(|| if read == address { None } else { self.host_of(address) })
    }

    fn host_of(&self, address: &str) -> Option<String> {
        let address = address.trim();
        let is_bare = address.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("www."));
        let whole = if is_bare { format!("https://{address}") } else { address.to_owned() };
        let base = Url::parse(HERE).expect("it is an address");
        let Ok(url) = base.join(&whole) else { return Some("?".to_owned()) };
        match (url.scheme(), url.host_str()) {
            ("mailto", _) => {
                let host = url.path().rsplit_once('@').map_or("?", |(_, host)| host).to_ascii_lowercase();
                let is_simple = url.query().is_none() && !url.path().contains(',');
                (!is_simple || !self.is_own(&host)).then_some(host)
            }
            ("http" | "https", Some(host)) => {
                let stays = Some(host) == base.host_str() || self.is_own(host);
                (!stays).then(|| host.to_owned())
            }
            (scheme, host) => {
                Some(host.filter(|host| !host.is_empty()).map_or_else(|| format!("{scheme}:"), str::to_owned))
            }
        }
    }

    fn is_own(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| match own.strip_prefix('*') {
            Some(end) => host.len() > end.len() && ends_with(host, end),
            None => host.eq_ignore_ascii_case(own),
        })
    }

    /// What is wrong with the section, one line each.
    pub fn problems(&self) -> Vec<String> {
        let is_host = |own: &str| {
            let name = own.strip_prefix("*.").unwrap_or(own);
            !name.contains('*')
                && Url::parse(&format!("https://{name}/"))
                    .is_ok_and(|url| url.host_str() == Some(&name.to_ascii_lowercase()))
        };
        let wrong = self.hosts.iter().filter(|own| !is_host(own));
        wrong.map(|own| format!("hosts: `{own}` is no host, such as `example.com` or `*.example.com`")).collect()
    }
}

fn ends_with(text: &str, end: &str) -> bool {
    text.len()
        .checked_sub(end.len())
        .and_then(|from| text.get(from..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::link_scan::LEFT_OUT;
    use super::*;

    fn rules(links: LinkPolicy) -> AnswerRules {
        AnswerRules { links, hosts: vec!["example.com".into(), "*.example.com".into()] }
    }

    fn strip(text: &str) -> String {
        rules(LinkPolicy::Strip).text(text.to_owned())
    }

    fn mark(text: &str) -> String {
        rules(LinkPolicy::Mark).text(text.to_owned())
    }

    #[test]
    fn links_to_elsewhere_lose_their_address_or_show_their_host() {
        for (text, stripped, marked) in [
            (
                "see [the *page*](https://evil.org/?q=secret) now",
                "see the *page* now",
                "see [the *page*](https://evil.org/?q=secret) (evil.org) now",
            ),
            (
                "![cat](https://evil.org/c.png \"a (title)\")!",
                "cat!",
                "![cat](https://evil.org/c.png \"a (title)\") (evil.org)!",
            ),
            (
                "[![cat](//evil.org/c)](HTTPS://EVIL.org/x)",
                "cat",
                "[![cat](//evil.org/c) (evil.org)](HTTPS://EVIL.org/x) (evil.org)",
            ),
            ("[a](<https://evil.org/a b>)", "a", "[a](<https://evil.org/a b>) (evil.org)"),
            (
                "<https://evil.org/x> and https://evil.org/y.",
                "(link left out) and (link left out).",
                "<https://evil.org/x> (evil.org) and https://evil.org/y (evil.org).",
            ),
            (
                "www.evil.org, ftp://evil.org",
                "(link left out), (link left out)",
                "www.evil.org (www.evil.org), ftp://evil.org (evil.org)",
            ),
            ("[mail](mailto:a@evil.org?body=x)", "mail", "[mail](mailto:a@evil.org?body=x) (evil.org)"),
            ("[run](javascript:alert(1))", "run", "[run](javascript:alert(1)) (javascript:)"),
            ("[own](https://www.example.com@evil.org/)", "own", "[own](https://www.example.com@evil.org/) (evil.org)"),
            (
                "a <img src=x alt=\"a cat\" srcset='https://evil.org/c 2x'> b",
                "a a cat b",
                "a <img src=x alt=\"a cat\" srcset='https://evil.org/c 2x'> (evil.org)  b",
            ),
            ("<a href=https://evil.org/>text</a>", "text", "<a href=https://evil.org/> (evil.org) text</a>"),
            (
                "<p style=\"background:url(//evil.org/x)\">",
                "",
                "<p style=\"background:url(//evil.org/x)\"> (background:) ",
            ),
            (
                "[text][Ref] and [ref] and [ref][].\n\n[ref]: https://evil.org/x",
                "text and ref and ref.\n\n",
                "[text][Ref] (evil.org) and [ref] (evil.org) and [ref][] (evil.org).\n\n[ref]: https://evil.org/x (evil.org)",
            ),
        ] {
            assert_eq!(strip(text), stripped, "{text}");
            assert_eq!(mark(text), marked, "{text}");
            assert_eq!(AnswerRules::default().text(text.to_owned()), text);
        }
    }

    #[test]
    fn disguised_addresses_are_found() {
        for text in [
            "![x](https&#58;//evil.org/s)",
            "![x](https&colon;&sol;&sol;evil.org/s)",
            "![x](&#x68;ttps://evil.org/s)",
            r"![x](https\://evil.org/s)",
            r"![x](/\evil.org/s)",
            r"![x](\\evil.org/s)",
            "![x](\n https://evil.org/s)",
            "![x](https://evil.org/s",
            "![x](https&#58;//evil.org/s \"(\")",
            "![x]( <ht\ttps://evil.org/s> )",
            "![[x]](https://evil.org/s)",
            "![x][a]\n\n[a]:\nhttps://evil.org/s",
            "![x][a  B]\n[A b]: <https&#58;//evil.org/s> 'title'",
            "<img\nsrc='ht&#10;tps://evil.org/s'>",
            "<img alt='>' src=https&#58;//evil.org/s>",
            "<IMG SRC=//evil.org/s",
            "<img src=\"https&#58;//evil.org/s",
            "`![x](https://evil.org/s)`",
            "xhttps://evil.org/s",
            "![x](https://evil\u{3002}org/s)",
            "[x](https://example.com.evil.org/s)",
            "[x](https://notexample.com/s)",
            "<<img src=//evil.org/a>img src=https&#58;//evil.org/s>",
            "<<<i a=//e.org><i a=//e.org>i a=//e.org><<i a=//e.org>i a=//e.org>img src=https&#58;//evil.org/s>",
        ] {
            let stripped = strip(text);
            let left = ["evil", "notexample", "&#", "&colon"].iter().any(|word| stripped.contains(word));
            assert!(!left || stripped.starts_with("&lt;"), "{text:?} became {stripped:?}");
        }
    }

    #[test]
    fn what_leads_nowhere_else_stays_byte_for_byte() {
        for text in [
            "[own](https://www.example.com/a?b=c) https://example.com/x <https://example.com> ![i](https://IMG.example.com/i.png)",
            "[here](/path) [there](#part) [file](a.md \"title\") [empty]() [x]",
            "<a href=\"https://www.example.com\">own</a> <b>bold</b> <br/> Vec<String> a < b > c <3",
            "note: 12:30, C: and [1]: see below; a[0](x) = f(y)[z]; e.g. x.y@example.org",
            r"\[not a link\](x) 100% \\ ü [ü](ü) ((( [[[ ]]] )))",
            "[mail](mailto:me@example.com)\n\n[ref]: https://www.example.com/x\n[ref] [t][ref]",
        ] {
            assert_eq!(strip(text), text);
            assert_eq!(mark(text), text);
        }
    }

    #[test]
    fn an_answer_made_of_brackets_takes_no_time() {
        for part in [
            "[",
            "[](",
            "![a](b",
            "]:",
            "[a]:",
            "<",
            "<a ",
            "<a '",
            "(",
            "[a][",
            "https://",
            "&#",
            "\\",
            "[[a](x)](https://e.org)",
        ] {
            let text = part.repeat((512 << 10) / part.len());
            for stripped in [strip(&text), mark(&text)] {
                assert!(stripped.len() <= text.len() * 20);
            }
        }
    }

    #[test]
    fn an_answer_in_json_keeps_its_form() {
        let value = json!({"https://a.org": ["[t](https://evil.org)", 1, {"url": "https://evil.org/x"}]});
        let expected = json!({"https://a.org": ["t", 1, {"url": LEFT_OUT}]});
        assert_eq!(rules(LinkPolicy::Strip).value(value), expected);
    }

    #[test]
    fn a_host_that_is_none_is_named() {
        let hosts =
            ["example.com", "*.example.com", "https://a.org", "a b", "*", "", "a.org/x"].map(str::to_owned).to_vec();
        let problems = AnswerRules { links: LinkPolicy::Keep, hosts }.problems();
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}
