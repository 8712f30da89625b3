//! A real browser without a screen, spoken to by its DevTools protocol over two pipes.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{eventually, soon};

/// One tab of a browser.
pub(crate) struct Browser {
    _process: Child,
    _profile: TempDir,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    asked: u64,
    events: Vec<Value>,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let data = format!("--user-data-dir={}", profile.path().display());
        let options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
        // The protocol is spoken on descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec chromium --remote-debugging-pipe \"$@\" 3<&0 4>&1 0</dev/null 1>&2", "chromium"]);
        command.args(options).arg(data).env("HOME", profile.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let (session, asked, events) = (None, 0, Vec::new());
        let mut browser = Self { _process: process, _profile: profile, to, from, session, asked, events };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// The window's size in pixels, and whether the person likes it dark.
    pub(crate) async fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&mut self, url: &str) {
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(answer["errorText"], Value::Null, "{url}");
        self.loaded().await;
    }

    /// Does something by which another page is loaded, and waits until it is.
    pub(crate) async fn follow(&mut self, script: &str) {
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
        self.run(script).await;
        self.loaded().await;
    }

    async fn loaded(&mut self) {
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.receive().await;
            self.events.push(event);
        }
    }

    /// The value of an expression.
    pub(crate) async fn run(&mut self, script: &str) -> Value {
        let answer = self.call("Runtime.evaluate", json!({"expression": script, "returnByValue": true})).await;
        assert_eq!(answer["exceptionDetails"], Value::Null, "{script}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, what: &str, script: &str) {
        let this = tokio::sync::Mutex::new(self);
        eventually(what, || async { (this.lock().await.run(script).await == json!(true)).then_some(()) }).await;
    }

    /// Presses and lets go a key, such as `Tab` or `Enter`.
    pub(crate) async fn press(&mut self, key: &str) {
        let code = if key == "Enter" { 13 } else { 9 };
        let text = if key == "Enter" { "\r" } else { "" };
        let event = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", event).await;
        let event = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// The whole page as a PNG.
    pub(crate) async fn picture(&mut self) -> Vec<u8> {
        let options = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", options).await;
        STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// What went wrong on the pages since this was asked: errors of scripts, breaches of the policy, files that are missing.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.events);
        let bad = told.into_iter().filter(|event| {
            let severe = event["params"]["entry"]["level"] == "error" || event["params"]["type"] == "error";
            event["method"] == "Runtime.exceptionThrown" || severe
        });
        bad.map(|event| event.to_string()).collect()
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut request = json!({"id": self.asked, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{request}\0").as_bytes()).await.unwrap();
        loop {
            let message = self.receive().await;
            if message["id"] == json!(self.asked) {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    async fn receive(&mut self) -> Value {
        let mut bytes = Vec::new();
        soon("the browser's word", self.from.read_until(0, &mut bytes)).await.unwrap();
        assert_eq!(
            bytes.pop(),
            Some(0),
            "the browser has ended; is `chromium` installed? `tests/run --prepare` does it"
        );
        serde_json::from_slice(&bytes).unwrap()
    }
}
