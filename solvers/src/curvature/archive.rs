//! Accumulators and blocks as safetensors files: to go on with a long pass later, and to add up what several machines
//! have seen.
//!
//! A file is tensors named `{layer}.{part}` and metadata of strings; sums are kept in their own precision, so what is
//! read back is what was written, bit for bit. Bytes are not trusted: a file that is cut off, of another kind, or
//! that holds what no accumulator can hold is an error.

use std::collections::HashMap;

use ascribe_core::{Error as CoreError, Real};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::covariance::Counts;
use super::gram::Sum;
use super::{
    Basis, Blocks, Count, Covariances, EigenBlock, EigenvalueCorrection, Fisher, LayerCovariance, LayerShape, Sharing,
};
use crate::Error;
use crate::error::check_finite;
use crate::parallel::Parallelism;

/// The version of the format; files of another one are refused.
const VERSION: &str = "1";

impl<S: Real, F: Fisher> Covariances<S, F> {
    /// The covariances as a safetensors file.
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut file = Writer::new("covariances", F::NAME, self.iter().len());
        for (l, (name, layer)) in self.iter().enumerate() {
            let LayerShape { d_in, d_out, bias } = layer.shape();
            let cols = layer.shape().weight_cols();
            file.note(l, "name", name);
            file.note(l, "d_in", d_in);
            file.note(l, "d_out", d_out);
            file.note(l, "bias", bias);
            file.note(l, "sharing", if layer.sharing() == Sharing::Expand { "expand" } else { "reduce" });
            file.note(l, "count", if layer.count() == Count::Example { "example" } else { "position" });
            file.note(l, "examples", layer.examples());
            file.note(l, "positions", layer.positions());
            let [a, g] = layer.sums();
            file.tensor(l, "a", vec![cols, cols], &a.lower);
            file.tensor(l, "g", vec![d_out, d_out], &g.lower);
        }
        file.finish()
    }

    /// The covariances of a file of [`Covariances::to_bytes`], ready to go on or to be merged.
    ///
    /// # Errors
    /// [`Error::Archive`] for anything but such a file of the same law `F` and precision `S`, with the reason;
    /// [`CoreError::NonFinite`] for NaN or infinity in it.
    pub fn from_bytes(bytes: &[u8], par: Parallelism) -> Result<Self, Error> {
        let file = Reader::new(bytes, "covariances", F::NAME)?;
        let mut covariances = Self::new();
        for l in 0..file.layers {
            let shape = LayerShape {
                d_in: file.number(l, "d_in")?,
                d_out: file.number(l, "d_out")?,
                bias: file.number(l, "bias")?,
            };
            let sharing = file.choice(l, "sharing", [("expand", Sharing::Expand), ("reduce", Sharing::Reduce)])?;
            let count = file.choice(l, "count", [("example", Count::Example), ("position", Count::Position)])?;
            let (Some(cols), o) = (shape.d_in.checked_add(usize::from(shape.bias)), shape.d_out) else {
                return Err(CoreError::Overflow { what: "layer" }.into());
            };
            let (a, g) = (file.sum(l, "a", cols)?, file.sum(l, "g", o)?);
            let counts = Counts { examples: file.number(l, "examples")?, positions: file.number(l, "positions")? };
            if counts.examples > counts.positions {
                return Err(Error::Archive { why: "a layer has more examples than positions" });
            }
            let layer = LayerCovariance::from_sums(shape, sharing, count, [a, g], counts, par);
            covariances.insert(file.note(l, "name")?, layer)?;
        }
        Ok(covariances)
    }
}

