//! What a batch says about the two factors of a layer, in the coordinates of their eigenbases.

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real, reduce};

use super::transpose::transpose;
use crate::Error;
use crate::error::{check_finite, check_rows_finite, check_shape, zeros};
use crate::linalg::matmul;
use crate::parallel::Parallelism;

/// The curvature of a layer, by examples.
#[derive(Debug, Clone, Copy)]
pub(super) enum Observation<'a, T> {
    /// One flat gradient `[rows, cols]` a row.
    Gradients(MatRef<'a, T>),
    /// Inputs and output gradients.
    Record(&'a LayerRecord<'a, T>),
}

/// The state that an observation is seen from.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a, T> {
    /// Of the rows and of the columns.
    pub bases: [MatRef<'a, T>; 2],
    pub values: [&'a [f64]; 2],
    pub alpha: f64,
    /// How much of `M` is wanted.
    pub share: f64,
    pub par: Parallelism,
}

/// In which coordinates the rows are that the factors' observations are Gram matrices of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// Only the diagonals are wanted.
    Diagonal,
    /// Those of the eigenbases.
    Eigenbasis,
    /// Those of the weight.
    Weight,
}

/// What is seen of the rows and of the columns.
pub(super) struct Seen<T> {
    /// The diagonal of `M` in the eigenbasis.
    pub diagonals: [Vec<f64>; 2],
    /// Rows whose Gram matrix is `share M`, in the coordinates asked for.
    pub rows: Option<[Vec<T>; 2]>,
    /// `P`; none of a record.
    pub rotated: Vec<T>,
}

impl<T: Real> Observation<'_, T> {
    pub(super) fn see(&self, view: View<'_, T>, coordinates: Coordinates) -> Result<Seen<T>, Error> {
        match self {
            Self::Gradients(gradients) => see_gradients(*gradients, view, coordinates),
            Self::Record(record) => see_record(record, view, coordinates),
        }
    }
}

impl<T: Real> View<'_, T> {
    fn shape(&self) -> [usize; 2] {
        self.values.map(<[f64]>::len)
    }

    /// `1 / (length of the other side * count * alpha)`, what an entry of `M` is divided by, for the rows and columns.
    fn scales(&self, count: usize) -> [f64; 2] {
        let [r, c] = self.shape().map(|n| n as f64);
        [c, r].map(|other| 1.0 / (other * count as f64 * self.alpha))
    }

    /// `x` times a basis.
    fn rotate(&self, x: &[T], side: usize) -> Result<Vec<T>, Error> {
        let (basis, n) = (self.bases[side], self.values[side].len());
        let rows = x.len() / n;
        let mut out: Vec<T> = zeros("rotated batch", Some(x.len()))?;
        matmul(MatMut::new(&mut out, rows, n)?, T::ZERO, T::ONE, MatRef::new(x, rows, n)?, basis, self.par)?;
        Ok(out)
    }

    /// `B_K^T G` for each of the stacked matrices.
    fn rotate_rows(&self, x: &[T]) -> Result<Vec<T>, Error> {
        let [r, c] = self.shape();
        let mut out: Vec<T> = zeros("rotated batch", Some(x.len()))?;
        for (out, x) in out.chunks_exact_mut(r * c).zip(x.chunks_exact(r * c)) {
            let (out, x) = (MatMut::new(out, r, c)?, MatRef::new(x, r, c)?);
            matmul(out, T::ZERO, T::ONE, self.bases[0].t(), x, self.par)?;
        }
        Ok(out)
    }
}

