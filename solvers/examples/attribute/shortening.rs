//! How the gradients of a network are shortened, layer by layer: which sketch, and how large. Who computes it is up to
//! the [`Device`](crate::device::Device).

use ascribe_core::random::Stream;
use ascribe_core::sketch::{
    FactGrass, Grass, LoGra, Mask, MaskScale, Rademacher, Scale, Sjlt, SjltTable, random_projection,
};
use ascribe_core::{Error as CoreError, LinOp, MatMut, MatRef};
use ascribe_solvers::Error;
use ascribe_solvers::curvature::{Covariances, Empirical};
use ascribe_solvers::network::{Layer, Linearized, Mlp};
use ascribe_solvers::sketch::Pca;

/// How gradients are shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortening {
    Sjlt,
    Rademacher,
    /// SJLT of a mask four times as long.
    Grass,
    /// SJLT of the masked gradients of layers.
    FactGrass,
    /// Random projections of both sides of the layers' gradients.
    LoGra,
    /// Projections onto the leading eigenvectors of the layers' covariances.
    LoGraPca,
}

/// Coordinates that a mask keeps for each number of the sketch.
const KEPT: usize = 4;

/// The sketch of one layer's gradients.
#[derive(Debug, Clone)]
pub(crate) enum LayerSketch {
    Sjlt(SjltTable),
    Grass(Grass<Vec<usize>, SjltTable>),
    /// The columns of random signs that begin at the given one.
    Signs(Rademacher, usize),
    FactGrass(FactGrass<Vec<usize>, SjltTable>),
    LoGra(Projections),
}

/// What [`LoGra`] projects the two sides of a layer's gradient with.
#[derive(Debug, Clone)]
pub(crate) struct Projections {
    pub(crate) p_out: Vec<f32>,
    pub(crate) p_in: Vec<f32>,
    /// The rows of both.
    pub(crate) sides: [usize; 2],
    /// Whether the last column of `p_in` belongs to the bias.
    pub(crate) bias: bool,
}

impl Projections {
    pub(crate) fn logra(&self) -> Result<LoGra<'_, f32>, CoreError> {
        let [out, inputs] = self.sides;
        let (d_out, weight_cols) = (self.p_out.len() / out, self.p_in.len() / inputs);
        LoGra::new(MatRef::new(&self.p_out, out, d_out)?, MatRef::new(&self.p_in, inputs, weight_cols)?)
    }
}

impl LayerSketch {
    /// The length of a sketch.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Sjlt(table) => LinOp::<f32>::dim_out(table),
            Self::Grass(grass) => LinOp::<f32>::dim_out(grass),
            Self::Signs(signs, _) => signs.rows(),
            Self::FactGrass(sketch) => LinOp::<f32>::dim_out(sketch.sjlt()),
            Self::LoGra(projections) => projections.sides.iter().product(),
        }
    }
}

impl Shortening {
    /// Sketches of about `length` numbers in all, an equal part of them for each layer.
    pub(crate) fn layers(
        self,
        lin: &Linearized<'_, f32>,
        length: usize,
        stream: Stream,
    ) -> Result<Vec<LayerSketch>, Error> {
        let layers = lin.network().layers();
        let each = (length / layers.len()).max(1);
        // Only one way looks at the data.
        let covariances = match self {
            Self::LoGraPca => Some(Covariances::<f64, _>::of(lin, &Empirical)?),
            _ => None,
        };
        let covariance = |l: usize| covariances.as_ref().and_then(|all| all.iter().nth(l)).map(|(_, layer)| layer);
        let sketch = |(l, layer): (usize, &Layer)| -> Result<LayerSketch, Error> {
            let stream = stream.child(l as u64);
            match (self, covariance(l)) {
                (Self::Sjlt, None) => Ok(LayerSketch::Sjlt(sjlt(layer.len(), each, stream)?)),
                (Self::Rademacher, None) => {
                    let signs = Rademacher::from_key(stream.key(), each, layer.len(), Scale::InvSqrtRows)?;
                    Ok(LayerSketch::Signs(signs, 0))
                }
                (Self::Grass, None) => {
                    let mask = mask(layer.len(), KEPT * each, stream.child(0))?;
                    let table = sjlt(mask.indices().len(), each, stream.child(1))?;
                    Ok(LayerSketch::Grass(Grass::new(mask, table)?))
                }
                (Self::FactGrass, None) => fact_grass(layer, each, stream),
                (Self::LoGra | Self::LoGraPca, None) => logra(layer, each, stream),
                (_, Some(covariance)) => {
                    let sides = sides(layer, each);
                    let pca = Pca::<f32>::new(covariance, sides[0], sides[1], lin.parallelism())?;
                    let [p_out, p_in] = [pca.logra()?.p_out(), pca.logra()?.p_in()].map(|p| p.as_span().to_vec());
                    Ok(LayerSketch::LoGra(Projections { p_out, p_in, sides, bias: layer.bias }))
                }
            }
        };
        layers.iter().enumerate().map(sketch).collect()
    }
}

/// Random signs over all parameters: each layer has its columns of one matrix, and the sketches add up.
pub(crate) fn over_all_layers(net: &Mlp, length: usize, stream: Stream) -> Result<Vec<LayerSketch>, Error> {
    let signs = Rademacher::from_key(stream.key(), length, net.params(), Scale::InvSqrtRows)?;
    Ok(net.layers().iter().map(|layer| LayerSketch::Signs(signs, layer.offset)).collect())
}

fn sjlt(from: usize, to: usize, stream: Stream) -> Result<SjltTable, Error> {
    Ok(SjltTable::draw(&Sjlt::new(from, to, 1, stream)?)?)
}

/// `kept` of `from` coordinates, or all.
fn mask(from: usize, kept: usize, stream: Stream) -> Result<Mask<Vec<usize>>, Error> {
    Ok(Mask::random(from, kept.min(from), MaskScale::Unbiased, stream)?)
}

/// Outputs and inputs that make `count` entries of a layer's gradient, as nearly square as the layer lets them be.
fn sides(layer: &Layer, count: usize) -> [usize; 2] {
    let (outputs, inputs) = (layer.outputs, layer.inputs + usize::from(layer.bias));
    let side = count.isqrt().max(1);
    let out = side.min(outputs);
    [out, (count / out).clamp(1, inputs).min(if out < side { inputs } else { side })]
}

fn fact_grass(layer: &Layer, length: usize, stream: Stream) -> Result<LayerSketch, Error> {
    let [out, inputs] = sides(layer, KEPT * length);
    let mask_out = mask(layer.outputs, out, stream.child(0))?;
    let mask_in = mask(layer.inputs + usize::from(layer.bias), inputs, stream.child(1))?;
    let table = sjlt(out * inputs, length.min(out * inputs), stream.child(2))?;
    Ok(LayerSketch::FactGrass(FactGrass::new(mask_out, mask_in, table)?))
}

fn logra(layer: &Layer, length: usize, stream: Stream) -> Result<LayerSketch, Error> {
    let (sides, weight_cols) = (sides(layer, length), layer.inputs + usize::from(layer.bias));
    let (mut p_out, mut p_in) = (vec![0.0; sides[0] * layer.outputs], vec![0.0; sides[1] * weight_cols]);
    random_projection(MatMut::new(&mut p_out, sides[0], layer.outputs)?, stream.child(0));
    random_projection(MatMut::new(&mut p_in, sides[1], weight_cols)?, stream.child(1));
    Ok(LayerSketch::LoGra(Projections { p_out, p_in, sides, bias: layer.bias }))
}
