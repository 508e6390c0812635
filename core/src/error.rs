//! What can be wrong with an input, with the numbers that say how.

use core::fmt;

/// Why a kernel refused its input. Nothing was written to the output when one of these is returned,
/// unless the function's documentation says otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A dimension differs from the one that the operation needs.
    Shape {
        /// The argument and dimension, for example `"x columns"`.
        what: &'static str,
        /// The size that the operation needs.
        expected: usize,
        /// The size that was given.
        got: usize,
    },
    /// A slice is too short for the shape that it is said to have.
    Length {
        /// The argument.
        what: &'static str,
        /// The number of elements needed.
        needed: usize,
        /// The number of elements given.
        got: usize,
    },
    /// A size computed from the input does not fit into `usize`.
    Overflow {
        /// The size that overflowed.
        what: &'static str,
    },
    /// An index is outside its range.
    Index {
        /// The argument.
        what: &'static str,
        /// The index.
        index: usize,
        /// The number of elements that can be indexed.
        len: usize,
    },
    /// An index that must occur once occurs again.
    Duplicate {
        /// The argument.
        what: &'static str,
        /// The index that occurs twice.
        index: usize,
    },
    /// An input that must have at least one element has none.
    Empty {
        /// The argument.
        what: &'static str,
    },
    /// A number that must be finite is NaN or infinite.
    NonFinite {
        /// The argument.
        what: &'static str,
        /// Its position in the argument.
        index: usize,
    },
    /// A damping that is negative, NaN or infinite.
    Damping {
        /// The value given.
        value: f64,
    },
    /// A scalar parameter outside its range.
    Parameter {
        /// The parameter.
        what: &'static str,
        /// The value given.
        value: f64,
        /// The range, in words: `"at least 1"`.
        must_be: &'static str,
    },
    /// An operator without an inverse.
    Singular {
        /// The operator.
        what: &'static str,
        /// Where it is singular: the index of a zero on a diagonal, or of a block.
        index: usize,
    },
    /// A solver that stands in for an operator found no solution. The output then holds the best that it found.
    Unsolved {
        /// The row whose solver diverged or met negative curvature.
        row: usize,
    },
    /// The model that supplies gradients or values failed with a code of its own.
    Model {
        /// The model's code.
        code: i32,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Shape { what, expected, got } => write!(f, "{what}: expected {expected}, got {got}"),
            Self::Length { what, needed, got } => {
                write!(f, "{what}: needs at least {needed} elements, the slice has {got}")
            }
            Self::Overflow { what } => write!(f, "{what}: the size does not fit into usize; use smaller blocks"),
            Self::Index { what, index, len } => write!(f, "{what}: index {index} is outside 0..{len}"),
            Self::Duplicate { what, index } => write!(f, "{what}: index {index} occurs more than once"),
            Self::Empty { what } => write!(f, "{what}: needs at least one element"),
            Self::NonFinite { what, index } => {
                write!(f, "{what}: element {index} is NaN or infinite; clean the input or find the layer that made it")
            }
            Self::Damping { value } => write!(f, "damping must be finite and not negative, got {value}"),
            Self::Parameter { what, value, must_be } => write!(f, "{what} must be {must_be}, got {value}"),
            Self::Singular { what, index } => {
                write!(f, "{what} has no inverse (entry or block {index}); add a damping")
            }
            Self::Unsolved { row } => {
                write!(f, "the inner solver of row {row} found no solution; ask it for its report")
            }
            Self::Model { code } => write!(f, "the model reported failure {code}"),
        }
    }
}

impl core::error::Error for Error {}

/// `expected == got`, or the error that says which dimension differs.
#[inline]
pub(crate) fn check_shape(what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if expected == got { Ok(()) } else { Err(Error::Shape { what, expected, got }) }
}

/// The first `needed` elements of `scratch`, or the error that says how many are missing.
#[inline]
pub(crate) fn take_scratch<T>(scratch: &mut [T], needed: usize) -> Result<(&mut [T], &mut [T]), Error> {
    let got = scratch.len();
    scratch.split_at_mut_checked(needed).ok_or(Error::Length { what: "scratch", needed, got })
}

/// A damping that is finite and not negative.
pub(crate) fn check_damping(value: f64) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(Error::Damping { value }) }
}
