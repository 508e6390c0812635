//! Where sketches and scores are computed: by the processor, or by a GPU, with the same results but for rounding.
//!
//! The rest of a method, from training to solving, is the processor's either way.

use std::error::Error;

use ascribe_core::record::LayerRecord;
use ascribe_core::score::Similarity;
use ascribe_core::{MatMut, MatRef, Real, Scalar};
use ascribe_gpu::Gpu;
use ascribe_solvers::attribution::{Effect, Influence};
use ascribe_solvers::network::Linearized;
use ascribe_solvers::parallel::Parallelism;
use ascribe_solvers::score::Scorer;
use ascribe_solvers::sketch::{apply_rows, project_columns, sketch_records};

use crate::gpu;
use crate::options::{DeviceKind, Options};
use crate::shortening::LayerSketch;

/// Why a method gave no scores: what a solver or a GPU said.
pub(crate) type Failure = Box<dyn Error>;

/// What takes the records of a layer to sketches of its gradients, one a row of a matrix of zeros.
pub(crate) type OfRecords = Box<dyn Fn(MatMut<'_, f32>, &LayerRecord<'_, f32>) -> Result<(), Failure>>;

/// What looks at a block of rows.
pub(crate) type Visitor<'a> = dyn FnMut(MatRef<'_, f32>) -> Result<(), Failure> + 'a;

/// Numbers in the rows that are scored at once, 128 MiB: the gradients of all images may not fit into a memory. Few in
/// tests, where small matrices are to be cut too.
const BLOCK: usize = if cfg!(test) { 64 } else { 1 << 25 };

#[derive(Debug, Clone)]
pub(crate) enum Device {
    Cpu(Parallelism),
    Gpu(Gpu),
}

impl Device {
    /// The one that was asked for.
    pub(crate) fn open(options: &Options) -> Result<Self, String> {
        match options.device {
            DeviceKind::Cpu => Ok(Self::Cpu(Parallelism::threads(options.threads))),
            DeviceKind::Gpu => Gpu::new()
                .map(Self::Gpu)
                .map_err(|why| format!("--device gpu does not work here: {why}; --device cpu goes on without")),
        }
    }

    /// What a reader calls it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => "the processor",
            Self::Gpu(gpu) => &gpu.capabilities().name,
        }
    }

    /// A sketch, ready to be applied.
    pub(crate) fn prepare(&self, sketch: LayerSketch) -> Result<OfRecords, Failure> {
        let par = match self {
            Self::Gpu(gpu) => return gpu::prepare(gpu, sketch),
            &Self::Cpu(par) => par,
        };
        Ok(match sketch {
            LayerSketch::Sjlt(table) => formed(move |out, x| Ok(apply_rows(out, &table, x, par)?)),
            LayerSketch::Grass(grass) => formed(move |out, x| Ok(apply_rows(out, &grass, x, par)?)),
            LayerSketch::Signs(signs, column) => {
                formed(move |out, x| Ok(project_columns(out, &signs, x, column, par)?))
            }
            LayerSketch::FactGrass(sketch) => {
                Box::new(move |out, record| Ok(sketch_records(out, &sketch, record, par)?))
            }
            LayerSketch::LoGra(projections) => {
                Box::new(move |out, record| Ok(sketch_records(out, &projections.logra()?, record, par)?))
            }
        })
    }

    /// Scores `[rows, queries]` of rows that `fill` makes, those from a given one on at a time.
    pub(crate) fn scores(
        &self,
        similarity: Similarity,
        rows: usize,
        queries: MatRef<'_, f32>,
        fill: impl Fn(usize, MatMut<'_, f32>) -> Result<(), Failure>,
    ) -> Result<Vec<f32>, Failure> {
        let (q, dim) = (queries.rows(), queries.cols());
        let blocks = |visit: &mut Visitor<'_>| {
            let (most, mut numbers) = ((BLOCK / dim.max(1)).max(1), Vec::new());
            (0..rows).step_by(most).try_for_each(|start| {
                let len = most.min(rows - start);
                numbers.resize(len * dim, 0.0);
                fill(start, MatMut::new(&mut numbers, len, dim)?)?;
                visit(MatRef::new(&numbers, len, dim)?)
            })
        };
        let par = match self {
            Self::Gpu(gpu) => return gpu::scores(gpu, similarity, queries, blocks),
            &Self::Cpu(par) => par,
        };
        let (scorer, mut scores) = (Scorer { similarity, par, ..Scorer::default() }, Vec::new());
        blocks(&mut |block| {
            let done = scores.len();
            scores.resize(done + block.rows() * q, 0.0);
            Ok(scorer.scores(MatMut::new(&mut scores[done..], block.rows(), q)?, &block, queries)?)
        })?;
        Ok(scores)
    }

    /// Inner products `[rows, queries]` of rows that are there.
    pub(crate) fn products(&self, rows: MatRef<'_, f32>, queries: MatRef<'_, f32>) -> Result<Vec<f32>, Failure> {
        self.scores(Similarity::Dot, rows.rows(), queries, |start, mut block| {
            let len = block.rows();
            Ok(block.copy_from(rows.row_range(start, len)?)?)
        })
    }

    /// Influence `[train, queries]` of more weight for each training image, from the solved queries.
    pub(crate) fn influence<T: Real>(
        &self,
        train: &Linearized<'_, T>,
        solved: MatRef<'_, T>,
    ) -> Result<Vec<f64>, Failure> {
        let (n, q, dim) = (train.examples(), solved.rows(), solved.cols());
        let influence = Influence { effect: Effect::Upweight, per_example: true };
        if let Self::Cpu(_) = self {
            let mut scores = vec![T::ZERO; n * q];
            influence.scores_of_solved(MatMut::new(&mut scores, n, q)?, train, solved)?;
            return Ok(scores.into_iter().map(Scalar::to_f64).collect());
        }
        // A GPU computes in f32, whatever the solver computed in.
        let queries: Vec<f32> = solved.row_iter().flatten().map(|x| x.to_f64() as f32).collect();
        let scores = self.scores(Similarity::Dot, n, MatRef::new(&queries, q, dim)?, |start, mut block| {
            let mut gradients = vec![T::ZERO; block.rows() * dim];
            train.example_gradients(start, MatMut::new(&mut gradients, block.rows(), dim)?)?;
            block.for_each_row(|i, row| {
                row.iter_mut().zip(&gradients[i * dim..]).for_each(|(to, x)| *to = x.to_f64() as f32);
            });
            Ok(())
        })?;
        let factor = influence.factor(n);
        Ok(scores.into_iter().map(|score| factor * f64::from(score)).collect())
    }
}

