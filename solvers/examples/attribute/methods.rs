//! The attribution methods: one line each in the table, one small function for what it does.
//!
//! A method gives scores `[train, queries]`; positive means that training on the image raises the query's margin.

use ascribe_core::linop::Damped;
use ascribe_core::random::Stream;
use ascribe_core::reduce::norm2;
use ascribe_core::score::Similarity;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::attribution::{Effect, Influence};
use ascribe_solvers::inverse::{Cg, Explicit, Lissa, Solve, Stop, Woodbury};
use ascribe_solvers::network::Linearized;
use ascribe_solvers::parallel::Parallelism;

use crate::data::Dataset;
use crate::model::{Model, with_linearized};
use crate::options::Options;

/// What a method may look at.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) options: &'a Options,
    pub(crate) model: &'a Model,
    pub(crate) train: &'a Dataset,
    pub(crate) queries: &'a Dataset,
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) scores: fn(&Context<'_>) -> Result<Vec<f64>, String>,
}

#[rustfmt::skip]
pub(crate) const METHODS: &[Method] = &[
    Method { name: "gradient-dot", about: "inner product of the gradients", scores: |c| gradients(c, Similarity::Dot) },
    Method { name: "gradient-cosine", about: "cosine of the gradients", scores: |c| gradients(c, Similarity::Cosine) },
    Method { name: "gauss-newton", about: "explicit damped Gauss-Newton influence, in f64", scores: gauss_newton },
    Method { name: "cg", about: "the same by conjugate gradients, in f32", scores: cg },
    Method { name: "lissa", about: "the same by stochastic Neumann iterations, in f32", scores: lissa },
];

impl Context<'_> {
    fn parallelism(&self) -> Parallelism {
        Parallelism::threads(self.options.threads)
    }

    /// Influence with the inverse curvature that `prepare` makes of the linearised training set.
    fn influence<T: Real>(
        &self,
        solve: impl FnOnce(&Linearized<'_, T>, &dyn Fn(&dyn Solve<T>) -> Outcome<T>) -> Outcome<T>,
    ) -> Result<Vec<f64>, String> {
        let par = self.parallelism();
        let queries = self.model.margin_gradients::<T>(self.queries, par)?;
        let scores = with_linearized::<T, _>(self.model, self.train, par, |train| {
            let queries = MatRef::new(&queries, self.queries.n, train.network().params())?;
            solve(train, &|inverse| {
                let mut out = vec![T::ZERO; self.train.n * self.queries.n];
                let influence = Influence { effect: Effect::Upweight, per_example: true };
                let block = MatMut::new(&mut out, self.train.n, self.queries.n)?;
                for report in influence.scores(block, train, inverse, queries)? {
                    if let Stop::Diverged { step } = report.stop {
                        return Err(ascribe_solvers::Error::Diverged { step });
                    }
                }
                Ok(out)
            })
        })?;
        Ok(scores.into_iter().map(ascribe_core::Scalar::to_f64).collect())
    }
}

type Outcome<T> = Result<Vec<T>, ascribe_solvers::Error>;

/// Similarity of the query's margin gradient and the training gradients; a step against a training gradient is what
/// training does, hence the sign.
fn gradients(context: &Context<'_>, similarity: Similarity) -> Result<Vec<f64>, String> {
    let par = context.parallelism();
    let queries = context.model.margin_gradients::<f32>(context.queries, par)?;
    let (n, q) = (context.train.n, context.queries.n);
    with_linearized::<f32, _>(context.model, context.train, par, |train| {
        let dim = train.network().params();
        let queries = MatRef::new(&queries, q, dim)?;
        let mut scores = vec![0.0; n * q];
        let mut scratch = vec![0.0; similarity.scratch_len(q)];
        let mut block = Vec::new();
        // All gradients at once would not fit for larger sets: go through the records' blocks of images.
        let mut rest = MatMut::new(&mut scores, n, q)?;
        let mut start = 0;
        while start < n {
            let rows = GRADIENT_BLOCK.min(n - start);
            block.resize(rows * dim, 0.0);
            train.example_gradients(start, MatMut::new(&mut block, rows, dim)?)?;
            let (head, tail) = rest.split_rows(rows)?;
            similarity.scores(head, MatRef::new(&block, rows, dim)?, queries, &mut scratch)?;
            rest = tail;
            start += rows;
        }
        Ok(scores.into_iter().map(|x| -f64::from(x)).collect())
    })
}

/// Training images whose gradients are formed at once.
const GRADIENT_BLOCK: usize = 256;

/// By a Cholesky factorisation in whichever space is smaller, that of the parameters or that of the outputs.
fn gauss_newton(context: &Context<'_>) -> Result<Vec<f64>, String> {
    let (damping, par) = (context.options.damping, context.parallelism());
    context.influence::<f64>(|train, scores| {
        let factor = train.gauss_newton_factor();
        if factor.dim_out() < factor.dim_in() {
            let gram = factor.gram()?;
            scores(&Woodbury::new(factor, gram, train.scale(), damping, par)?)
        } else {
            scores(&Explicit { damping, parallelism: par }.prepare(&train.gauss_newton())?)
        }
    })
}

fn cg(context: &Context<'_>) -> Result<Vec<f64>, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, scores| {
        let options = Cg { damping, rtol: 1e-3, max_iterations: 300, parallelism, ..Cg::default() };
        scores(&options.prepare(&train.gauss_newton())?)
    })
}

/// With a step of a quarter of what the largest eigenvalue allows, to leave room for the noise of the batches.
fn lissa(context: &Context<'_>) -> Result<Vec<f64>, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, scores| {
        let curvature = train.gauss_newton();
        let largest = largest_eigenvalue(&Damped::new(&curvature, damping as f32)?)?;
        let lissa = Lissa { parallelism, ..Lissa::torch_influence(2.0 * largest, damping, 500) };
        scores(&lissa.prepare(&curvature)?)
    })
}

/// By power iterations, to within a few percent.
fn largest_eigenvalue(op: &dyn LinOp<f32>) -> Result<f64, ascribe_solvers::Error> {
    // A random start: equal parameters are a null direction of a cross entropy.
    let mut draws = Stream::new(0, "attribute.power").draws();
    let mut x: Vec<f32> = (0..op.dim_in()).map(|_| draws.next_normal() as f32).collect();
    let mut y = x.clone();
    let mut scratch = vec![0.0; op.scratch_len(1)];
    let mut largest = 0.0;
    for _ in 0..20 {
        op.apply(MatMut::from_row(&mut y), MatRef::from_row(&x), &mut scratch)?;
        largest = norm2(&y);
        for (x, y) in x.iter_mut().zip(&y) {
            *x = y / largest;
        }
    }
    Ok(f64::from(largest))
}
