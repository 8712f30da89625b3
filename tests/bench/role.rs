//! Processes beside the worker: this program in another part, or a script. One that prints a line when it is ready, and is
//! gone once its input ends, however this one does.

use std::io::Read;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::soon;

/// Such a process.
pub(crate) struct Role {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    ready: String,
}

impl Role {
    pub(crate) async fn of_this_program(arguments: &[&str]) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()).args(arguments)).await
    }

    pub(crate) async fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut role = Self { child, input, output: BufReader::new(output).lines(), ready: String::new() };
        role.ready = soon("a process is ready", role.line()).await;
        role
    }

    /// What it said when it was ready.
    pub(crate) fn ready(&self) -> &str {
        &self.ready
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Asks it to do something, and waits for its word that it has.
    pub(crate) async fn ask(&mut self, what: &str) -> String {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.line().await
    }

    async fn line(&mut self) -> String {
        self.output.next_line().await.unwrap().expect("it goes on")
    }

    pub(crate) async fn stop(mut self) {
        drop(self.input);
        soon("a process ends", self.child.wait()).await.unwrap();
    }
}

/// Ends this process once its input ends, or anything fails in it. For parts that are asked nothing.
pub(crate) fn end_with_input() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(70);
    }));
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}
