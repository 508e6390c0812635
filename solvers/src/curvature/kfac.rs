//! K-FAC and EKFAC of a network.

use core::marker::PhantomData;

use ascribe_core::record::LayerRecord;
use ascribe_core::{MatRef, Real};

use super::{
    Blocks, Count, Covariances, EigenBlock, EigenvalueCorrection, Fisher, LayerCovariance, LayerShape, Sharing,
};
use crate::Error;
use crate::error::check_shape;
use crate::network::Linearized;
use crate::parallel::Parallelism;

/// K-FAC: each layer's curvature as the Kronecker product of the covariances of its inputs and of its output
/// gradients, whose law is in the type `F`.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, derivative::Reduction, linop::apply_alloc};
/// use ascribe_solvers::{curvature::*, network::*, parallel::Parallelism};
/// let net = Mlp::new(&[2, 2], Activation::Identity, Loss::HalfMse)?;
/// let (theta, x) = ([0.0_f64; 6], MatRef::new(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 3, 2)?);
/// let data = Linearized::new(&net, &theta, x, Targets::Values(x), Reduction::Mean, Parallelism::Serial)?;
/// let kfac = Kfac::of(&data, &Type2)?;
/// // One layer and squared error: K-FAC is the Gauss-Newton matrix.
/// let v = MatRef::from_row(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// let (product, exact) = (kfac.blocks().function(|s| s, Parallelism::Serial)?, data.gauss_newton());
/// for (x, y) in apply_alloc(&product, v)?.iter().zip(apply_alloc(&exact, v)?) {
///     assert!((x - y).abs() < 1e-12);
/// }
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Martens and Grosse, arXiv:1503.05671; weight sharing: Eschenhagen et al., arXiv:2311.00636.
#[derive(Debug, Clone)]
pub struct Kfac<T, F> {
    blocks: Blocks<T>,
    fisher: PhantomData<F>,
}

impl<T: Real, F: Fisher> Kfac<T, F> {
    /// The eigendecomposition of every layer's covariances, in f64. Cost: `9 (I^3 + O^3)` flops a layer.
    ///
    /// # Errors
    /// [`Error::Block`] with the layer's name around [`Empty`](ascribe_core::Error::Empty) before any example, or what
    /// [`EigenBlock::kronecker`] says.
    pub fn new<S: Real>(covariances: &Covariances<S, F>, par: Parallelism) -> Result<Self, Error> {
        let block = |(name, layer): (&str, &LayerCovariance<S, F>)| {
            let named = |error: Error| error.in_block(name);
            let (a, g) = (layer.factor_a().map_err(named)?, layer.factor_g().map_err(named)?);
            let (cols, rows) = (layer.shape().weight_cols(), layer.shape().d_out);
            EigenBlock::kronecker(name, MatRef::new(&a, cols, cols)?, MatRef::new(&g, rows, rows)?, par)
        };
        let blocks = covariances.iter().map(block).collect::<Result<_, _>>()?;
        Ok(Self { blocks: Blocks::new(blocks), fisher: PhantomData })
    }

    /// K-FAC of a network at the parameters and on the data of `lin`: one pass. The layers are named by their numbers,
    /// and the curvature is that of a sum or a mean over the examples as `lin` has it.
    ///
    /// # Errors
    /// As [`Kfac::new`]; [`Parameter`](ascribe_core::Error::Parameter) for no samples.
    pub fn of(lin: &Linearized<'_, T>, fisher: &F) -> Result<Self, Error> {
        let mut kfac = Self::new(&Covariances::<f64, F>::of(lin, fisher)?, lin.parallelism())?;
        kfac.blocks.scale(lin.examples() as f64 * lin.scale().to_f64())?;
        Ok(kfac)
    }

    /// The layers' blocks: inverses and other functions are theirs.
    pub fn blocks(&self) -> &Blocks<T> {
        &self.blocks
    }
}

impl<S: Real, F: Fisher> Covariances<S, F> {
    /// The covariances of a network's layers, named by their numbers: one pass over the data of `lin`.
    ///
    /// # Errors
    /// [`Error::Block`] with the layer's number around [`NonFinite`](ascribe_core::Error::NonFinite);
    /// [`Parameter`](ascribe_core::Error::Parameter) for no samples.
    pub fn of<T: Real>(lin: &Linearized<'_, T>, fisher: &F) -> Result<Self, Error> {
        let mut covariances = Self::default();
        for (l, layer) in lin.network().layers().iter().enumerate() {
            let shape = LayerShape { d_in: layer.inputs, d_out: layer.outputs, bias: layer.bias };
            let layer = LayerCovariance::new(shape, Sharing::Expand, Count::Example, lin.parallelism())?;
            covariances.insert(l.to_string(), layer)?;
        }
        each_record(lin, fisher, 0, |l, record, more| covariances.add(l, record, more))?;
        Ok(covariances)
    }
}

