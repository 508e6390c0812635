//! The attribution methods: one line each in the table, one small function for what it does.
//!
//! A method gives scores `[train, queries]`; positive means that training on the image raises the query's margin.

use ascribe_core::linop::Damped;
use ascribe_core::score::Similarity;
use ascribe_core::{LinOp, MatMut, MatRef, Real};
use ascribe_solvers::curvature::{Damping, Kfac, Type2};
use ascribe_solvers::inverse::{
    AsSolver, Astra, Cg, DataInf, Explicit, Lanczos, Lissa, Minres, NegativeRitz, Nystrom, Solve, SpectralRadius, Stop,
    Woodbury,
};
use ascribe_solvers::network::Linearized;
use ascribe_solvers::parallel::Parallelism;

use crate::data::Dataset;
use crate::device::{Device, Failure};
use crate::evaluation::Attribution;
use crate::learned::{self, Learn};
use crate::model::{Model, with_linearized};
use crate::options::Options;
use crate::shortening::Shortening;
use crate::sketched::{influence, trackstar, trak};

/// What a method may look at.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) options: &'a Options,
    pub(crate) device: &'a Device,
    pub(crate) model: &'a Model,
    pub(crate) train: &'a Dataset,
    pub(crate) queries: &'a Dataset,
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
}

