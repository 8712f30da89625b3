//! The command line: reads the arguments, starts the runtime, hands over to `cli`.

use std::process::ExitCode;

use agentkit_worker::internals::cli::{self, Arguments};
use clap::Parser;

/// As a shell reports a program that was ended by SIGPIPE.
const NO_READER: i32 = 141;

fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is no reason to fail, and clap has nothing better to do with the result either.
            let _ = error.print();
            return if error.use_stderr() { cli::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(arguments));
            // Work that is cut off here was told to stop and had its grace.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("agentkit-worker: the runtime cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that has seen enough (`… | head`) is no fault of ours; `println!` panics then.
fn end_quietly_without_a_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
        Some(text) if text.starts_with("failed printing to stdout") => std::process::exit(NO_READER),
        _ => report(panic),
    }));
}