/// A sketch of flat gradients, which are formed for it.
pub(crate) fn formed(sketch: impl Fn(MatMut<'_, f32>, MatRef<'_, f32>) -> Result<(), Failure> + 'static) -> OfRecords {
    Box::new(move |out, record| {
        let (rows, dim) = (record.examples(), record.dim());
        let mut gradients = vec![0.0; rows * dim];
        record.gradients(MatMut::new(&mut gradients, rows, dim)?)?;
        sketch(out, MatRef::new(&gradients, rows, dim)?)
    })
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::sync::LazyLock;

    use ascribe_core::derivative::Reduction;
    use ascribe_core::random::Stream;
    use ascribe_core::sketch::{FactGrass, Grass, Mask, MaskScale, Rademacher, Scale, Sjlt, SjltTable};
    use ascribe_solvers::network::{Activation, Loss, Mlp, Targets};

    use super::*;
    use crate::shortening::Projections;

    /// Both, or the processor alone where there is no GPU and none is required.
    fn devices() -> Vec<Device> {
        static GPU: LazyLock<Option<Gpu>> = LazyLock::new(|| match Gpu::new() {
            Ok(gpu) => Some(gpu),
            Err(why) if env::var_os("ASCRIBE_REQUIRE_GPU").is_none_or(|required| required != "1") => {
                eprintln!("SKIPPED: {why}");
                None
            }
            Err(why) => panic!("ASCRIBE_REQUIRE_GPU=1, but {why}"),
        });
        [Device::Cpu(Parallelism::Serial)].into_iter().chain(GPU.clone().map(Device::Gpu)).collect()
    }

    /// Whole numbers from -4 to 4: their sums of products are exact in f32, in whatever order.
    fn whole_numbers(count: usize) -> Vec<f32> {
        (0..count as u16).map(|i| f32::from(i * 7 % 9) - 4.0).collect()
    }

    /// The sketches by that device of the gradients of five images in a layer of 3 inputs with a bias and 4 outputs.
    fn sketches(device: &Device, sketch: LayerSketch) -> Vec<f32> {
        let (x, delta) = (whole_numbers(5 * 3), whole_numbers(5 * 4));
        let (x, delta) = (MatRef::new(&x, 5, 3).unwrap(), MatRef::new(&delta, 5, 4).unwrap());
        let record = LayerRecord::new(5, x, delta, None, true).unwrap();
        // Among columns of others.
        let (width, mut out) = (sketch.width(), vec![0.0; 5 * 20]);
        let columns = MatMut::new(&mut out, 5, 20).unwrap().block(0, 5, 1, width).unwrap();
        device.prepare(sketch).unwrap()(columns, &record).unwrap();
        out
    }

    #[test]
    fn a_sketch_is_the_same_on_every_device() {
        let sjlt =
            |from, to| SjltTable::draw(&Sjlt::new(from, to, 1, Stream::new(0, "attribute.sketch")).unwrap()).unwrap();
        let mask = |kept: &[usize], from| Mask::new(kept.to_vec(), from, MaskScale::None).unwrap();
        // The square root of 4 rows is exact.
        let signs = Rademacher::new("attribute.sketch", 4, 100, Scale::InvSqrtRows).unwrap();
        let all = [
            LayerSketch::Sjlt(sjlt(16, 5)),
            LayerSketch::Grass(Grass::new(mask(&[0, 3, 7, 8, 15], 16), sjlt(5, 3)).unwrap()),
            LayerSketch::Signs(signs, 37),
            LayerSketch::FactGrass(FactGrass::new(mask(&[1, 2, 3], 4), mask(&[0, 3], 4), sjlt(6, 2)).unwrap()),
            LayerSketch::LoGra(Projections {
                p_out: whole_numbers(2 * 4),
                p_in: whole_numbers(3 * 4),
                sides: [2, 3],
                bias: true,
            }),
        ];
        for sketch in all {
            let results: Vec<_> = devices().iter().map(|device| sketches(device, sketch.clone())).collect();
            assert!(results[0].iter().any(|&x| x != 0.0), "{sketch:?}");
            assert!(results.iter().all(|result| *result == results[0]), "{sketch:?}: {results:?}");
        }
    }

    #[test]
    fn scores_are_those_of_core_in_blocks_too() {
        let (n, q, dim) = (7, 2, 20);
        let (rows, queries) = (whole_numbers(n * dim), whole_numbers(q * dim));
        let (rows, queries) = (MatRef::new(&rows, n, dim).unwrap(), MatRef::new(&queries, q, dim).unwrap());
        for similarity in [Similarity::Dot, Similarity::Cosine] {
            let (mut expected, mut scratch) = (vec![0.0; n * q], vec![0.0; q]);
            similarity.scores(MatMut::new(&mut expected, n, q).unwrap(), rows, queries, &mut scratch).unwrap();
            // Products are exact. Of a cosine by a processor, the product is off by d u, each norm by (d / 2 + 1) u and each
            // division by u; of one by a GPU, each unit vector by 22.5 u and their product by (d + 3) u.
            let (d, u) = (dim as f32, f32::EPSILON / 2.0);
            let tolerance = if similarity == Similarity::Dot {
                0.0
            } else {
                (2.0 * d + 4.0 + f32::max(2.0 * d + 4.0, d + 48.0)) * u
            };
            for device in devices() {
                let fill = |start, mut block: MatMut<'_, f32>| {
                    let len = block.rows();
                    Ok(block.copy_from(rows.row_range(start, len)?)?)
                };
                let scores = device.scores(similarity, n, queries, fill).unwrap();
                assert_eq!(scores.len(), expected.len());
                let off = scores.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(off <= tolerance, "{}, {similarity:?}: off by {off}: {scores:?}, {expected:?}", device.name());
            }
        }
    }

    #[test]
    fn influence_is_the_same_on_every_device() {
        let net = Mlp::new(&[3, 2], Activation::Identity, Loss::HalfMse).unwrap();
        let numbers = |count| whole_numbers(count).into_iter().map(f64::from).collect::<Vec<_>>();
        let (params, x, y, solved) = (numbers(8), numbers(16 * 3), numbers(16 * 2), numbers(3 * 8));
        let (x, y) = (MatRef::new(&x, 16, 3).unwrap(), MatRef::new(&y, 16, 2).unwrap());
        let (mean, solved) = (Reduction::Mean, MatRef::new(&solved, 3, 8).unwrap());
        let train = Linearized::new(&net, &params, x, Targets::Values(y), mean, Parallelism::Serial).unwrap();
        let results: Vec<_> = devices().iter().map(|device| device.influence(&train, solved).unwrap()).collect();
        assert!(results[0].len() == 16 * 3 && results[0].iter().any(|&x| x != 0.0));
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    }
}
