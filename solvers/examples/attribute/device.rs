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

/// Numbers in the rows that are scored at once, 128 MiB: the gradients of all images may not fit into a memory.
const BLOCK: usize = 1 << 25;

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
        let (mut scores, mut numbers) = (Vec::with_capacity(rows * q), Vec::new());
        let mut blocks = |score: &mut dyn FnMut(MatRef<'_, f32>) -> Result<(), Failure>| {
            let most = (BLOCK / dim.max(1)).max(1);
            (0..rows).step_by(most).try_for_each(|start| {
                let len = most.min(rows - start);
                numbers.resize(len * dim, 0.0);
                fill(start, MatMut::new(&mut numbers, len, dim)?)?;
                score(MatRef::new(&numbers, len, dim)?)
            })
        };
        match self {
            &Self::Cpu(par) => {
                let scorer = Scorer { similarity, par, ..Scorer::default() };
                blocks(&mut |block| {
                    let done = scores.len();
                    scores.resize(done + block.rows() * q, 0.0);
                    Ok(scorer.scores(MatMut::new(&mut scores[done..], block.rows(), q)?, &block, queries)?)
                })?;
            }
            Self::Gpu(gpu) => {
                let mut scored = gpu::scorer(gpu, similarity, queries)?;
                blocks(&mut |block| {
                    scores.extend(scored.push(block)?.into_iter().flatten());
                    Ok(())
                })?;
                while let Some(last) = scored.pop()? {
                    scores.extend(last);
                }
            }
        }
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