fn see_gradients<T: Real>(
    gradients: MatRef<'_, T>,
    view: View<'_, T>,
    coordinates: Coordinates,
) -> Result<Seen<T>, Error> {
    let [r, c] = view.shape();
    check_shape("columns of the gradients", r * c, gradients.cols())?;
    let m = gradients.rows();
    if m == 0 {
        return Err(CoreError::Empty { what: "gradients" }.into());
    }
    check_rows_finite("gradients", gradients)?;
    let copy: Vec<T>;
    let stacked = if let Some(stacked) = gradients.as_slice() {
        stacked
    } else {
        copy = gradients.row_iter().flatten().copied().collect();
        &copy
    };
    let right = view.rotate(stacked, 1)?;
    let rotated = view.rotate_rows(&right)?;
    let scales = view.scales(m);
    let [inverse_rows, inverse_cols] = view.values.map(|d| d.iter().map(|d| 1.0 / d).collect::<Vec<f64>>());
    let mut diagonals = [vec![0.0; r], vec![0.0; c]];
    let [of_rows, of_cols] = &mut diagonals;
    let mut squares = vec![0.0; c];
    for p in rotated.chunks_exact(r * c) {
        for ((p, sum), &inverse) in p.chunks_exact(c).zip(&mut *of_rows).zip(&inverse_rows) {
            for ((square, column), &p) in squares.iter_mut().zip(&mut *of_cols).zip(p) {
                *square = p.to_f64() * p.to_f64();
                *column += *square * inverse;
            }
            *sum += reduce::dot(&squares, &inverse_cols)?;
        }
    }
    for (diagonal, scale) in diagonals.iter_mut().zip(scales) {
        reduce::scale(diagonal, scale);
    }
    let [of_rows, of_cols] = [(&inverse_cols, scales[0]), (&inverse_rows, scales[1])].map(|(inverse, scale)| {
        inverse.iter().map(|x| T::from_f64((x * scale * view.share).sqrt())).collect::<Vec<T>>()
    });
    let transposed = |mut out: Vec<T>, x: &[T]| {
        for (out, x) in out.chunks_exact_mut(r * c).zip(x.chunks_exact(r * c)) {
            transpose(out, x, r, c, view.par, |column, x| of_rows[column] * x);
        }
        out
    };
    let rows = match coordinates {
        Coordinates::Diagonal => None,
        // What is rotated on one side alone is of no more use: its memory is.
        Coordinates::Eigenbasis => Some([transposed(right, &rotated), rotated.clone()]),
        Coordinates::Weight => {
            let left = view.rotate_rows(stacked)?;
            Some([transposed(zeros("rotated batch", Some(right.len()))?, &right), left])
        }
    };
    let rows = rows.map(|[left, mut right]| {
        weigh(&mut right, &of_cols, c);
        [left, right]
    });
    Ok(Seen { diagonals, rows, rotated })
}

fn see_record<T: Real>(
    record: &LayerRecord<'_, T>,
    view: View<'_, T>,
    coordinates: Coordinates,
) -> Result<Seen<T>, Error> {
    let [r, c] = view.shape();
    check_shape("outputs of the layer", r, record.d_out())?;
    check_shape("inputs of the layer, bias included", c, record.weight_cols())?;
    if record.examples() == 0 {
        return Err(CoreError::Empty { what: "examples" }.into());
    }
    let (mut inputs, mut grads): (Vec<T>, Vec<T>) = (Vec::new(), Vec::new());
    // There may be any number of examples without a position.
    let examples = if record.positions() == 0 { 0 } else { record.examples() };
    for row in (0..examples).flat_map(|example| record.runs(example)).flatten() {
        inputs.extend_from_slice(record.inputs().row(row));
        if record.has_bias() {
            inputs.push(T::ONE);
        }
        grads.extend_from_slice(record.output_grads().row(row));
    }
    check_finite("inputs", &inputs)?;
    check_finite("output gradients", &grads)?;
    let rotated = [view.rotate(&grads, 0)?, view.rotate(&inputs, 1)?];
    let scales = view.scales(record.examples());
    // The rows of one side are weighted by the inverse norms of the other.
    let weights = [1, 0].map(|other| {
        let d = view.values[other];
        let norm = |row: &[T]| row.iter().zip(d).fold(0.0, |sum, (x, d)| sum + x.to_f64() * x.to_f64() / d);
        rotated[other].chunks_exact(d.len()).map(|row| norm(row) * scales[1 - other]).collect::<Vec<f64>>()
    });
    let diagonals = [0, 1].map(|side| {
        let n = view.values[side].len();
        let mut diagonal = vec![0.0; n];
        for (row, weight) in rotated[side].chunks_exact(n).zip(&weights[side]) {
            diagonal.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x.to_f64() * x.to_f64());
        }
        diagonal
    });
    let rows = match coordinates {
        Coordinates::Diagonal => None,
        Coordinates::Eigenbasis => Some(rotated),
        Coordinates::Weight => Some([grads, inputs]),
    };
    let rows = rows.map(|mut rows| {
        for (side, rows) in rows.iter_mut().enumerate() {
            let roots: Vec<T> = weights[side].iter().map(|w| T::from_f64((w * view.share).sqrt())).collect();
            weigh(rows, &roots, view.values[side].len());
        }
        rows
    });
    Ok(Seen { diagonals, rows, rotated: Vec::new() })
}

/// Multiplies the rows, each of `n` numbers, by the factors, over and over.
fn weigh<T: Real>(rows: &mut [T], factors: &[T], n: usize) {
    for (row, &factor) in rows.chunks_exact_mut(n).zip(factors.iter().cycle()) {
        reduce::scale(row, factor);
    }
}
