//! Laws of the operator algebra, on random compositions of every operator.
//!
//! Entries are small integers, so every law holds exactly: an operator equals the dense matrix that the definition
//! of each combinator gives, and whatever follows from that (linearity, independence of rows, adjointness) follows.

use ascribe_core::linop::{
    Adjoint, AssumePositiveSemidefinite, AssumeSelfAdjoint, BlockDiagonal, Chain, Damped, Dense, Diagonal, Identity,
    Inverse, Invertible, Kronecker, LowRank, Scaled, Sum, Transposed, apply_alloc, check_apply, to_dense,
};
use ascribe_core::{Error, LinOp, MatMut, MatRef, PositiveSemidefinite, Real, SelfAdjoint};
use ascribe_tests::exact::Integers;
use proptest::prelude::*;

/// A dense matrix, for clarity.
#[derive(Debug, Clone, PartialEq)]
struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    fn from_fn(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols).map(|i| f(i / cols, i % cols)).collect();
        Self { rows, cols, data }
    }
    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }
    fn times(&self, other: &Self) -> Self {
        Self::from_fn(self.rows, other.cols, |i, j| (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum())
    }
    fn transpose(&self) -> Self {
        Self::from_fn(self.cols, self.rows, |i, j| self.at(j, i))
    }
}

/// The description of an operator: from it come both the operator and, by definition, its matrix.
#[derive(Debug)]
enum Spec<T> {
    Identity(usize),
    Diagonal(Vec<T>),
    Dense { rows: usize, cols: usize, data: Vec<T> },
    LowRank { u: Box<Self>, s: Vec<T>, v: Box<Self> },
    Scaled(T, Box<Self>),
    Sum(Box<Self>, Box<Self>),
    Chain(Box<Self>, Box<Self>),
    Damped(Box<Self>, T),
    BlockDiagonal(Vec<Self>),
    Kronecker(Box<Self>, Box<Self>),
    Transposed(Box<Self>),
}

/// Splits of a dimension, so that blocks and factors multiply and add up to it.
fn divisor(integers: &mut Integers, n: usize) -> usize {
    let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
    if divisors.is_empty() { 1 } else { divisors[integers.below(divisors.len())] }
}

impl<T: Real> Spec<T> {
    /// A random operator from rows of length `cols` to rows of length `rows`.
    fn random(integers: &mut Integers, rows: usize, cols: usize, depth: usize) -> Self {
        let square = rows == cols;
        let inner =
            |rows, cols, integers: &mut Integers| Box::new(Self::random(integers, rows, cols, depth.saturating_sub(1)));
        match integers.below(if depth == 0 { 4 } else { 11 }) {
            0 if square => Self::Identity(rows),
            1 if square => Self::Diagonal(integers.vector(rows)),
            2 => {
                let rank = integers.below(4);
                let u = Box::new(Self::dense_spec(integers, rank, rows));
                let v = Box::new(Self::dense_spec(integers, rank, cols));
                Self::LowRank { u, s: integers.vector(rank), v }
            }
            4 => Self::Scaled(integers.small(), inner(rows, cols, integers)),
            5 => Self::Sum(inner(rows, cols, integers), inner(rows, cols, integers)),
            6 => {
                let middle = integers.below(5);
                Self::Chain(inner(rows, middle, integers), inner(middle, cols, integers))
            }
            7 if square => Self::Damped(inner(rows, cols, integers), T::from_f64(integers.below(3) as f64)),
            8 => {
                let (top, left) = (integers.below(rows + 1), integers.below(cols + 1));
                let first = inner(top, left, integers);
                Self::BlockDiagonal(vec![*first, *inner(rows - top, cols - left, integers)])
            }
            9 => {
                let (g_rows, g_cols) = (divisor(integers, rows), divisor(integers, cols));
                let g = inner(g_rows, g_cols, integers);
                Self::Kronecker(g, inner(rows / g_rows, cols / g_cols, integers))
            }
            10 => Self::Transposed(inner(cols, rows, integers)),
            _ => Self::dense_spec(integers, rows, cols),
        }
    }

    fn dense_spec(integers: &mut Integers, rows: usize, cols: usize) -> Self {
        Self::Dense { rows, cols, data: integers.vector(rows * cols) }
    }

