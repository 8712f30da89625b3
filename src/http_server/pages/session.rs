//! Who looks at the pages: a bearer token with each request, or a session that began with one.
//!
//! A session is a signed cookie and nothing else, so every replica knows it. Its key is the token's: where that is taken out
//! of the configuration or replaced, its sessions end.

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use crate::http_server::tokens::{TokenHolder, Tokens};

const COOKIE: &str = "agentkit_session";
/// Seconds after which a session ends, unless a page is opened in its second half.
const LASTS: i64 = 3600;
/// Longer ones are not looked at; ours have less than 500 bytes unless a token's name is long.
const LONGEST_COOKIE: usize = 4096;

/// Whoever looks.
pub(super) struct Viewer<'t> {
    pub(super) holder: &'t TokenHolder,
    /// What forms must carry; nothing where the token came with the request, as no page of others can make a browser send
    /// that.
    session: Option<Session>,
}

/// What a cookie says.
struct Session {
    until: i64,
    nonce: String,
}

impl<'t> Viewer<'t> {
    /// Whoever sent these headers, where they may look at anything.
    pub(super) fn of(tokens: &'t Tokens, headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        if let Some(authorization) = text(headers, &header::AUTHORIZATION) {
            return Some(Self { holder: tokens.holder(authorization)?, session: None });
        }
        let (holder, session) = read(tokens, cookie(headers)?, now)?;
        Some(Self { holder, session: Some(session) })
    }

    /// What each form of this session carries: others' pages cannot know it.
    pub(super) fn form_token(&self) -> String {
        self.session.as_ref().map(|session| self.holder.seal(&form_words(session))).unwrap_or_default()
    }

    /// Whether a form was filled in on one of our pages.
    pub(super) fn sent(&self, headers: &HeaderMap, form_token: &str) -> bool {
        let Some(session) = &self.session else { return true };
        is_own(headers) && self.holder.has_sealed(&form_words(session), form_token)
    }

    /// The cookie with which the session goes on, in its second half.
    pub(super) fn renewed(&self, headers: &HeaderMap, now: Timestamp, nonce: &str) -> Option<String> {
        let session = self.session.as_ref()?;
        (session.until - now.as_second() < LASTS / 2).then(|| begin(self.holder, headers, now, nonce))
    }
}

/// The cookie with which a session of this token begins.
pub(super) fn begin(holder: &TokenHolder, headers: &HeaderMap, now: Timestamp, nonce: &str) -> String {
    let session = Session { until: now.as_second() + LASTS, nonce: nonce.to_owned() };
    let name = URL_SAFE_NO_PAD.encode(&holder.name);
    let seal = holder.seal(&cookie_words(&session));
    set_cookie(headers, &format!("{name}.{}.{nonce}.{seal}", session.until), LASTS)
}

/// The cookie with which a session ends.
pub(super) fn end(headers: &HeaderMap) -> String {
    set_cookie(headers, "", 0)
}

/// Whether a page of ours sent it: browsers say whose page a form is on, and no page can say otherwise. What says nothing is
/// no browser of today.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let is_foreign = text(headers, &SITE).is_some_and(|site| site != "same-origin");
    if is_foreign || headers.get_all(header::ORIGIN).iter().count() != 1 {
        return false;
    }
    let (Some(origin), Some(host)) = (text(headers, &header::ORIGIN), text(headers, &header::HOST)) else {
        return false;
    };
    let scheme_and_host = origin.split_once("://");
    scheme_and_host
        .is_some_and(|(scheme, origin)| ["http", "https"].contains(&scheme) && origin.eq_ignore_ascii_case(host))
}

