//! The command line of an example that draws one picture.

use std::path::PathBuf;

use lexopt::{Arg, Error, Parser};

/// The file to draw into: what the command line says, or `default`. `None` after help was asked for and printed.
pub(crate) fn asked_for(what: &str, default: &str) -> Result<Option<PathBuf>, Error> {
    let mut file = None;
    let mut args = Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => {
                println!("{what}\n\nThe one argument is the file of the picture  [{default}]");
                return Ok(None);
            }
            Arg::Value(path) if file.is_none() => file = Some(path.into()),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(file.unwrap_or_else(|| default.into())))
}