    fn view(&self) -> MatRef<'_, T> {
        match self {
            Self::Dense { rows, cols, data } => MatRef::new(data, *rows, *cols).unwrap(),
            _ => unreachable!("only dense specifications are viewed"),
        }
    }

    /// Calls `f` with the operator; its parts are borrowed, so it cannot be returned.
    fn with<R>(&self, f: &mut dyn FnMut(&dyn Adjoint<T>) -> R) -> R {
        match self {
            Self::Identity(n) => f(&Identity::new(*n)),
            Self::Diagonal(d) => f(&Diagonal::new(d)),
            Self::Dense { .. } => f(&Dense::new(self.view())),
            Self::LowRank { u, s, v } => f(&LowRank::new(u.view(), s, v.view()).unwrap()),
            Self::Scaled(alpha, a) => a.with(&mut |a| f(&Scaled::new(*alpha, a))),
            Self::Sum(a, b) => a.with(&mut |a| b.with(&mut |b| f(&Sum::new(a, b).unwrap()))),
            Self::Chain(a, b) => a.with(&mut |a| b.with(&mut |b| f(&Chain::new(a, b).unwrap()))),
            Self::Damped(a, lambda) => a.with(&mut |a| f(&Damped::new(a, *lambda).unwrap())),
            Self::BlockDiagonal(blocks) => {
                blocks[0].with(&mut |a| blocks[1].with(&mut |b| f(&BlockDiagonal::new(&[a, b]).unwrap())))
            }
            Self::Kronecker(g, a) => g.with(&mut |g| a.with(&mut |a| f(&Kronecker::new(g, a).unwrap()))),
            Self::Transposed(a) => a.with(&mut |a| f(&Transposed::new(a))),
        }
    }

    fn matrix(&self) -> Matrix {
        let diagonal = |d: &[T]| Matrix::from_fn(d.len(), d.len(), |i, j| if i == j { d[i].to_f64() } else { 0.0 });
        match self {
            Self::Identity(n) => diagonal(&vec![T::ONE; *n]),
            Self::Diagonal(d) => diagonal(d),
            Self::Dense { rows, cols, data } => Matrix::from_fn(*rows, *cols, |i, j| data[i * cols + j].to_f64()),
            Self::LowRank { u, s, v } => u.matrix().transpose().times(&diagonal(s)).times(&v.matrix()),
            Self::Scaled(alpha, a) => {
                let a = a.matrix();
                Matrix::from_fn(a.rows, a.cols, |i, j| alpha.to_f64() * a.at(i, j))
            }
            Self::Sum(a, b) => {
                let (a, b) = (a.matrix(), b.matrix());
                Matrix::from_fn(a.rows, a.cols, |i, j| a.at(i, j) + b.at(i, j))
            }
            Self::Chain(a, b) => a.matrix().times(&b.matrix()),
            Self::Damped(a, lambda) => {
                let a = a.matrix();
                Matrix::from_fn(a.rows, a.cols, |i, j| a.at(i, j) + if i == j { lambda.to_f64() } else { 0.0 })
            }
            Self::BlockDiagonal(blocks) => {
                let (a, b) = (blocks[0].matrix(), blocks[1].matrix());
                Matrix::from_fn(a.rows + b.rows, a.cols + b.cols, |i, j| match (i < a.rows, j < a.cols) {
                    (true, true) => a.at(i, j),
                    (false, false) => b.at(i - a.rows, j - a.cols),
                    _ => 0.0,
                })
            }
            Self::Kronecker(g, a) => {
                let (g, a) = (g.matrix(), a.matrix());
                Matrix::from_fn(g.rows * a.rows, g.cols * a.cols, |i, j| {
                    g.at(i / a.rows, j / a.cols) * a.at(i % a.rows, j % a.cols)
                })
            }
            Self::Transposed(a) => a.matrix().transpose(),
        }
    }
}

/// Applies an operator with an output and a scratch that are full of NaN, which must not show, and no scratch more
/// than it asked for.
fn apply<T: Real>(op: &(impl LinOp<T> + ?Sized), x: &[T], rows: usize) -> Vec<f64> {
    let nan = T::from_f64(f64::NAN);
    let mut out = vec![nan; rows * op.dim_out()];
    let mut scratch = vec![nan; op.scratch_len(rows)];
    let x = MatRef::new(x, rows, op.dim_in()).unwrap();
    op.apply(MatMut::new(&mut out, rows, op.dim_out()).unwrap(), x, &mut scratch).unwrap();
    out.iter().map(|x| x.to_f64()).collect()
}

fn wide<T: Real>(x: &[T], rows: usize, cols: usize) -> Matrix {
    Matrix::from_fn(rows, cols, |i, j| x[i * cols + j].to_f64())
}