fn set_cookie(headers: &HeaderMap, value: &str, seconds: i64) -> String {
    const PROTOCOL: HeaderName = HeaderName::from_static("x-forwarded-proto");
    // Whoever says so of a plain connection only loses their own cookie.
    let secure = if text(headers, &PROTOCOL) == Some("https") { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn read<'t>(tokens: &'t Tokens, cookie: &str, now: Timestamp) -> Option<(&'t TokenHolder, Session)> {
    let mut parts = cookie.splitn(4, '.');
    let name = String::from_utf8(URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()?;
    let session = Session { until: parts.next()?.parse().ok()?, nonce: parts.next()?.to_owned() };
    let holder = tokens.named(&name)?;
    let genuine = holder.has_sealed(&cookie_words(&session), parts.next()?) && session.until > now.as_second();
    genuine.then_some((holder, session))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.filter(|all| all.len() <= LONGEST_COOKIE).flat_map(|all| all.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn cookie_words(session: &Session) -> String {
    format!("cookie {} {}", session.until, session.nonce)
}

fn form_words(session: &Session) -> String {
    format!("form {} {}", session.until, session.nonce)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(names: &[(&str, &str)]) -> Tokens {
        let lines = names.iter().map(|(name, token)| {
            format!("[{name}]\ntoken = \"{token}\"\nscopes = [\"jobs:read\"]\nidentifiers = [\"*\"]\n")
        });
        Tokens::new(&toml::from_str(&lines.collect::<String>()).unwrap()).unwrap()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// What a browser sends after a cookie was set.
    fn returned(cookie: &str) -> HeaderMap {
        headers(&[("cookie", &format!("other=1; {}", cookie.split(';').next().unwrap()))])
    }

    const ANN: (&str, &str) = ("ann", "0123456789abcdef");

    #[test]
    fn a_session_lasts_an_hour_and_as_long_as_its_token_and_is_nobody_elses() {
        let all = tokens(&[ANN, ("bob", "fedcba9876543210")]);
        let ann = all.named("ann").unwrap();
        let cookie = begin(ann, &HeaderMap::new(), at(0), "nonce");
        assert!(cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains("Secure"), "{cookie}");
        let sent = returned(&cookie);
        let name = |tokens: &Tokens, headers: &HeaderMap, now| {
            Viewer::of(tokens, headers, now).map(|viewer| viewer.holder.name.clone())
        };
        assert_eq!(name(&all, &sent, at(3599)).as_deref(), Some("ann"));
        assert_eq!(name(&all, &sent, at(3600)), None);
        assert_eq!(name(&tokens(&[("ann", "another token of ann's")]), &sent, at(1)), None, "the token was replaced");
        assert_eq!(name(&tokens(&[("bob", "fedcba9876543210")]), &sent, at(1)), None, "it was taken out");
        let viewer = Viewer::of(&all, &sent, at(1)).unwrap();
        assert!(viewer.renewed(&sent, at(1), "n").is_none() && viewer.renewed(&sent, at(2000), "n").is_some());
        let secure = begin(ann, &headers(&[("x-forwarded-proto", "https")]), at(0), "nonce");
        assert!(secure.ends_with("; Secure"));
    }

    #[test]
    fn a_cookie_that_was_made_up_or_changed_is_worth_nothing() {
        let all = tokens(&[ANN, ("bob", "fedcba9876543210")]);
        let cookie = begin(all.named("ann").unwrap(), &HeaderMap::new(), at(0), "nonce");
        let value = cookie.split(';').next().unwrap().strip_prefix("agentkit_session=").unwrap();
        let parts: Vec<&str> = value.split('.').collect();
        let bob = URL_SAFE_NO_PAD.encode("bob");
        let changed = [
            format!("{bob}.{}.{}.{}", parts[1], parts[2], parts[3]),
            format!("{}.9999999999.{}.{}", parts[0], parts[2], parts[3]),
            format!("{}.{}.other.{}", parts[0], parts[1], parts[3]),
            format!("{}.{}.{}.", parts[0], parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], parts[2]),
            "....".to_owned(),
            String::new(),
            "x".repeat(100_000),
        ];
        for value in changed {
            let sent = headers(&[("cookie", &format!("agentkit_session={value}"))]);
            assert!(Viewer::of(&all, &sent, at(1)).is_none(), "{value}");
        }
        let by_form = Viewer::of(&all, &returned(&cookie), at(1)).unwrap().form_token();
        let sent = format!("agentkit_session={}.{}.{}.{by_form}", parts[0], parts[1], parts[2]);
        assert!(Viewer::of(&all, &headers(&[("cookie", &sent)]), at(1)).is_none(), "a form's token is no cookie");
    }

    #[test]
    fn a_form_counts_from_our_own_page_in_the_same_session_alone() {
        let all = tokens(&[ANN]);
        let cookie = begin(all.named("ann").unwrap(), &HeaderMap::new(), at(0), "one");
        let other = begin(all.named("ann").unwrap(), &HeaderMap::new(), at(0), "two");
        let viewer = Viewer::of(&all, &returned(&cookie), at(1)).unwrap();
        let token = viewer.form_token();
        let of_other = Viewer::of(&all, &returned(&other), at(1)).unwrap().form_token();
        let own = [("host", "worker:9464"), ("origin", "http://worker:9464")];
        assert!(viewer.sent(&headers(&own), &token));
        assert!(viewer.sent(&headers(&[own[0], ("origin", "https://WORKER:9464")]), &token), "TLS ends before us");
        for wrong in ["", "x", &of_other] {
            assert!(!viewer.sent(&headers(&own), wrong), "{wrong}");
        }
        for foreign in [
            vec![own[0]],
            vec![own[1]],
            vec![own[0], ("origin", "null")],
            vec![own[0], ("origin", "http://evil:9464")],
            vec![own[0], ("origin", "http://worker:9464.evil")],
            vec![own[0], ("origin", "file://worker:9464")],
            vec![own[0], own[1], ("sec-fetch-site", "cross-site")],
            vec![own[0], own[1], ("sec-fetch-site", "same-site")],
        ] {
            assert!(!viewer.sent(&headers(&foreign), &token), "{foreign:?}");
        }
        let bearer = headers(&[("authorization", "Bearer 0123456789abcdef")]);
        assert!(Viewer::of(&all, &bearer, at(1)).unwrap().sent(&bearer, ""), "no page can make a browser send that");
        let mut both = returned(&cookie);
        both.insert(header::AUTHORIZATION, "Bearer wrong".parse().unwrap());
        assert!(Viewer::of(&all, &both, at(1)).is_none(), "a wrong token is not made good by a cookie");
    }
}