/// Whether a method works on whole gradients, or on sketches of a given length.
#[derive(Debug)]
pub(crate) enum Kind {
    Whole(fn(&Context<'_>) -> Result<Attribution, String>),
    Sketched(OfSketches),
}

/// Attribution by sketches of a length.
pub(crate) type OfSketches = fn(&Context<'_>, usize) -> Result<Attribution, String>;

impl Kind {
    /// What a method does with sketches of a given length, if it sketches.
    pub(crate) fn sketched(&self) -> Option<OfSketches> {
        match self {
            Whole(_) => None,
            Sketched(attribute) => Some(*attribute),
        }
    }
}

impl Method {
    pub(crate) fn attribute(&self, context: &Context<'_>) -> Result<Attribution, String> {
        match self.kind {
            Whole(attribute) => attribute(context),
            Sketched(attribute) => attribute(context, context.options.sketch),
        }
    }
}

use Kind::{Sketched, Whole};

/// The method that the others' solutions are compared with; it stands before them.
pub(crate) const REFERENCE: &str = "gauss-newton";

#[rustfmt::skip]
pub(crate) const METHODS: &[Method] = &[
    Method { name: "gradient-dot", about: "inner product of the gradients", kind: Whole(|c| gradients(c, Similarity::Dot)) },
    Method { name: "gradient-cosine", about: "cosine of the gradients", kind: Whole(|c| gradients(c, Similarity::Cosine)) },
    Method { name: REFERENCE, about: "damped Gauss-Newton influence, explicit in f64 where that fits", kind: Whole(gauss_newton) },
    Method { name: "cg", about: "the same by conjugate gradients", kind: Whole(cg) },
    Method { name: "ekfac-pcg", about: "the same by 10 steps of CG with EKFAC as preconditioner", kind: Whole(|c| pcg(c, learned::ekfac, 10, 0.0)) },
    Method { name: "astra", about: "the same by 200 steps of ASTRA on batches of 256", kind: Whole(astra) },
    Method { name: "lissa", about: "the same by 500 stochastic Neumann iterations on batches of 64", kind: Whole(lissa) },
    Method { name: "lanczos", about: "the same on a Krylov space of 200 vectors", kind: Whole(lanczos) },
    Method { name: "nystrom", about: "the same on 200 random directions", kind: Whole(nystrom) },
    Method { name: "minres", about: "the true Hessian in the place of Gauss-Newton", kind: Whole(minres) },
    Method { name: "ekfac", about: "EKFAC, with 0.1 times each layer's mean eigenvalue", kind: Whole(|c| influence_of(c, learned::ekfac, Damping::Relative(0.1))) },
    Method { name: "ekfac-damping", about: "EKFAC, with the damping of the others", kind: Whole(|c| influence_of(c, learned::ekfac, Damping::Absolute(c.options.damping))) },
    Method { name: "kfac", about: "K-FAC, with 0.1 times each layer's mean eigenvalue", kind: Whole(kfac) },
    Method { name: "second-moment", about: "the diagonal that Adam learns, damped as EKFAC", kind: Whole(|c| influence_of(c, learned::second_moment, Damping::Relative(0.1))) },
    Method { name: "shampoo", about: "the Kronecker product of Shampoo's factors, damped as EKFAC", kind: Whole(|c| influence_of(c, learned::shampoo, Damping::Relative(0.1))) },
    Method { name: "kronecker-spectral", about: "the product learned in its eigenbases, damped as EKFAC", kind: Whole(|c| influence_of(c, learned::kronecker_spectral, Damping::Relative(0.1))) },
    Method { name: "second-moment-pcg", about: "as ekfac-pcg, with the diagonal that Adam learns", kind: Whole(|c| pcg(c, learned::second_moment, 10, 0.0)) },
    Method { name: "shampoo-pcg", about: "as ekfac-pcg, with Shampoo's product", kind: Whole(|c| pcg(c, learned::shampoo, 10, 0.0)) },
    Method { name: "spectral-pcg", about: "as ekfac-pcg, with the product in its eigenbases", kind: Whole(|c| pcg(c, learned::kronecker_spectral, 10, 0.0)) },
    Method { name: "datainf", about: "the mean of inverses, with 0.1 times each layer's mean", kind: Whole(datainf) },
    Method { name: "rademacher", about: "influence on dense random projections of the gradients", kind: Sketched(|c, k| influence(c, Shortening::Rademacher, k)) },
    Method { name: "sjlt", about: "influence on sparse Johnson-Lindenstrauss sketches", kind: Sketched(|c, k| influence(c, Shortening::Sjlt, k)) },
    Method { name: "grass", about: "GraSS: the same of a mask four times as long", kind: Sketched(|c, k| influence(c, Shortening::Grass, k)) },
    Method { name: "fact-grass", about: "FactGraSS: the same of masked layers, from their inputs and output gradients", kind: Sketched(|c, k| influence(c, Shortening::FactGrass, k)) },
    Method { name: "logra", about: "LoGra: influence on random projections of both sides of the layers", kind: Sketched(|c, k| influence(c, Shortening::LoGra, k)) },
    Method { name: "logra-pca", about: "LoGra on the leading eigenvectors of the layers' covariances", kind: Sketched(|c, k| influence(c, Shortening::LoGraPca, k)) },
    Method { name: "trackstar", about: "the cosine of whitened random projections of the layers", kind: Sketched(trackstar) },
    Method { name: "trak", about: "the linear model of the margins, on dense random projections", kind: Sketched(trak) },
];

impl Context<'_> {
    pub(crate) fn parallelism(&self) -> Parallelism {
        Parallelism::threads(self.options.threads)
    }

    /// Influence with the inverse curvature that `prepare` makes of the linearised training set.
    fn influence<T: Real>(
        &self,
        solve: impl FnOnce(&Linearized<'_, T>, &dyn Fn(&dyn Solve<T>) -> Outcome) -> Outcome,
    ) -> Result<Attribution, String> {
        let par = self.parallelism();
        let queries = self.model.margin_gradients::<T>(self.queries, par)?;
        with_linearized::<T, _>(self.model, self.train, par, |train| {
            let (q, dim) = (self.queries.n, train.network().params());
            solve(train, &|inverse| {
                let mut solved = vec![T::ZERO; q * dim];
                let reports = inverse.solve(MatMut::new(&mut solved, q, dim)?, MatRef::new(&queries, q, dim)?)?;
                if let Some(step) = reports.iter().find_map(|report| match report.stop {
                    Stop::Diverged { step } => Some(step),
                    _ => None,
                }) {
                    return Err(ascribe_solvers::Error::Diverged { step }.into());
                }
                let scores = self.device.influence(train, MatRef::new(&solved, q, dim)?)?;
                let solved = solved.into_iter().map(|x| x.to_f64() as f32).collect();
                Ok(Attribution { scores, solved, ..Attribution::default() })
            })
        })
    }
}

type Outcome = Result<Attribution, Failure>;

/// Similarity of the query's margin gradient and the training gradients; a step against a training gradient is what
/// training does, hence the sign.
fn gradients(context: &Context<'_>, similarity: Similarity) -> Result<Attribution, String> {
    let par = context.parallelism();
    let queries = context.model.margin_gradients::<f32>(context.queries, par)?;
    with_linearized::<f32, _>(context.model, context.train, par, |train| {
        let queries = MatRef::new(&queries, context.queries.n, context.model.dim())?;
        let scores = context
            .device
            .scores(similarity, train.examples(), queries, |start, block| Ok(train.example_gradients(start, block)?))?;
        Ok(Attribution { scores: scores.into_iter().map(|x| -f64::from(x)).collect(), ..Attribution::default() })
    })
}

/// Unknowns up to which the system is factorised; the matrix of a larger one would not fit into a usual memory.
const EXPLICIT: usize = 20_000;

/// By a Cholesky factorisation in whichever space is smaller, that of the parameters or that of the outputs; where
/// both are too large, by preconditioned conjugate gradients until the residual is a hundred-thousandth.
fn gauss_newton(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, par) = (context.options.damping, context.parallelism());
    let outputs = context.train.n * (context.train.classes - 1);
    if outputs.min(context.model.dim()) > EXPLICIT {
        return pcg(context, learned::ekfac, 300, 1e-5);
    }
    context.influence::<f64>(|train, attribute| {
        let factor = train.gauss_newton_factor()?;
        if factor.dim_out() < factor.dim_in() {
            let gram = factor.gram()?;
            attribute(&Woodbury::new(factor, gram, train.scale(), damping, par)?)
        } else {
            attribute(&Explicit { damping, parallelism: par }.prepare(&train.gauss_newton())?)
        }
    })
}

fn cg(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let options = Cg { damping, rtol: 1e-3, max_iterations: 300, parallelism, ..Cg::default() };
        attribute(&options.prepare(&train.gauss_newton())?)
    })
}

