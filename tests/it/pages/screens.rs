//! All pages in a real browser: wide and narrow, light and dark, by keyboard, and renewed while somebody looks.

use serde_json::json;

use super::{ALL, Pages, header, part, read};
use crate::support::browser::Browser;
use crate::support::setting;

/// Texts that are too faint against what is behind them (WCAG 2.2 AA: 4.5, of large ones 3), and things to press or fill in
/// that have no name.
const UNREADABLE: &str = r#"(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < needed) found.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}: ${element.textContent.slice(0, 40)}`);
  }
  for (const element of document.querySelectorAll("button, a, input:not([type=hidden]), select, summary")) {
    const name = element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.[0]?.textContent;
    if (!name) found.push(`${element.outerHTML} has no name`);
  }
  if (document.querySelectorAll("h1").length !== 1 || document.querySelectorAll("main").length !== 1) found.push("one h1, one main");
  return found;
})()"#;

/// Whether something is wider than the window.
const TOO_WIDE: &str = r#"[...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth + 1 && element.getBoundingClientRect().left >= 0)
  .map((element) => `${element.tagName}.${element.className}`).concat(document.documentElement.scrollWidth > innerWidth ? ["page"] : [])"#;

#[tokio::test]
async fn every_page_is_readable_wide_and_narrow_light_and_dark_and_works_by_keyboard() {
    let pages = Pages::start().await;
    let mut browser = Browser::start().await;
    let url = pages.worker.url.clone();
    let sandbox = format!("{}/", pages.service.peer.sandbox.scalekit_url());
    browser.look(1280, 900, false).await;
    browser.open(&format!("{url}/inbox")).await;
    looks_well(&mut browser, "sign-in-1280").await;
    browser.complaints(); // That nobody is signed in is an error to a browser.
    browser
        .follow(&format!(
            "document.querySelector('#token').value = {}; document.querySelector('.sign-in button').click()",
            json!(ALL)
        ))
        .await;
    assert_eq!(browser.run("location.pathname").await, "/");
    let cookies = browser.run("document.cookie").await;
    assert_eq!(cookies, "", "no script sees the session");

    let screens = [
        ("now", "/"),
        ("inbox", "/inbox"),
        ("letters", "/inbox?letters=1"),
        ("jobs", "/jobs"),
        ("run", "/job?id=done-1"),
        ("waiting-run", "/job?id=waits-1"),
        ("digests", "/digests"),
        ("doctor", "/doctor"),
    ];
    for (width, dark) in [(1280, false), (390, false), (1280, true), (390, true)] {
        browser.look(width, 900, dark).await;
        for (name, path) in screens {
            browser.open(&format!("{url}{path}")).await;
            if name == "doctor" {
                browser.follow("document.querySelector('form[action=doctor] button').click()").await;
            }
            if name == "run" {
                browser.run("document.querySelectorAll('details').forEach((details) => details.open = true)").await;
            }
            looks_well(&mut browser, &format!("{name}-{width}{}", if dark { "-dark" } else { "" })).await;
        }
        browser.open(&pages.link).await;
        looks_well(&mut browser, &format!("link-{width}{}", if dark { "-dark" } else { "" })).await;
        browser.open(&sandbox).await;
        looks_well(&mut browser, &format!("sandbox-{width}{}", if dark { "-dark" } else { "" })).await;
    }

    browser.look(1280, 900, false).await;
    browser.open(&format!("{url}/inbox")).await;
    browser.press("Tab").await;
    assert_eq!(browser.run("document.activeElement.className").await, "skip");
    browser.press("Enter").await;
    browser.until("the content has the focus", "document.activeElement.id === 'content'").await;

    // What happens elsewhere is seen without loading the page again.
    let inbox = read(pages.get("/inbox").bearer_auth(ALL)).await.1;
    let card = inbox.split("<article").find(|card| card.contains("waits-1")).unwrap();
    let (approval, digest) =
        (part(card, "decide?approval=", "\""), part(card, "name=\"arguments_digest\" value=\"", "\""));
    let denied =
        pages.post(&format!("/decide?approval={approval}"), &[("decision", "deny"), ("arguments_digest", digest)]);
    assert_eq!(denied.bearer_auth(ALL).send().await.unwrap().status(), 303);
    browser.run("window.here = true").await;
    browser.until("the call is gone", "document.querySelectorAll('article').length === 1 && window.here").await;
    pages.end_of("waits-1").await;

    // The other one is approved by a press of the button.
    browser.run("document.querySelector('button[value=approve]').focus()").await;
    browser.follow("document.querySelector('button[value=approve]').click()").await;
    assert_eq!(browser.run("document.querySelector('.said').textContent").await, "Approved; the run goes on.");
    let reply = pages.end_of("waits/2").await;
    assert_eq!(reply["data"]["effects"][0]["state"], "done", "{reply:#}");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    the_sandbox_is_steered_by_its_page(&mut browser, &sandbox, &pages).await;
    browser.open(&url).await;
    browser.follow("document.querySelector('form[action=sign-out] button').click()").await;
    assert_eq!(browser.run("document.querySelector('h1').textContent").await, "Sign in");
    let file = pages.get("/page.js").send().await.unwrap();
    assert_eq!(header(&file, "content-type"), "text/javascript; charset=utf-8");
    pages.worker.stop().await;
}

async fn the_sandbox_is_steered_by_its_page(browser: &mut Browser, sandbox: &str, pages: &Pages<'_>) {
    browser.open(sandbox).await;
    let text = async |browser: &mut Browser| browser.run("document.querySelector('main').innerText").await.to_string();
    let before = text(browser).await;
    assert!(before.contains("gmail_send_message") && before.contains("None is left."), "{before}");
    let order = "document.querySelector('form[action=\"/page/fault\"] button').click()";
    browser.follow(order).await;
    assert!(text(browser).await.contains("on \\\"execute\\\""), "{}", text(browser).await);
    browser.follow("document.querySelector('form[action=\"/page/clear\"] button').click()").await;
    assert!(text(browser).await.contains("None is left."));
    browser.run("document.querySelector('input[name=identifier]:not([type=hidden])').value = '<b>new</b>'").await;
    browser.run("document.querySelector('select[name=status]').value = 'EXPIRED'").await;
    browser.follow("document.querySelector('form.row[action=\"/page/account\"] button').click()").await;
    let peer = &pages.service.peer;
    let account = async || {
        let (_, all) = peer.get("/_sandbox/accounts").await;
        all["accounts"].as_array().unwrap().iter().find(|account| account["identifier"] == "<b>new</b>").cloned()
    };
    assert_eq!(account().await.unwrap()["status"], "EXPIRED");
    assert!(text(browser).await.contains("<b>new</b>"), "as it stands there");
    let strange = peer.request(reqwest::Method::POST, "/page/reset").header("origin", "https://evil.example");
    assert_eq!(strange.send().await.unwrap().status(), 403);
    assert!(account().await.is_some());
    browser.follow("document.querySelector('form[action=\"/page/reset\"] button').click()").await;
    assert!(account().await.is_none());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Nothing is too faint, too wide, nameless, or refused by the page's own policy; `TEST_SCREENSHOTS` keeps a picture.
async fn looks_well(browser: &mut Browser, name: &str) {
    assert_eq!(browser.run(UNREADABLE).await, json!([]), "{name}");
    assert_eq!(browser.run(TOO_WIDE).await, json!([]), "{name}");
    if !name.starts_with("sign-in") {
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
    }
    if let Some(folder) = setting("TEST_SCREENSHOTS") {
        std::fs::write(format!("{folder}/{name}.png"), browser.picture().await).unwrap();
    }
}
