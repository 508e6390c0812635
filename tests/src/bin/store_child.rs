//! `store_child DIR`: the writer that the tests of the store's faults stop, kill and starve.
//!
//! Waits for a line on stdin, so that whoever started it can take hold of it first.

use std::process::ExitCode;

use ascribe_tests::stored::write_batches;

fn main() -> ExitCode {
    let dir = std::env::args_os().nth(1).expect("the store's directory");
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    match write_batches(dir.as_ref(), "w") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