/// The laws of one operator against its matrix, forwards and transposed.
fn laws<T: Real>(spec: &Spec<T>, k: usize, integers: &mut Integers) -> Result<(), TestCaseError> {
    let matrix = spec.matrix();
    spec.with(&mut |op| {
        prop_assert_eq!((op.dim_out(), op.dim_in()), (matrix.rows, matrix.cols));
        let (x, u) = (integers.vector::<T>(k * matrix.cols), integers.vector::<T>(k * matrix.rows));
        let expected = wide(&x, k, matrix.cols).times(&matrix.transpose());
        prop_assert_eq!(&apply(op, &x, k), &expected.data);
        let expected = wide(&u, k, matrix.rows).times(&matrix);
        prop_assert_eq!(&apply(&Transposed::new(op), &u, k), &expected.data);
        refuses_what_does_not_fit(op, k)?;
        refuses_what_does_not_fit(&Transposed::new(op), k)?;
        Ok(())
    })
}

/// Every shape that does not fit, and scratch that is one element short, is an error that leaves `out` as it was.
fn refuses_what_does_not_fit<T: Real>(op: &dyn LinOp<T>, k: usize) -> Result<(), TestCaseError> {
    let (cols, rows) = (op.dim_in(), op.dim_out());
    let needed = op.scratch_len(k);
    let mut cases =
        vec![(k, cols + 1, k, rows, needed), (k, cols, k, rows + 1, needed), (k + 1, cols, k, rows, needed)];
    if needed > 0 {
        cases.push((k, cols, k, rows, needed - 1));
    }
    for (x_rows, x_cols, out_rows, out_cols, scratch) in cases {
        let x = vec![T::ONE; x_rows * x_cols];
        let mut out = vec![T::from_f64(7.0); out_rows * out_cols];
        let out_view = MatMut::new(&mut out, out_rows, out_cols).unwrap();
        let result = op.apply(out_view, MatRef::new(&x, x_rows, x_cols).unwrap(), &mut vec![T::ONE; scratch]);
        if scratch < needed {
            prop_assert_eq!(result, Err(Error::Length { what: "scratch", needed, got: scratch }));
        } else {
            prop_assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
        }
        prop_assert!(out.iter().all(|&x| x == T::from_f64(7.0)));
    }
    Ok(())
}

fn size() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 7, 12])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_operator_equals_its_matrix(rows in size(), cols in size(), k in 0_usize..4, seed in any::<u64>()) {
        let mut integers = Integers::new(seed);
        // Three levels of integers up to 2 stay below 2^24, where f32 is exact.
        laws(&Spec::<f32>::random(&mut integers, rows, cols, 2), k, &mut integers)?;
        laws(&Spec::<f64>::random(&mut integers, rows, cols, 3), k, &mut integers)?;
    }

    #[test]
    fn rows_are_mapped_linearly_and_by_themselves(n in size(), m in size(), seed in any::<u64>()) {
        let mut integers = Integers::new(seed);
        let spec = Spec::<f64>::random(&mut integers, m, n, 3);
        let (x, y) = (integers.vector::<f64>(n), integers.vector::<f64>(n));
        let combined: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 2.0 * x - 3.0 * y).collect();
        spec.with(&mut |op| {
            let (of_x, of_y, of_combined) = (apply(op, &x, 1), apply(op, &y, 1), apply(op, &combined, 1));
            prop_assert_eq!(apply(op, &[x.clone(), y.clone()].concat(), 2), [of_x.clone(), of_y.clone()].concat());
            for i in 0..m {
                prop_assert_eq!(of_combined[i], 2.0 * of_x[i] - 3.0 * of_y[i]);
            }
            let u = integers.vector::<f64>(m);
            let of_u = apply(&Transposed::new(op), &u, 1);
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            prop_assert_eq!(dot(&u, &of_x), dot(&of_u, &x));
            Ok(())
        })?;
    }

    #[test]
    fn views_with_gaps_are_read_and_written_between_the_gaps(n in size(), m in size(), seed in any::<u64>()) {
        let mut integers = Integers::new(seed);
        let spec = Spec::<f64>::random(&mut integers, m, n, 2);
        let dense = integers.vector::<f64>(3 * n);
        let mut gapped = vec![f64::NAN; 3 * (n + 2)];
        for i in 0..3 {
            gapped[i * (n + 2)..][..n].copy_from_slice(&dense[i * n..][..n]);
        }
        spec.with(&mut |op| {
            let mut out = vec![f64::NAN; 3 * (m + 1)];
            let x = MatRef::with_stride(&gapped, 3, n, n + 2).unwrap();
            let out_view = MatMut::with_stride(&mut out, 3, m, m + 1).unwrap();
            op.apply(out_view, x, &mut vec![f64::NAN; op.scratch_len(3)]).unwrap();
            let expected = apply(op, &dense, 3);
            for i in 0..3 {
                prop_assert_eq!(&out[i * (m + 1)..][..m], &expected[i * m..][..m]);
                prop_assert!(out[i * (m + 1) + m].is_nan());
            }
            Ok(())
        })?;
    }
}

