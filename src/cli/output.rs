//! Showing replies and progress to a person: colour and live lines only on a terminal.

use std::io::{IsTerminal, Write};

use crate::reply::{
    Account, ApprovalRequired, AuthorizationRequired, EffectState, Progress, Reply, ReplyEvent, Status,
};
pub(super) use crate::text::plain;

/// Where and how things are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    colour: bool,
    live: bool,
}

impl Screen {
    /// Standard output for what was asked for, standard error for live progress.
    pub(super) fn new() -> Self {
        Self { colour: std::io::stdout().is_terminal(), live: std::io::stderr().is_terminal() }
    }

    /// A headline.
    pub(super) fn title(self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    /// A line of detail.
    pub(super) fn note(self, text: &str) {
        println!("{}", self.paint("2", text));
    }

    /// What a run is doing right now; on a terminal it replaces the line before.
    pub(super) fn progress(self, progress: &Progress) {
        let doing = match (progress.phase.as_str(), &progress.tool) {
            ("accounts", _) => "checking the connected accounts".to_owned(),
            ("tools", _) => "discovering tools".to_owned(),
            ("model", _) => format!("asking the model (turn {})", progress.step + 1),
            ("tool_call", Some(tool)) => format!("calling {tool}"),
            ("retry", _) => "trying again".to_owned(),
            ("parked", _) => "waiting for a person".to_owned(),
            (phase, _) => phase.to_owned(),
        };
        if self.live {
            eprint!("\r\x1b[K\x1b[2m… {doing}\x1b[0m");
            // Progress that cannot be shown is no loss.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("… {doing}");
        }
    }

    /// Takes the live line away, before something else is printed.
    pub(super) fn clear(self) {
        if self.live {
            eprint!("\r\x1b[K");
        }
    }

    /// The links that a user must open.
    pub(super) fn authorization(self, event: &AuthorizationRequired) {
        self.clear();
        for entry in &event.authorizations {
            println!("\n[{}] {} ({})", entry.connection, self.paint("33", "Authorization required."), entry.status);
            match &entry.link {
                Some(link) => println!("Open this link:\n\n  {}\n", self.paint("36", link)),
                None => println!("A link does not help here."),
            }
            self.note(&entry.hint);
        }
        match event.waiting_until {
            Some(until) => {
                println!("Waiting until the account is ACTIVE (until {}) …", until.strftime("%Y-%m-%d %H:%M UTC"));
            }
            None => println!("Not waiting, as the job says `wait_seconds: 0`."),
        }
    }

    /// A job's last reply.
    pub(super) fn terminal(self, reply: &Reply) {
        self.clear();
        match &reply.event {
            ReplyEvent::Completed(completed) => {
                println!("\n{}\n", completed.text);
                self.account(&completed.account);
                if completed.status == Status::CompletedWithUnknownEffects {
                    println!(
                        "{}",
                        self.paint("33", "Something was sent whose outcome is not known: see `unknown` above.")
                    );
                }
            }
            ReplyEvent::Failed(failed) => {
                if let Some(text) = &failed.text {
                    println!("\n{text}\n");
                }
                let error = &failed.error;
                eprintln!("{}: {}\n  what to do: {}", self.paint("31", error.code.as_str()), error.message, error.hint);
                self.account(&failed.account);
            }
            ReplyEvent::AuthorizationRequired(event) => self.authorization(event),
            ReplyEvent::ApprovalRequired(event) => self.approval(event),
            // Nobody who waits for a job gets one.
            ReplyEvent::DecisionRefused(_) | ReplyEvent::EffectSettled(_) => {}
            ReplyEvent::Progress(progress) => self.progress(progress),
        }
    }

    /// The calls that wait for a person.
    fn approval(self, event: &ApprovalRequired) {
        self.clear();
        for entry in &event.approvals {
            let arguments = serde_json::to_string_pretty(&entry.arguments).unwrap_or_default();
            let (tool, connection) = (plain(&entry.tool), plain(&entry.connection));
            println!("\n[{connection}] {} {tool}", self.paint("33", "Approval required:"));
            for line in arguments.lines() {
                println!("  {}", plain(line));
            }
            if let Some(link) = &entry.link {
                println!("Decide here:\n\n  {}\n", self.paint("36", link));
            }
        }
        println!("Waiting for a decision until {} …", event.waiting_until.strftime("%Y-%m-%d %H:%M UTC"));
    }

    fn account(self, account: &Account) {
        for effect in &account.effects {
            let call = effect.call_id.as_ref().filter(|_| effect.state == EffectState::Unknown);
            let call = call.map(|call| format!(" (call {call})")).unwrap_or_default();
            self.note(&format!("effect: {} ({}) {}{call}", effect.tool, effect.summary, effect.state.as_str()));
        }
        for retry in &account.retries {
            self.note(&format!("retried: {} {} time(s), {}", retry.call, retry.count, retry.reason));
        }
        for notice in &account.notices {
            self.note(&format!("note: {}", notice.message));
        }
        let usage = account.usage;
        let unknown = if usage.unknown { " (not all known)" } else { "" };
        self.note(&format!(
            "{} model turn(s), {} tool call(s), {} tokens in and {} out{unknown}, cost {}, {:.1} s, model {}",
            account.steps,
            account.tool_calls,
            usage.input_tokens,
            usage.output_tokens,
            usage.cost,
            seconds(account.timing.working_milliseconds),
            account.model.as_deref().unwrap_or("?")
        ));
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}
