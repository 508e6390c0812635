//! Why a case or a measurement could not be carried out, in words for the person who runs it.

use std::fmt;

/// A message. Any error converts into one, so `?` works on the errors of every crate.
///
/// It is deliberately no `std::error::Error` itself: that is what lets the conversion be one generic `From`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// `Err` with a message.
///
/// # Errors
/// Always; that is what it is for.
pub fn fail<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(message.into()))
}