/// EKFAC: K-FAC's eigenbasis with the eigenvalues that are right for it, the second moments of the gradients.
///
/// # Examples
/// ```
/// use ascribe_core::{MatRef, derivative::Reduction};
/// use ascribe_solvers::{curvature::*, inverse::*, network::*, parallel::Parallelism};
/// let net = Mlp::new(&[2, 3, 2], Activation::Tanh, Loss::CrossEntropy)?;
/// let theta: Vec<f64> = (0..net.params()).map(|i| (i as f64).sin()).collect();
/// let (x, labels) = (MatRef::new(&[0.5, -1.0, 2.0, 0.1], 2, 2)?, [0, 1]);
/// let data = Linearized::new(&net, &theta, x, Targets::Classes(&labels), Reduction::Mean, Parallelism::Serial)?;
/// let ekfac = Ekfac::of(&data, &Type2)?;
/// // EKFAC's damped inverse as the preconditioner of CG on the Gauss-Newton matrix.
/// let (inverse, curvature) = (ekfac.blocks().inverse(Damping::Absolute(0.01), Parallelism::Serial)?, data.gauss_newton());
/// let solver = Cg { damping: 0.01, ..Cg::default() }.prepare_with(&curvature, &inverse)?;
/// assert_eq!(solver.dim(), net.params());
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// George et al., arXiv:1806.03884; for influence: Grosse et al., arXiv:2308.03296.
#[derive(Debug, Clone)]
pub struct Ekfac<T, F> {
    blocks: Blocks<T>,
    fisher: PhantomData<F>,
}

impl<T: Real, F: Fisher> Ekfac<T, F> {
    /// The blocks whose corrections have been accumulated, in the order of the layers.
    ///
    /// # Errors
    /// As [`EigenvalueCorrection::finish`].
    pub fn new(corrections: &[EigenvalueCorrection<'_, T, F>]) -> Result<Self, Error> {
        let blocks = corrections.iter().map(EigenvalueCorrection::finish).collect::<Result<_, _>>()?;
        Ok(Self { blocks: Blocks::new(blocks), fisher: PhantomData })
    }

    /// EKFAC of a network at the parameters and on the data of `lin`: two passes, K-FAC's and [`Ekfac::correct`].
    ///
    /// # Errors
    /// As [`Kfac::of`].
    pub fn of(lin: &Linearized<'_, T>, fisher: &F) -> Result<Self, Error> {
        Self::correct(&Kfac::of(lin, fisher)?, lin, fisher)
    }

    /// The correction of K-FAC's eigenvalues by a pass over the data of `lin`, whose targets are sampled anew.
    ///
    /// # Errors
    /// As [`EigenvalueCorrection::add`]; a shape error when the network has other layers.
    pub fn correct(kfac: &Kfac<T, F>, lin: &Linearized<'_, T>, fisher: &F) -> Result<Self, Error> {
        let layers = kfac.blocks.layers();
        check_shape("layers of the network", layers.len(), lin.network().layers().len())?;
        let mut corrections: Vec<_> =
            layers.iter().map(|block| EigenvalueCorrection::new(block, lin.parallelism())).collect();
        each_record(lin, fisher, 1, |l, record, more| corrections[l].add(record, more))?;
        let mut ekfac = Self::new(&corrections)?;
        ekfac.blocks.scale(lin.examples() as f64 * lin.scale().to_f64())?;
        Ok(ekfac)
    }

    /// The layers' blocks: inverses and other functions are theirs.
    pub fn blocks(&self) -> &Blocks<T> {
        &self.blocks
    }
}

/// Calls `f(layer, record, more)` with the output gradients of a law for every layer of every block of examples of a
/// network: `record` has the first draw and `more` the others, as
/// [`LayerCovariance::add`](super::LayerCovariance::add) and [`EigenvalueCorrection::add`] take them. Passes of
/// different numbers draw their samples independently.
///
/// # Errors
/// Those of `f`; [`Parameter`](ascribe_core::Error::Parameter) for no samples.
pub fn each_record<T: Real, F: Fisher>(
    lin: &Linearized<'_, T>,
    fisher: &F,
    pass: u64,
    f: impl FnMut(usize, &LayerRecord<'_, T>, &[MatRef<'_, T>]) -> Result<(), Error>,
) -> Result<(), Error> {
    lin.cotangent_records(fisher.draws(lin)?, |n, out| fisher.output_gradients(lin, pass, n, out), f)
}
