use super::{Adjoint, Invertible, LinOp, PositiveSemidefinite, SelfAdjoint, check_apply};
use crate::error::{Error, take_scratch};
use crate::scalar::Real;
use crate::view::{MatMut, MatRef};

/// Side of the tiles in which a matrix is transposed: two tiles of `f64` stay in the first-level cache.
const TILE: usize = 32;

/// `G ⊗ A`, on rows that are matrices `V [out, in]` flattened row by row: the curvature of one layer, with `G` the
/// covariance of its output gradients and `A` that of its inputs.
///
/// $$(G \otimes A)\, \mathrm{vec}(V) = \mathrm{vec}(G\, V A^T).$$
///
/// The factors are any operators, so $(G \otimes A)^T = G^T \otimes A^T$ and $(G \otimes A)^{-1} = G^{-1} \otimes
/// A^{-1}$ need no code of their own; it is self-adjoint (positive semidefinite) when both factors are.
///
/// Cost for each row: `A` applied to `G.dim_in()` rows, `G` applied to `A.dim_out()` rows, two transpositions.
/// Scratch, whatever the number of rows: two matrices `A.dim_out() x max(G.dim_in(), G.dim_out())` and the larger of
/// the factors' scratch.
///
/// # Errors
/// [`Error::Overflow`] from [`Kronecker::new`] when a product of dimensions does not fit into `usize`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, linop::{Diagonal, Kronecker, apply_alloc}};
/// let op = Kronecker::new(Diagonal::new(&[1.0, 10.0]), Diagonal::new(&[1.0, 2.0, 3.0]))?;
/// let v = [1.0; 6]; // [2, 3]
/// assert_eq!(apply_alloc(&op, MatRef::from_row(&v))?, [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
/// # Ok::<(), ascribe_core::Error>(())
/// ```
///
/// # References
/// Martens and Grosse 2015, arXiv:1503.05671, section 3, which flattens column by column and so writes `A ⊗ G`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kronecker<G, A> {
    g: G,
    a: A,
    dim_in: usize,
    dim_out: usize,
}

impl<G, A> Kronecker<G, A> {
    /// `g ⊗ a`: `g` acts on the columns of `V [out, in]`, `a` on its rows.
    ///
    /// # Errors
    /// [`Error::Overflow`] when a product of dimensions does not fit into `usize`.
    pub fn new<T: Real>(g: G, a: A) -> Result<Self, Error>
    where
        G: LinOp<T>,
        A: LinOp<T>,
    {
        let overflow = Error::Overflow { what: "Kronecker product" };
        let dim_in = g.dim_in().checked_mul(a.dim_in()).ok_or(overflow)?;
        let dim_out = g.dim_out().checked_mul(a.dim_out()).ok_or(overflow)?;
        Ok(Self { g, a, dim_in, dim_out })
    }

    /// The factor that acts on outputs.
    pub fn g(&self) -> &G {
        &self.g
    }

    /// The factor that acts on inputs.
    pub fn a(&self) -> &A {
        &self.a
    }
}

/// The dimensions of both factors, in the direction in which they are applied.
#[derive(Clone, Copy)]
struct Dims {
    g_in: usize,
    g_out: usize,
    a_in: usize,
    a_out: usize,
}

impl Dims {
    fn of<T: Real>(g: &impl LinOp<T>, a: &impl LinOp<T>) -> Self {
        Self { g_in: g.dim_in(), g_out: g.dim_out(), a_in: a.dim_in(), a_out: a.dim_out() }
    }

    fn reversed(self) -> Self {
        Self { g_in: self.g_out, g_out: self.g_in, a_in: self.a_out, a_out: self.a_in }
    }

    fn buffer_len(self) -> usize {
        self.a_out.saturating_mul(self.g_in.max(self.g_out))
    }

    fn scratch_len(self, of_g: usize, of_a: usize) -> usize {
        self.buffer_len().saturating_mul(2).saturating_add(of_g.max(of_a))
    }