/// The cyclic shift `y_i = x_(i+1)`: an invertible operator that does not commute with a diagonal.
#[derive(Debug)]
struct Shift(usize);

impl LinOp<f64> for Shift {
    fn dim_in(&self) -> usize {
        self.0
    }
    fn dim_out(&self) -> usize {
        self.0
    }
    fn apply(&self, mut out: MatMut<'_, f64>, x: MatRef<'_, f64>, _: &mut [f64]) -> Result<(), Error> {
        check_apply(self.0, self.0, &out, &x)?;
        out.for_each_row(|i, out| (0..self.0).for_each(|j| out[j] = x.row(i)[(j + 1) % self.0]));
        Ok(())
    }
}

impl Invertible<f64> for Shift {
    fn apply_inverse(&self, mut out: MatMut<'_, f64>, x: MatRef<'_, f64>, _: &mut [f64]) -> Result<(), Error> {
        check_apply(self.0, self.0, &out, &x)?;
        out.for_each_row(|i, out| (0..self.0).for_each(|j| out[(j + 1) % self.0] = x.row(i)[j]));
        Ok(())
    }
}

/// The description of an invertible operator, with entries that are powers of two, so that inverses are exact.
#[derive(Debug)]
enum InvertibleSpec {
    Identity(usize),
    Shift(usize),
    Diagonal(Vec<f64>),
    DampedDiagonal(Vec<f64>, f64),
    Scaled(f64, Box<Self>),
    Chain(Box<Self>, Box<Self>),
    BlockDiagonal(Vec<Self>),
    Kronecker(Box<Self>, Box<Self>),
    Inverse(Box<Self>),
    AssumePositiveSemidefinite(Box<Self>),
}

impl InvertibleSpec {
    fn random(integers: &mut Integers, n: usize, depth: usize) -> Self {
        let power = |integers: &mut Integers| [-2.0, -0.5, 0.5, 1.0, 4.0][integers.below(5)];
        let inner = |n, integers: &mut Integers| Box::new(Self::random(integers, n, depth.saturating_sub(1)));
        match integers.below(if depth == 0 { 4 } else { 10 }) {
            0 => Self::Identity(n),
            9 => Self::AssumePositiveSemidefinite(inner(n, integers)),
            1 => Self::Diagonal((0..n).map(|_| power(integers)).collect()),
            // 0.5 above a power of two less 0.5.
            2 => Self::DampedDiagonal((0..n).map(|_| power(integers) - 0.5).collect(), 0.5),
            4 => Self::Scaled(power(integers), inner(n, integers)),
            5 => Self::Chain(inner(n, integers), inner(n, integers)),
            6 => {
                let top = integers.below(n + 1);
                let first = *inner(top, integers);
                Self::BlockDiagonal(vec![first, *inner(n - top, integers)])
            }
            7 => {
                let rows = divisor(integers, n);
                Self::Kronecker(inner(rows, integers), inner(n / rows, integers))
            }
            8 => Self::Inverse(inner(n, integers)),
            _ => Self::Shift(n),
        }
    }