fn pcg(context: &Context<'_>, learn: Learn, max_iterations: usize, rtol: f64) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let blocks = learn(train)?;
        let inverse = blocks.inverse(Damping::Absolute(damping), parallelism)?;
        let options = Cg { damping, rtol, max_iterations, parallelism, ..Cg::default() };
        attribute(&options.prepare_with(&train.gauss_newton(), &inverse)?)
    })
}

fn astra(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let blocks = learned::ekfac(train)?;
        let inverse = blocks.inverse(Damping::Absolute(damping), parallelism)?;
        let options = Astra { damping, parallelism, ..Astra::default() };
        attribute(&options.prepare(&train.gauss_newton(), &inverse)?)
    })
}

/// With a step of half of what the largest eigenvalue allows, to leave room for the noise of the batches.
fn lissa(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let curvature = train.gauss_newton();
        let largest = SpectralRadius::default().estimate(&Damped::new(&curvature, damping as f32)?)?;
        let lissa = Lissa { parallelism, ..Lissa::torch_influence(2.0 * largest, damping, 500) };
        attribute(&lissa.prepare(&curvature)?)
    })
}

fn lanczos(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let basis = Lanczos { steps: 200, parallelism, ..Lanczos::default() }.decompose(&train.gauss_newton())?;
        attribute(&basis.spectrum(NegativeRitz::Abs, None)?.inverse(damping)?)
    })
}

fn nystrom(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let spectrum = Nystrom { rank: 200, parallelism, ..Nystrom::default() }.prepare(&train.gauss_newton())?;
        attribute(&spectrum.inverse(damping)?)
    })
}

fn minres(context: &Context<'_>) -> Result<Attribution, String> {
    let (damping, parallelism) = (context.options.damping, context.parallelism());
    context.influence::<f32>(|train, attribute| {
        let options = Minres { damping, rtol: 1e-3, max_iterations: 300, parallelism, ..Minres::default() };
        attribute(&options.prepare(&train.hessian())?)
    })
}

/// The inverse of a learned curvature by itself.
fn influence_of(context: &Context<'_>, learn: Learn, damping: Damping) -> Result<Attribution, String> {
    context.influence::<f32>(|train, attribute| {
        let blocks = learn(train)?;
        attribute(&AsSolver(blocks.inverse(damping, context.parallelism())?))
    })
}

fn kfac(context: &Context<'_>) -> Result<Attribution, String> {
    context.influence::<f32>(|train, attribute| {
        let kfac = Kfac::of(train, &Type2)?;
        attribute(&AsSolver(kfac.blocks().inverse(Damping::Relative(0.1), context.parallelism())?))
    })
}

fn datainf(context: &Context<'_>) -> Result<Attribution, String> {
    let parallelism = context.parallelism();
    context.influence::<f32>(|train, attribute| {
        let layers: Vec<usize> = train.network().layers().iter().map(ascribe_solvers::network::Layer::len).collect();
        attribute(&DataInf { parallelism, ..DataInf::default() }.prepare(train, &layers)?)
    })
}
