//! Values on the command line, each checked against what its option allows.

use std::fmt::Display;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::Parser;

/// The largest number that [`count`] takes: beyond it a run would not end.
pub(crate) const MAX_COUNT: usize = 1_000_000;

/// What is wrong, and where to look.
pub(crate) fn advice(why: &lexopt::Error) -> String {
    format!("{why}; --help lists the options")
}

/// The next argument as a path.
pub(crate) fn path(parser: &mut Parser) -> Result<PathBuf, String> {
    parser.value().map(PathBuf::from).map_err(|why| advice(&why))
}

/// The next argument as text.
pub(crate) fn text(parser: &mut Parser) -> Result<String, String> {
    parser.value().map(|value| value.to_string_lossy().into_owned()).map_err(|why| advice(&why))
}

/// A number in `range`, which `allowed` says in words.
pub(crate) fn number<T: FromStr + PartialOrd>(
    parser: &mut Parser,
    name: &str,
    range: impl RangeBounds<T>,
    allowed: impl Display,
) -> Result<T, String> {
    let text = text(parser)?;
    let value = text.parse().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("--{name} must be {allowed}, got `{text}`"))
}

/// A whole number from `least` on.
pub(crate) fn count(parser: &mut Parser, name: &str, least: usize) -> Result<usize, String> {
    number(parser, name, least..=MAX_COUNT, format_args!("a whole number from {least} to {MAX_COUNT}"))
}

/// The meaning of one of the names.
pub(crate) fn choice<T: Copy>(parser: &mut Parser, name: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let text = text(parser)?;
    choices.iter().find(|(choice, _)| *choice == text).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|&(choice, _)| choice).collect();
        format!("--{name} must be one of {}, got `{text}`", names.join(", "))
    })
}

/// Widths of hidden layers, or lengths of sketches.
pub(crate) fn widths(name: &str, text: &str) -> Result<Vec<usize>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let width = |part: &str| part.trim().parse().ok().filter(|width| (1..=65_536).contains(width));
    let widths: Option<Vec<usize>> = text.split(',').map(width).collect();
    widths.filter(|widths| widths.len() <= 32).ok_or_else(|| {
        format!("--{name} must be none, or up to 32 numbers from 1 to 65536 such as 512,256,128, got `{text}`")
    })
}

/// The chosen methods, in the order of the table.
pub(crate) fn chosen(text: &str, methods: &[&'static str]) -> Result<Vec<&'static str>, String> {
    if text == "all" {
        return Ok(methods.to_vec());
    }
    let names: Vec<_> = text.split(',').map(str::trim).collect();
    match names.iter().find(|name| !methods.contains(name)) {
        Some(name) => Err(format!("--methods must be all, or names among {}; got `{name}`", methods.join(", "))),
        None => Ok(methods.iter().copied().filter(|method| names.contains(method)).collect()),
    }
}
