//! What can go wrong beyond a wrong shape.

use core::fmt;

/// Why a solver, network or method refused its input.
///
/// Not converging is no error: it is a [`SolveReport`](Self).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A kernel of `ascribe-core` refused its input.
    Core(ascribe_core::Error),
    /// A Cholesky factorisation met a pivot that is not positive.
    NotPositiveDefinite {
        /// The row of the pivot.
        pivot: usize,
    },
    /// An operator that has to be positive semidefinite has negative curvature.
    Indefinite {
        /// The operator.
        what: &'static str,
        /// The negative eigenvalue, or the curvature `v^T A v / v^T v` of the direction that showed it.
        curvature: f64,
    },
    /// A decomposition that iterates did not converge.
    NoConvergence {
        /// The decomposition.
        what: &'static str,
    },
    /// A class label that the network has no output for.
    Label {
        /// The example.
        example: usize,
        /// Its label.
        label: usize,
        /// The number of outputs.
        classes: usize,
    },
    /// The loss and the targets do not belong together.
    Targets {
        /// What the loss needs.
        needs: &'static str,
    },
    /// A training run or an iteration left the finite numbers.
    Diverged {
        /// The step at which it did.
        step: usize,
    },
    /// What went wrong in one layer or block of several.
    Block {
        /// Its name.
        name: String,
        /// What went wrong.
        error: Box<Error>,
    },
    /// A factored inverse of a block whose eigenvalues are no products.
    NotKronecker,
    /// A file that cannot be read, or written.
    Archive {
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two things that do not belong together.
    Mismatch {
        /// What differs.
        what: &'static str,
    },
    /// A kernel that is larger than the padded image.
    Kernel {
        /// The pixels that the dilated kernel extends over.
        extent: usize,
        /// The pixels of the padded image in the same direction.
        padded: usize,
    },
    /// An optimizer that is in another mode than the call needs.
    Mode {
        /// What the call needs, and what to do.
        needs: &'static str,
    },
    /// A name that is not one of those known.
    Name {
        /// What is named, with the names there are.
        expected: &'static str,
    },
    /// A store of gradients, or what it was to take up, is of no use.
    #[cfg(feature = "store")]
    Store {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What is wrong.
        fault: crate::store::Fault,
    },
}

impl Error {
    /// The error with the name of the layer or block that it is about.
    #[must_use]
    pub(crate) fn in_block(self, name: &str) -> Self {
        Self::Block { name: name.to_owned(), error: Box::new(self) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::NotPositiveDefinite { pivot } => {
                write!(f, "the matrix is not positive definite (pivot {pivot}); use a larger damping")
            }
            Self::Indefinite { what, curvature } => {
                write!(f, "{what} has curvature {curvature:.3e}, but must be positive semidefinite")
            }
            Self::NoConvergence { what } => write!(f, "{what} did not converge; check the input for extreme values"),
            Self::Label { example, label, classes } => {
                write!(f, "example {example} has label {label}, but the network has {classes} outputs")
            }
            Self::Targets { needs } => write!(f, "the loss needs {needs}"),
            Self::Diverged { step } => {
                write!(f, "diverged at step {step}; use a smaller step size or a larger damping")
            }
            Self::Block { name, error } => write!(f, "{name}: {error}"),
            Self::NotKronecker => {
                f.write_str("a factored inverse needs a Kronecker product: use K-FAC, or another kind of inverse")
            }
            Self::Archive { why } => write!(f, "the file is of no use: {why}"),
            Self::Mismatch { what } => write!(f, "the {what} differ; put together what belongs together"),
            Self::Kernel { extent, padded } => write!(
                f,
                "the dilated kernel extends over {extent} pixels, the padded image has {padded}; pad more or take a smaller kernel"
            ),
            Self::Mode { needs } => write!(f, "the call needs {needs}"),
            Self::Name { expected } => write!(f, "unknown name, expected {expected}"),
            #[cfg(feature = "store")]
            Self::Store { path, fault } => write!(f, "{}: {fault}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Core(error) => Some(error),
            Self::Block { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<ascribe_core::Error> for Error {
    fn from(error: ascribe_core::Error) -> Self {
        Self::Core(error)
    }
}

/// `expected == got`, or the error that says which dimension differs.
pub(crate) fn check_shape(what: &'static str, expected: usize, got: usize) -> Result<(), ascribe_core::Error> {
    if expected == got { Ok(()) } else { Err(ascribe_core::Error::Shape { what, expected, got }) }
}

/// Every element finite, or the error that says where the first other one is.
pub(crate) fn check_finite<T: ascribe_core::Real>(what: &'static str, x: &[T]) -> Result<(), ascribe_core::Error> {
    // No early exit inside a block, so that it is done in vectors.
    for (block, start) in x.chunks(1024).zip((0..).step_by(1024)) {
        if block.iter().fold(false, |bad, v| bad | !v.is_finite()) {
            let index = start + block.iter().position(|v| !v.is_finite()).unwrap_or(0);
            return Err(ascribe_core::Error::NonFinite { what, index });
        }
    }
    Ok(())
}

/// The rows of a matrix, none when they have no elements: there may then be any number of them.
pub(crate) fn filled_rows<T>(x: ascribe_core::MatRef<'_, T>) -> impl Iterator<Item = &[T]> {
    let rows = if x.cols() == 0 { 0 } else { x.rows() };
    (0..rows).map(move |i| x.row(i))
}

/// As [`check_finite`], row by row; the index is that in the row.
pub(crate) fn check_rows_finite<T: ascribe_core::Real>(
    what: &'static str,
    x: ascribe_core::MatRef<'_, T>,
) -> Result<(), ascribe_core::Error> {
    filled_rows(x).try_for_each(|row| check_finite(what, row))
}

/// A vector of `len` zeros, or an error where `vec!` would panic: for sizes that no slice of the caller vouches for.
pub(crate) fn zeros<T: Clone + Default>(what: &'static str, len: Option<usize>) -> Result<Vec<T>, ascribe_core::Error> {
    let overflow = ascribe_core::Error::Overflow { what };
    let len = len.ok_or(overflow)?;
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| overflow)?;
    zeros.resize(len, T::default());
    Ok(zeros)
}