    fn with<R>(&self, f: &mut dyn FnMut(&dyn Invertible<f64>) -> R) -> R {
        match self {
            Self::Identity(n) => f(&Identity::new(*n)),
            Self::Shift(n) => f(&Shift(*n)),
            Self::Diagonal(d) => f(&Diagonal::new(d)),
            Self::DampedDiagonal(d, lambda) => f(&Damped::new(Diagonal::new(d), *lambda).unwrap()),
            Self::Scaled(alpha, a) => a.with(&mut |a| f(&Scaled::new(*alpha, a))),
            Self::Chain(a, b) => a.with(&mut |a| b.with(&mut |b| f(&Chain::new(a, b).unwrap()))),
            Self::BlockDiagonal(blocks) => {
                blocks[0].with(&mut |a| blocks[1].with(&mut |b| f(&BlockDiagonal::new(&[a, b]).unwrap())))
            }
            Self::Kronecker(g, a) => g.with(&mut |g| a.with(&mut |a| f(&Kronecker::new(g, a).unwrap()))),
            Self::Inverse(a) => a.with(&mut |a| f(&Inverse::new(a).unwrap())),
            Self::AssumePositiveSemidefinite(a) => a.with(&mut |a| f(&AssumePositiveSemidefinite::new(a).unwrap())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_inverse_undoes_its_operator_on_both_sides(n in size(), k in 0_usize..3, seed in any::<u64>()) {
        let mut integers = Integers::new(seed);
        let spec = InvertibleSpec::random(&mut integers, n, 3);
        let x = integers.vector::<f64>(k * n);
        spec.with(&mut |op| {
            let inverse = Inverse::new(op).unwrap();
            prop_assert_eq!(&apply(&inverse, &apply(op, &x, k), k), &x);
            prop_assert_eq!(&apply(op, &apply(&inverse, &x, k), k), &x);
            refuses_what_does_not_fit(&inverse, k)?;
            Ok(())
        })?;
    }

    /// A zero anywhere inside makes the whole singular, and is found before anything is written.
    #[test]
    fn a_singular_part_is_reported_and_changes_nothing(n in 1_usize..6, zero in any::<prop::sample::Index>()) {
        let index = zero.index(n);
        let mut entries = vec![1.0; n];
        entries[index] = 0.0;
        let singular = Diagonal::new(&entries);
        let expected = Error::Singular { what: "diagonal", index };
        let identity = Identity::new(n);
        let blocks: [&dyn Invertible<f64>; 2] = [&identity, &singular];
        let operators: [&dyn Invertible<f64>; 6] = [
            &singular,
            &Scaled::new(2.0, &singular),
            &Chain::new::<f64>(identity, &singular).unwrap(),
            &BlockDiagonal::new(&blocks).unwrap(),
            &Kronecker::new::<f64>(identity, &singular).unwrap(),
            &AssumeSelfAdjoint::new::<f64>(&singular).unwrap(),
        ];
        for op in operators {
            prop_assert_eq!(op.check_invertible(), Err(expected));
            prop_assert!(Inverse::new(op).is_err());
            let x = vec![1.0; op.dim_out()];
            let mut out = vec![7.0; op.dim_in()];
            let mut scratch = vec![0.0; op.inverse_scratch_len(1)];
            let result = op.apply_inverse(MatMut::from_row(&mut out), MatRef::from_row(&x), &mut scratch);
            prop_assert_eq!(result, Err(expected));
            prop_assert!(out.iter().all(|&x| x == 7.0));
        }
        let damped = Damped::new(singular, 0.0).unwrap();
        prop_assert_eq!(damped.check_invertible(), Err(Error::Singular { what: "damped diagonal", index }));
        let scaled = Scaled::new(0.0, identity);
        prop_assert_eq!(scaled.check_invertible(), Err(Error::Singular { what: "scaled operator", index: 0 }));
    }

    /// The promises that combinators make by type, on `M^T M` and `diag(d)`.
    #[test]
    fn promised_symmetry_and_semidefiniteness_hold(n in 1_usize..5, rank in 0_usize..4, seed in any::<u64>()) {
        let mut integers = Integers::new(seed);
        let (m, s) = (integers.vector::<f64>(rank * n), vec![2.0; rank]);
        let directions = MatRef::new(&m, rank, n).unwrap();
        let gram = AssumePositiveSemidefinite::new(LowRank::symmetric(directions, &s).unwrap()).unwrap();
        let d = integers.vector::<f64>(n);
        let diagonal = Diagonal::new(&d);
        let blocks = [&gram, &gram];
        let semidefinite: [&dyn PositiveSemidefinite<f64>; 6] = [
            &gram,
            &Sum::new::<f64>(&gram, Identity::new(n)).unwrap(),
            &Damped::new(&gram, 0.5).unwrap(),
            &BlockDiagonal::new(&blocks).unwrap(),
            &Kronecker::new(&gram, &gram).unwrap(),
            &Transposed::new(&gram),
        ];
        let indefinite: [&dyn SelfAdjoint<f64>; 5] = [
            &diagonal,
            &Scaled::new(-2.0, &gram),
            &Sum::new(&gram, Scaled::new(-1.0, &diagonal)).unwrap(),
            &Kronecker::new(&diagonal, &gram).unwrap(),
            &AssumeSelfAdjoint::new(LowRank::symmetric(directions, &s).unwrap()).unwrap(),
        ];
        for op in semidefinite {
            symmetric(op)?;
            let v = integers.vector::<f64>(op.dim_in());
            let form: f64 = apply(op, &v, 1).iter().zip(&v).map(|(x, y)| x * y).sum();
            prop_assert!(form >= 0.0, "{form}");
        }
        indefinite.into_iter().try_for_each(symmetric)?;
    }
}

fn symmetric(op: &(impl SelfAdjoint<f64> + ?Sized)) -> Result<(), TestCaseError> {
    let n = op.dim_in();
    let matrix = wide(&to_dense(op).unwrap(), n, n);
    prop_assert_eq!(&matrix.transpose(), &matrix);
    Ok(())
}

#[test]
fn operators_that_do_not_fit_together_are_refused() {
    let (two, three) = (Identity::new(2), Identity::new(3));
    let data = [1.0; 6];
    let wide = Dense::new(MatRef::new(&data, 2, 3).unwrap());
    let shape = |what, expected, got| Error::Shape { what, expected, got };
    assert_eq!(Sum::new::<f64>(two, three), Err(shape("second operator's input", 2, 3)));
    assert_eq!(Sum::new(three, wide), Err(shape("second operator's output", 3, 2)));
    assert_eq!(Chain::new::<f64>(two, three), Err(shape("second operator's output", 2, 3)));
    assert_eq!(Damped::new(wide, 1.0), Err(shape("operator output", 3, 2)));
    assert_eq!(AssumeSelfAdjoint::new(wide), Err(shape("operator output", 3, 2)));
    assert_eq!(LowRank::new(wide.matrix(), &[1.0], wide.matrix()), Err(shape("u rows", 1, 2)));
    for value in [-1.0, f64::INFINITY] {
        assert_eq!(Damped::new(two, value), Err(Error::Damping { value }));
    }
    assert!(matches!(Damped::new(two, f64::NAN), Err(Error::Damping { .. })));
}

#[test]
fn sizes_that_overflow_are_errors() {
    let (huge, two) = (Identity::new(usize::MAX), Identity::new(2));
    assert_eq!(Kronecker::new::<f64>(huge, two), Err(Error::Overflow { what: "Kronecker product" }));
    assert_eq!(BlockDiagonal::new::<f64>(&[huge, two]), Err(Error::Overflow { what: "block diagonal" }));
    assert_eq!(to_dense::<f64>(&huge), Err(Error::Overflow { what: "dense operator" }));
    let half = Identity::new(1 << (usize::BITS / 2 - 2));
    assert_eq!(to_dense::<f64>(&half), Err(Error::Overflow { what: "dense operator" }));

    // No rows to map, but scratch that no slice can have.
    let op = Kronecker::new::<f64>(huge, Identity::new(1)).unwrap();
    let x = MatRef::<f64>::new(&[], 0, usize::MAX).unwrap();
    assert_eq!(LinOp::<f64>::scratch_len(&op, 0), usize::MAX);
    let needed = usize::MAX;
    let refused = op.apply(MatMut::new(&mut [], 0, usize::MAX).unwrap(), x, &mut []);
    assert_eq!(refused, Err(Error::Length { what: "scratch", needed, got: 0 }));
    assert_eq!(apply_alloc(&op, x), Err(Error::Overflow { what: "operator scratch" }));
}

/// Operators that go from row to row: over none of `usize::MAX` rows without elements.
#[test]
fn rows_without_elements_are_not_stepped_over() {
    use ascribe_core::derivative::FiniteDifferenceHessian;
    let gradient = |_: &[f64], _: &mut [f64]| -> Result<(), Error> { panic!("a row without elements has no gradient") };
    let finite = FiniteDifferenceHessian::new(gradient, &[]).unwrap();
    let kronecker = Kronecker::new::<f64>(Identity::new(0), Identity::new(0)).unwrap();
    let damped = Damped::new(Identity::new(0), 1.0).unwrap();
    let sum = Sum::new::<f64>(Identity::new(0), Identity::new(0)).unwrap();
    let operators: [&dyn LinOp<f64>; 4] = [&finite, &kronecker, &damped, &sum];
    for op in operators {
        let x = MatRef::new(&[], usize::MAX, 0).unwrap();
        assert_eq!(op.apply(MatMut::new(&mut [], usize::MAX, 0).unwrap(), x, &mut []), Ok(()));
    }
}