impl<T: Real> Blocks<T> {
    /// The blocks as a safetensors file: K-FAC or EKFAC, without the data that they came from.
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut file = Writer::new("blocks", "any", self.layers().len());
        for (l, block) in self.layers().iter().enumerate() {
            file.note(l, "name", block.name());
            file.note(l, "rows", block.rows());
            file.note(l, "cols", block.cols());
            for (part, basis) in [("left", block.left()), ("right", block.right())] {
                if let Basis::Columns { dim, vectors } = basis {
                    file.tensor(l, part, vec![*dim, *dim], vectors);
                }
            }
            file.tensor(l, "values", vec![block.rows(), block.cols()], block.values());
            if let Some((left, right)) = block.factors() {
                file.tensor(l, "factor_left", vec![left.len()], left);
                file.tensor(l, "factor_right", vec![right.len()], right);
            }
        }
        file.finish()
    }

    /// The blocks of a file of [`Blocks::to_bytes`]. Whether the bases are orthonormal is not tested.
    ///
    /// # Errors
    /// [`Error::Archive`] for anything but such a file in the precision `T`, with the reason; [`Error::Block`] with a
    /// block's name for NaN, infinity, or a negative eigenvalue in it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let file = Reader::new(bytes, "blocks", "any")?;
        let mut blocks = Vec::new();
        for l in 0..file.layers {
            let (rows, cols): (usize, usize) = (file.number(l, "rows")?, file.number(l, "cols")?);
            let basis = |part, dim| {
                let columns = || Ok::<_, Error>(Basis::Columns { dim, vectors: file.tensor(l, part, &[dim, dim])? });
                if file.has(l, part) { columns() } else { Ok(Basis::Units(dim)) }
            };
            let (left, right) = (basis("left", rows)?, basis("right", cols)?);
            let block =
                EigenBlock::from_parts(file.note(l, "name")?, left, right, file.tensor(l, "values", &[rows, cols])?)?;
            blocks.push(if file.has(l, "factor_left") {
                block.with_factors(file.tensor(l, "factor_left", &[rows])?, file.tensor(l, "factor_right", &[cols])?)?
            } else {
                block
            });
        }
        Ok(Self::new(blocks))
    }
}

impl<'b, T: Real, F: Fisher> EigenvalueCorrection<'b, T, F> {
    /// The sum so far as a safetensors file. The basis is not in it: keep it by [`Blocks::to_bytes`].
    ///
    /// # Errors
    /// [`Error::Archive`] when the bytes do not fit into memory.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut file = Writer::new("eigenvalues", F::NAME, 1);
        file.note(0, "name", self.block().name());
        file.note(0, "basis", fingerprint(self.block()));
        file.note(0, "examples", self.examples());
        file.tensor(0, "sum", vec![self.block().rows(), self.block().cols()], self.sums());
        file.finish()
    }

    /// The sum of a file of [`EigenvalueCorrection::to_bytes`], ready to go on or to be merged.
    ///
    /// # Errors
    /// [`Error::Archive`] for anything but such a file of the same law `F`, with the reason; [`Error::Mismatch`] when it
    /// was begun on another basis than that of `block`; [`CoreError::NonFinite`] for NaN or infinity in it.
    pub fn from_bytes(bytes: &[u8], block: &'b EigenBlock<T>, par: Parallelism) -> Result<Self, Error> {
        let file = Reader::new(bytes, "eigenvalues", F::NAME)?;
        if file.layers != 1 {
            return Err(Error::Archive { why: "one layer is needed" });
        }
        if file.number::<u64>(0, "basis")? != fingerprint(block) {
            return Err(Error::Mismatch { what: "bases of the eigenvalues" });
        }
        let sum = file.tensor::<f64>(0, "sum", &[block.rows(), block.cols()])?;
        if sum.iter().any(|&x| x < 0.0) {
            return Err(Error::Archive { why: "a sum of squares is negative" });
        }
        Ok(Self::resumed(block, sum, file.number(0, "examples")?, par))
    }
}

/// A number that bases which differ in a bit do not share but by chance: FNV-1a over their elements in f64.
fn fingerprint<T: Real>(block: &EigenBlock<T>) -> u64 {
    let (left, right) = (block.left(), block.right());
    let vectors = [left, right].into_iter().flat_map(|basis| match basis {
        Basis::Units(_) => &[][..],
        Basis::Columns { vectors, .. } => vectors,
    });
    let sizes = [left.dim() as u64, right.dim() as u64];
    let bits = sizes.into_iter().chain(vectors.map(|x| x.to_f64().to_bits()));
    bits.flat_map(u64::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A file on its way.
struct Writer {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Writer {
    fn new(kind: &str, fisher: &str, layers: usize) -> Self {
        let notes = [("format", "ascribe"), ("version", VERSION), ("kind", kind), ("fisher", fisher)];
        let mut metadata: HashMap<_, _> = notes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        metadata.insert("layers".to_owned(), layers.to_string());
        Self { metadata, tensors: Vec::new() }
    }

    fn note(&mut self, layer: usize, key: &str, value: impl core::fmt::Display) {
        self.metadata.insert(format!("{layer}.{key}"), format!("{value}"));
    }

    fn tensor<T: Real>(&mut self, layer: usize, part: &str, shape: Vec<usize>, data: &[T]) {
        // f32 is exact in f64, so one way leads to the bytes of both.
        let (dtype, bytes) = if size_of::<T>() == 4 {
            (Dtype::F32, data.iter().flat_map(|x| (x.to_f64() as f32).to_le_bytes()).collect())
        } else {
            (Dtype::F64, data.iter().flat_map(|x| x.to_f64().to_le_bytes()).collect())
        };
        self.tensors.push((format!("{layer}.{part}"), dtype, shape, bytes));
    }

    fn finish(self) -> Result<Vec<u8>, Error> {
        let failed = Error::Archive { why: "it does not fit into memory" };
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(|_| failed.clone())?))
        });
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        safetensors::serialize(views, Some(self.metadata)).map_err(|_| failed)
    }
}