    /// Each row of `out` from the same row of `x`, given how each factor is applied. The shapes have been checked.
    fn apply<T: Real>(
        self,
        mut out: MatMut<'_, T>,
        x: MatRef<'_, T>,
        scratch: &mut [T],
        g: impl Fn(MatMut<'_, T>, MatRef<'_, T>, &mut [T]) -> Result<(), Error>,
        a: impl Fn(MatMut<'_, T>, MatRef<'_, T>, &mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Self { g_in, g_out, a_in, a_out } = self;
        let (first, scratch) = take_scratch(scratch, self.buffer_len())?;
        let (second, scratch) = take_scratch(scratch, self.buffer_len())?;
        // There may be any number of rows without elements.
        if out.cols() == 0 {
            return Ok(());
        }
        for i in 0..x.rows() {
            let v = MatRef::new(x.row(i), g_in, a_in)?;
            let v_at = &mut first[..g_in * a_out];
            a(MatMut::new(v_at, g_in, a_out)?, v, scratch)?;
            let a_vt = &mut second[..g_in * a_out];
            transpose(a_vt, v_at, g_in, a_out);
            let a_vt_gt = &mut first[..a_out * g_out];
            g(MatMut::new(a_vt_gt, a_out, g_out)?, MatRef::new(a_vt, a_out, g_in)?, scratch)?;
            transpose(out.row_mut(i), a_vt_gt, a_out, g_out);
        }
        Ok(())
    }
}

/// `out [cols, rows]` is the transpose of `x [rows, cols]`, both without gaps.
fn transpose<T: Copy>(out: &mut [T], x: &[T], rows: usize, cols: usize) {
    for i0 in (0..rows).step_by(TILE) {
        for j0 in (0..cols).step_by(TILE) {
            for j in j0..cols.min(j0 + TILE) {
                for i in i0..rows.min(i0 + TILE) {
                    out[j * rows + i] = x[i * cols + j];
                }
            }
        }
    }
}

impl<T: Real, G: LinOp<T>, A: LinOp<T>> LinOp<T> for Kronecker<G, A> {
    fn dim_in(&self) -> usize {
        self.dim_in
    }
    fn dim_out(&self) -> usize {
        self.dim_out
    }
    fn scratch_len(&self, _: usize) -> usize {
        let dims = Dims::of(&self.g, &self.a);
        dims.scratch_len(self.g.scratch_len(dims.a_out), self.a.scratch_len(dims.g_in))
    }
    fn apply(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_in, self.dim_out, &out, &x)?;
        let (scratch, _) = take_scratch(scratch, self.scratch_len(x.rows()))?;
        Dims::of(&self.g, &self.a).apply(
            out,
            x,
            scratch,
            |out, x, scratch| self.g.apply(out, x, scratch),
            |out, x, scratch| self.a.apply(out, x, scratch),
        )
    }
}

impl<T: Real, G: SelfAdjoint<T>, A: SelfAdjoint<T>> SelfAdjoint<T> for Kronecker<G, A> {}
impl<T: Real, G: PositiveSemidefinite<T>, A: PositiveSemidefinite<T>> PositiveSemidefinite<T> for Kronecker<G, A> {}

impl<T: Real, G: Adjoint<T>, A: Adjoint<T>> Adjoint<T> for Kronecker<G, A> {
    fn transpose_scratch_len(&self, _: usize) -> usize {
        let dims = Dims::of(&self.g, &self.a).reversed();
        dims.scratch_len(self.g.transpose_scratch_len(dims.a_out), self.a.transpose_scratch_len(dims.g_in))
    }
    fn apply_transpose(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        let (scratch, _) = take_scratch(scratch, self.transpose_scratch_len(x.rows()))?;
        Dims::of(&self.g, &self.a).reversed().apply(
            out,
            x,
            scratch,
            |out, x, scratch| self.g.apply_transpose(out, x, scratch),
            |out, x, scratch| self.a.apply_transpose(out, x, scratch),
        )
    }
}

impl<T: Real, G: Invertible<T>, A: Invertible<T>> Invertible<T> for Kronecker<G, A> {
    fn inverse_scratch_len(&self, _: usize) -> usize {
        let dims = Dims::of(&self.g, &self.a).reversed();
        dims.scratch_len(self.g.inverse_scratch_len(dims.a_out), self.a.inverse_scratch_len(dims.g_in))
    }
    fn check_invertible(&self) -> Result<(), Error> {
        self.g.check_invertible()?;
        self.a.check_invertible()
    }
    fn apply_inverse(&self, out: MatMut<'_, T>, x: MatRef<'_, T>, scratch: &mut [T]) -> Result<(), Error> {
        check_apply(self.dim_out, self.dim_in, &out, &x)?;
        self.check_invertible()?;
        let (scratch, _) = take_scratch(scratch, self.inverse_scratch_len(x.rows()))?;
        Dims::of(&self.g, &self.a).reversed().apply(
            out,
            x,
            scratch,
            |out, x, scratch| self.g.apply_inverse(out, x, scratch),
            |out, x, scratch| self.a.apply_inverse(out, x, scratch),
        )
    }
}
