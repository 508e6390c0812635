//! Every kernel at a few sizes, for the tables here and for the page of `tests/web`.

use ascribe_core::quantize::half::encode_f16;
use ascribe_core::sketch::{self, LoGra, Mask, MaskScale, Normals, Scale, Signs, Sjlt, SjltTable};
use ascribe_core::{MatRef, random::Stream};
use ascribe_gpu::{
    EigenFunction, Element, Error, FactGrass, Gpu, LayerRecord, Matrix, Recorder, Scorer, SjltBuckets, Srht, StoredRows,
};

use crate::Failure;
use crate::failure::fail;
use crate::measure::uniform;

/// Records one operation on matrices that are on the device already.
pub(super) type Operation = Box<dyn Fn(&mut Recorder) -> Result<(), Error>>;

/// A kernel at a size.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) sizes: &'static [&'static str],
    /// The sizes of the published comparisons.
    pub(super) published: &'static [usize],
    /// Sizes that keep a GPU busy for about a millisecond, for a browser.
    page: &'static [usize],
    /// Sizes for a device that is played by the processor.
    pub(super) small: &'static [usize],
    pub(super) prepare: fn(On<'_>, &[usize]) -> Result<Operation, Failure>,
}

/// Every kernel, in the order of the table.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "gemm",
        sizes: &["m", "n", "k"],
        published: &[4096, 4096, 4096],
        page: &[1024, 1024, 1024],
        small: &[128, 128, 128],
        prepare: |on, sizes| {
            let &[m, n, k] = sizes else { return fail("three sizes") };
            let (a, b) = (on.matrix(0, m, k)?, on.matrix(1, k, n)?);
            Ok(Box::new(move |recorder| recorder.gemm(1.0, &a, &b).map(drop)))
        },
    },
    Case {
        name: "rademacher",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        page: &[32, 65536, 512],
        small: &[16, 4096, 64],
        prepare: |on, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let (x, sketch) =
                (on.matrix(0, n, p)?, sketch::Projection::<Signs>::new("measure", k, p, Scale::InvSqrtRows)?);
            Ok(Box::new(move |recorder| recorder.rademacher(&sketch, &x).map(drop)))
        },
    },
    Case {
        name: "sjlt",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        page: &[32, 1 << 20, 4096],
        small: &[16, 10_000, 256],
        prepare: |on, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let table = SjltTable::draw(&Sjlt::new(p, k, 1, Stream::new(0, "sjlt"))?)?;
            let (x, sjlt) = (on.matrix(0, n, p)?, SjltBuckets::upload(on.gpu, &table.by_bucket()?)?);
            Ok(Box::new(move |recorder| recorder.sjlt(&sjlt, &x).map(drop)))
        },
    },
    Case {
        name: "grass",
        sizes: &["rows", "p", "kept", "k"],
        published: &[64, 1_000_000, 16384, 4096],
        page: &[32, 1 << 20, 16384, 4096],
        small: &[16, 10_000, 1024, 256],
        prepare: |on, sizes| {
            let &[n, p, kept, k] = sizes else { return fail("four sizes") };
            let table = SjltTable::draw(&Sjlt::new(kept, k, 1, Stream::new(0, "sjlt"))?)?;
            let mask = Mask::random(p, kept, MaskScale::None, Stream::new(0, "mask"))?;
            let (x, grass) = (on.matrix(0, n, p)?, SjltBuckets::grass(on.gpu, &sketch::Grass::new(mask, table)?)?);
            Ok(Box::new(move |recorder| recorder.sjlt(&grass, &x).map(drop)))
        },
    },
    Case {
        name: "fact_grass",
        sizes: &["examples", "positions", "width", "kept", "k"],
        published: &[32, 128, 768, 128, 4096],
        page: &[32, 64, 1024, 128, 4096],
        small: &[4, 16, 64, 16, 64],
        prepare: |on, sizes| {
            let &[n, t, d, kept, k] = sizes else { return fail("five sizes") };
            let mask = |name| Mask::random(d, kept, MaskScale::None, Stream::new(0, name));
            let table = SjltTable::draw(&Sjlt::new(kept * kept, k, 1, Stream::new(0, "sjlt"))?)?;
            let sketch = FactGrass::upload(on.gpu, &sketch::FactGrass::new(mask("out")?, mask("in")?, table)?)?;
            let record = on.layer(n, t, d)?;
            Ok(Box::new(move |recorder| recorder.fact_grass(&sketch, &record).map(drop)))
        },
    },
    Case {
        name: "logra",
        sizes: &["examples", "positions", "width", "rank"],
        published: &[32, 128, 768, 64],
        page: &[32, 64, 1024, 64],
        small: &[4, 16, 64, 8],
        prepare: |on, sizes| {
            let &[n, t, d, rank] = sizes else { return fail("four sizes") };
            let (p_in, p_out): (Vec<f32>, Vec<f32>) = (uniform(0, 2, &[rank, d])?, uniform(0, 3, &[rank, d])?);
            let logra = LoGra::new(MatRef::new(&p_out, rank, d)?, MatRef::new(&p_in, rank, d)?)?;
            let (logra, record) = (ascribe_gpu::LoGra::upload(on.gpu, &logra, false)?, on.layer(n, t, d)?);
            Ok(Box::new(move |recorder| recorder.logra(&logra, &record).map(drop)))
        },
    },
    Case {
        name: "gaussian",
        sizes: &["rows", "p", "k"],
        published: &[64, 100_000, 512],
        page: &[32, 65536, 512],
        small: &[16, 2048, 64],
        prepare: |on, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let x = on.matrix(0, n, p)?;
            let sketch = sketch::Projection::<Normals>::new("measure", k, p, Scale::InvSqrtRows)?;
            Ok(Box::new(move |recorder| recorder.gaussian(&sketch, &x).map(drop)))
        },
    },
    Case {
        name: "srht",
        sizes: &["rows", "p", "k"],
        published: &[64, 1_000_000, 4096],
        page: &[64, 65536, 4096],
        small: &[16, 10_000, 256],
        prepare: |on, sizes| {
            let &[n, p, k] = sizes else { return fail("three sizes") };
            let srht = sketch::Srht::draw(Stream::new(0, "srht"), p, k)?;
            let (x, srht) = (on.matrix(0, n, p)?, Srht::upload(on.gpu, &srht)?);
            Ok(Box::new(move |recorder| recorder.srht(&srht, &x).map(drop)))
        },
    },
    Case {
        name: "mask_gather",
        sizes: &["rows", "p", "kept"],
        published: &[64, 1_000_000, 16384],
        page: &[32, 1 << 20, 1 << 17],
        small: &[16, 10_000, 1024],
        prepare: |on, sizes| {
            let &[n, p, kept] = sizes else { return fail("three sizes") };
            let mask = Mask::random(p, kept, MaskScale::None, Stream::new(0, "mask"))?;
            let (x, mask) = (on.matrix(0, n, p)?, ascribe_gpu::Mask::upload(on.gpu, &mask)?);
            Ok(Box::new(move |recorder| recorder.mask_gather(&mask, &x).map(drop)))
        },
    },
    Case {
        name: "scale",
        sizes: &["rows", "p"],
        published: &[64, 1_000_000],
        page: &[16, 1 << 20],
        small: &[16, 10_000],
        prepare: |on, sizes| {
            let &[n, p] = sizes else { return fail("two sizes") };
            let (x, moments) = (on.matrix(0, n, p)?, on.matrix(1, 1, p)?);
            Ok(Box::new(move |recorder| recorder.adam(&x, &moments, 1e-8).map(drop)))
        },
    },
    Case {
        name: "gram",
        sizes: &["rows", "dim"],
        published: &[4096, 1024],
        page: &[2048, 1024],
        small: &[128, 128],
        prepare: |on, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = on.matrix(0, n, d)?;
            Ok(Box::new(move |recorder| recorder.gram(&x).map(drop)))
        },
    },
    Case {
        name: "normalize",
        sizes: &["rows", "cols"],
        published: &[100_000, 4096],
        page: &[8192, 2048],
        small: &[1000, 256],
        prepare: |on, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = on.matrix(0, n, d)?;
            Ok(Box::new(move |recorder| recorder.normalize(&x).map(drop)))
        },
    },
    Case {
        name: "quantize_int8",
        sizes: &["rows", "cols"],
        published: &[100_000, 4096],
        page: &[8192, 2048],
        small: &[1000, 256],
        prepare: |on, sizes| {
            let &[n, d] = sizes else { return fail("two sizes") };
            let x = on.matrix(0, n, d)?;
            Ok(Box::new(move |recorder| recorder.quantize_int8(&x, BLOCK).map(drop)))
        },
    },
    Case {
        name: "score_top_k",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 1, 100],
        page: &[65536, 256, 1, 10],
        small: &[5000, 64, 1, 10],
        prepare: score_top_k,
    },
    Case {
        name: "score_top_k",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 64, 100],
        page: &[65536, 256, 64, 10],
        small: &[5000, 64, 16, 10],
        prepare: score_top_k,
    },
    Case {
        name: "score_top_k_f16",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 64, 100],
        page: &[65536, 256, 64, 10],
        small: &[5000, 64, 16, 10],
        prepare: |on, sizes| {
            let &[n, d, queries, k] = sizes else { return fail("four sizes") };
            let (x, y) = (on.halves(0, n, d)?, on.matrix(1, queries, d)?);
            Ok(Box::new(move |recorder| {
                let mut best = recorder.selection(queries, k, 0)?;
                recorder.score_top_k(&mut best, 0, StoredRows::F16(&x), &y, &Scorer::default())
            }))
        },
    },
    Case {
        name: "score_top_k_int8",
        sizes: &["n", "d", "queries", "k"],
        published: &[100_000, 4096, 64, 100],
        page: &[65536, 256, 64, 10],
        small: &[5000, 64, 16, 10],
        prepare: |on, sizes| {
            let &[n, d, queries, k] = sizes else { return fail("four sizes") };
            let (x, y) = (on.matrix(0, n, d)?, on.matrix(1, queries, d)?);
            let mut recorder = on.gpu.record();
            let rows = recorder.quantize_int8(&x, BLOCK)?;
            recorder.submit()?.wait()?;
            Ok(Box::new(move |recorder| {
                let mut best = recorder.selection(queries, k, 0)?;
                recorder.score_top_k(&mut best, 0, &rows, &y, &Scorer::default())
            }))
        },
    },
    Case {
        name: "kronecker_apply",
        sizes: &["gradients", "rows", "cols"],
        published: &[64, 768, 768],
        page: &[8, 256, 256],
        small: &[4, 64, 64],
        prepare: |on, sizes| {
            let &[n, rows, cols] = sizes else { return fail("three sizes") };
            let (left, right) = (on.matrix(0, rows, rows)?, on.matrix(1, cols, cols)?);
            let function = EigenFunction::new(Some(left), Some(right), on.matrix(2, rows, cols)?)?;
            let v = on.matrix(3, n, rows * cols)?;
            Ok(Box::new(move |recorder| recorder.kronecker_apply(&function, &v).map(drop)))
        },
    },
    Case {
        name: "newton_schulz",
        sizes: &["rows", "cols"],
        published: &[1024, 1024],
        page: &[512, 512],
        small: &[64, 64],
        prepare: |on, sizes| {
            let &[m, n] = sizes else { return fail("two sizes") };
            let g = on.matrix(0, m, n)?;
            Ok(Box::new(move |recorder| recorder.newton_schulz(&g, &[[1.5, -0.5, 0.0]; 5], 1e-7).map(drop)))
        },
    },
    Case {
        name: "cayley_truncated",
        sizes: &["n"],
        published: &[1024],
        page: &[512],
        small: &[64],
        prepare: |on, sizes| {
            let &[n] = sizes else { return fail("one size") };
            let (b, skew) = (on.matrix(0, n, n)?, on.zeros(n, n)?);
            Ok(Box::new(move |recorder| recorder.cayley_truncated(&b, &skew, 2).map(drop)))
        },
    },
];