/// A file that has been found to be of the right kind.
struct Reader<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
    layers: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], kind: &str, fisher: &str) -> Result<Self, Error> {
        let no_file = |_| Error::Archive { why: "no safetensors file" };
        let tensors = SafeTensors::deserialize(bytes).map_err(no_file)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let wrong = [
            ("format", "ascribe", "not one of ours"),
            ("version", VERSION, "another version of the format"),
            ("kind", kind, "another kind of file"),
            ("fisher", fisher, "another law of the output gradients"),
        ];
        for (key, value, why) in wrong {
            if metadata.get(key).map(String::as_str) != Some(value) {
                return Err(Error::Archive { why });
            }
        }
        let layers = metadata.get("layers").and_then(|layers| layers.parse().ok());
        // Each layer has its own notes, so a number that is made up is found out at the first one that lacks them.
        let layers = layers.ok_or(Error::Archive { why: "the number of layers is missing" })?;
        Ok(Self { tensors, metadata, layers })
    }

    fn note(&self, layer: usize, key: &str) -> Result<&str, Error> {
        let note = self.metadata.get(&format!("{layer}.{key}"));
        note.map(String::as_str).ok_or(Error::Archive { why: "a layer's metadata is missing" })
    }

    fn number<N: core::str::FromStr>(&self, layer: usize, key: &str) -> Result<N, Error> {
        self.note(layer, key)?.parse().map_err(|_| Error::Archive { why: "a layer's metadata is no number" })
    }

    fn choice<C: Copy>(&self, layer: usize, key: &str, choices: [(&str, C); 2]) -> Result<C, Error> {
        let note = self.note(layer, key)?;
        let found = choices.iter().find(|(word, _)| *word == note).map(|(_, choice)| *choice);
        found.ok_or(Error::Archive { why: "a layer's metadata is not one of the known words" })
    }

    fn has(&self, layer: usize, part: &str) -> bool {
        self.tensors.tensor(&format!("{layer}.{part}")).is_ok()
    }

    /// The lower triangle of a sum of outer products: there the element between two columns is at most the mean of
    /// their squares, and rounding does not double it.
    fn sum<S: Real>(&self, layer: usize, part: &str, dim: usize) -> Result<Sum<S>, Error> {
        let lower: Vec<S> = self.tensor(layer, part, &[dim, dim])?;
        for (i, row) in lower.chunks_exact(dim.max(1)).enumerate() {
            let bound = |j: usize| row[i].to_f64() + lower[j * dim + j].to_f64();
            let (below, above) = row.split_at(i + 1);
            let possible = below.iter().enumerate().all(|(j, x)| x.to_f64().abs() <= bound(j));
            if !possible || above.iter().any(|x| *x != S::ZERO) {
                return Err(Error::Archive { why: "a tensor is not the lower triangle of a covariance" });
            }
        }
        Ok(Sum { dim, lower })
    }

    fn tensor<T: Real>(&self, layer: usize, part: &str, shape: &[usize]) -> Result<Vec<T>, Error> {
        let missing = |_| Error::Archive { why: "a tensor is missing" };
        let tensor = self.tensors.tensor(&format!("{layer}.{part}")).map_err(missing)?;
        if tensor.shape() != shape {
            return Err(Error::Archive { why: "a tensor has another shape than its layer" });
        }
        let numbers: Vec<T> = match (tensor.dtype(), size_of::<T>()) {
            (Dtype::F32, 4) => {
                tensor.data().as_chunks().0.iter().map(|b| T::from_f64(f32::from_le_bytes(*b).into())).collect()
            }
            (Dtype::F64, 8) => {
                tensor.data().as_chunks().0.iter().map(|b| T::from_f64(f64::from_le_bytes(*b))).collect()
            }
            _ => return Err(Error::Archive { why: "a tensor has another precision" }),
        };
        check_finite("tensor of the file", &numbers)?;
        Ok(numbers)
    }
}
