//! What influence scores are divided by, so that outliers do not head every list.

use ascribe_core::{MatMut, Real};

use super::parts::floored;
use crate::Error;
use crate::error::check_shape;

/// How the influence `I` `[n, m]` of training rows on queries is made comparable between examples.
///
/// Influence is proportional to the size of the training gradient, so that the same few examples with large losses
/// come first for every query. Denominators are at least 1e-12: what has no influence on itself scores 0.
///
/// | variant | score | reference |
/// |---|---|---|
/// | `Loss` | `I / sqrt(self_train)` | l-RelatIF, arXiv:2003.11630; what LogIX calls cosine |
/// | `Parameters` | `I / step_norms` | theta-RelatIF, arXiv:2003.11630 |
/// | `Distance` | `I - self_train / 2` | LogIX's l2: orders the training examples by their distance to the query |
/// | `Cosine` | `I / (sqrt(self_train) sqrt(self_query))`, in [-1, 1] | |
///
/// The first two and the last do not change when a training gradient is multiplied by a positive number.
///
/// # Examples
/// ```
/// use ascribe_core::MatMut;
/// use ascribe_solvers::attribution::Normalization;
/// let mut scores = [6.0, 2.0];
/// Normalization::Loss { self_train: &[9.0, 4.0] }.apply(MatMut::new(&mut scores, 2, 1)?)?;
/// assert_eq!(scores, [2.0, 1.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Barshan, Brunet and Dziugaite, arXiv:2003.11630.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Normalization<'a, T> {
    /// By the change of the loss that the example makes for itself.
    Loss {
        /// The self-influence of the training rows, `[n]`.
        self_train: &'a [T],
    },
    /// By the change of the parameters.
    Parameters {
        /// `|H^-1 g|` of the training rows, `[n]`.
        step_norms: &'a [T],
    },
    /// Half the squared distance between training row and query in the metric of the inverse curvature, negated and
    /// without the query's own part.
    Distance {
        /// The self-influence of the training rows, `[n]`.
        self_train: &'a [T],
    },
    /// By both sides.
    Cosine {
        /// The self-influence of the training rows, `[n]`.
        self_train: &'a [T],
        /// The self-influence of the queries, `[m]`.
        self_query: &'a [T],
    },
}

impl<T: Real> Normalization<'_, T> {
    /// Normalises a block of scores in place.
    ///
    /// # Errors
    /// A shape error when there is not one number a training row, or a query.
    pub fn apply(&self, mut scores: MatMut<'_, T>) -> Result<(), Error> {
        let (Self::Loss { self_train: train }
        | Self::Parameters { step_norms: train }
        | Self::Distance { self_train: train }
        | Self::Cosine { self_train: train, .. }) = self;
        check_shape("numbers of the training rows", scores.rows(), train.len())?;
        if let Self::Cosine { self_query, .. } = self {
            check_shape("numbers of the queries", scores.cols(), self_query.len())?;
        }
        let half = T::from_f64(0.5);
        scores.for_each_row(|i, row| match self {
            Self::Loss { self_train } => divide(row, floored(self_train[i].sqrt())),
            Self::Parameters { step_norms } => divide(row, floored(step_norms[i])),
            Self::Distance { self_train } => row.iter_mut().for_each(|x| *x -= half * self_train[i]),
            Self::Cosine { self_train, self_query } => {
                let own = floored(self_train[i].sqrt());
                row.iter_mut().zip(*self_query).for_each(|(x, query)| *x = *x / own / floored(query.sqrt()));
            }
        });
        Ok(())
    }
}

fn divide<T: Real>(row: &mut [T], by: T) {
    for x in row {
        *x /= by;
    }
}
