//! What can be wrong with a store.

use std::fmt;
use std::io;
use std::path::Path;

use crate::Error;

/// What is wrong with a store, or with what it was to take up; [`Error::Store`] says where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The system refused an operation on a file.
    Io {
        /// The operation.
        doing: &'static str,
        /// The system's reason.
        kind: io::ErrorKind,
        /// The same in words.
        message: String,
    },
    /// A file that is cut off, of another kind, or of another version.
    Format {
        /// What is wrong with it.
        why: String,
    },
    /// Bytes that are not those that were written.
    Damaged {
        /// The part of the file: `"header"`, `"ids"`, `"scales"` or `"rows"`.
        part: &'static str,
    },
    /// A description that contradicts itself.
    Header {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Rows of another kind than those that the store has.
    Differs {
        /// What differs.
        what: &'static str,
    },
    /// A writer's name that is not 1 to 64 of the characters `A-Z a-z 0-9 _ -`, or is the reserved `store`.
    Name,
    /// Another writer of this name is at work.
    Busy,
    /// An example that the store has already, or that a batch has twice.
    Duplicate {
        /// The example.
        id: u64,
    },
    /// A number that is NaN or infinite, or becomes so in the store's format.
    NonFinite {
        /// The example.
        id: u64,
        /// The position in its row.
        column: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, message, .. } => write!(f, "cannot {doing}: {message}"),
            Self::Format { why } => write!(f, "not a whole file of a gradient store: {why}"),
            Self::Damaged { part } => {
                write!(f, "the {part} are not what was written; delete the file and compute its examples again")
            }
            Self::Header { why } => write!(f, "the description contradicts itself: {why}"),
            Self::Differs { what } => {
                write!(f, "the {what} of the rows differs from the store's; use a store for each")
            }
            Self::Name => f.write_str("a writer's name is 1 to 64 letters, digits, '_' or '-', and not 'store'"),
            Self::Busy => f.write_str("a writer of this name is at work; give each writer a name of its own"),
            Self::Duplicate { id } => write!(f, "example {id} is there already; skip what the writer contains"),
            Self::NonFinite { id, column } => write!(
                f,
                "element {column} of example {id} is NaN, infinite or too large for the format; clean or scale the row"
            ),
        }
    }
}

impl Fault {
    /// The error that this is wrong with `path`.
    pub(super) fn at(self, path: &Path) -> Error {
        Error::Store { path: path.to_owned(), fault: self }
    }

    /// A file of another form.
    pub(super) fn format(why: impl Into<String>) -> Self {
        Self::Format { why: why.into() }
    }
}

/// The result of an operation on a file, with what was done to which file.
pub(super) fn io<T>(result: io::Result<T>, doing: &'static str, path: &Path) -> Result<T, Error> {
    result.map_err(|error| Fault::Io { doing, kind: error.kind(), message: error.to_string() }.at(path))
}
