//! The command line: reads the arguments, starts the runtime, hands over to `cli`.

use std::process::ExitCode;

use agentkit_worker::cli::{self, Arguments};
use clap::Parser;

fn main() -> ExitCode {
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