fn score_top_k(on: On<'_>, sizes: &[usize]) -> Result<Operation, Failure> {
    let &[n, d, queries, k] = sizes else { return fail("four sizes") };
    let (x, y) = (on.matrix(0, n, d)?, on.matrix(1, queries, d)?);
    Ok(Box::new(move |recorder| {
        let mut best = recorder.selection(queries, k, 0)?;
        recorder.score_top_k(&mut best, 0, &x, &y, &Scorer::default())
    }))
}

/// Columns that share a scale.
const BLOCK: usize = 64;

/// A device, and whether matrices are to hold noise there; if not they are zeros.
#[derive(Clone, Copy)]
pub(super) struct On<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) noise: bool,
}

impl On<'_> {
    /// Numbers that are not negative, so that they are moments too.
    fn matrix(self, stream: u64, rows: usize, cols: usize) -> Result<Matrix<f32>, Failure> {
        if !self.noise {
            return self.zeros(rows, cols);
        }
        let data: Vec<f32> = uniform::<f32>(0, stream, &[rows, cols])?.into_iter().map(f32::abs).collect();
        Ok(self.gpu.upload(MatRef::new(&data, rows, cols)?)?)
    }

    fn halves(self, stream: u64, rows: usize, cols: usize) -> Result<Matrix<u16>, Failure> {
        if !self.noise {
            return self.zeros(rows, cols);
        }
        let mut bits = vec![0; rows * cols];
        encode_f16(&mut bits, &uniform(0, stream, &[rows, cols])?, true)?;
        Ok(self.gpu.upload(MatRef::new(&bits, rows, cols)?)?)
    }

    fn zeros<T: Element>(self, rows: usize, cols: usize) -> Result<Matrix<T>, Failure> {
        let mut recorder = self.gpu.record();
        let x = recorder.zeros(rows, cols)?;
        recorder.submit()?;
        Ok(x)
    }

    /// A record of layers `width x width`.
    fn layer(self, examples: usize, positions: usize, width: usize) -> Result<LayerRecord, Failure> {
        let [x, delta] = [0, 1].map(|stream| self.matrix(stream, examples * positions, width));
        Ok(LayerRecord::new(examples, x?, delta?, None, false)?)
    }
}

impl Case {
    pub(super) fn shown(&self, sizes: &[usize]) -> String {
        self.sizes.iter().zip(sizes).map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" ")
    }
}

/// Each kernel, by name and sizes, recorded on matrices of zeros, which stand for noise: for a page that repeats them.
pub fn recordings(gpu: &Gpu) -> impl Iterator<Item = Result<(String, Recorder), Failure>> {
    CASES.iter().map(move |case| {
        let mut recorder = gpu.record();
        (case.prepare)(On { gpu, noise: false }, case.page)?(&mut recorder)?;
        Ok((format!("{} {}", case.name, case.shown(case.page)), recorder))
    })
}
