//! States of optimizers as safetensors files: every field a tensor in its own precision, so that a run goes on bit for
//! bit. Bytes are not trusted.

use std::collections::HashMap;

use ascribe_core::{Real, reduce};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::optimizer::{Field, Kind, State};
use crate::Error;
use crate::error::check_finite;

/// The version of the format; files of another one are refused.
const VERSION: &str = "1";

pub(super) fn to_bytes<T: Real, S: State<T>>(state: &S) -> Result<Vec<u8>, Error> {
    let failed = || Error::Archive { why: "it does not fit into memory" };
    let mut state = state.clone();
    let layers: Vec<_> = state.layout().layers().iter().map(|l| (l.name().to_owned(), l.shape().to_vec())).collect();
    let mut metadata: HashMap<String, String> =
        [("format", "ascribe"), ("version", VERSION), ("kind", S::KIND), ("precision", T::NAME)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    for (l, (name, shape)) in layers.iter().enumerate() {
        metadata.insert(format!("layer.{l}"), describe(name, shape));
    }
    let tensors: Vec<_> = state.fields().into_iter().map(|(name, field)| (name, bytes(field))).collect();
    let views = tensors
        .iter()
        .map(|(name, (dtype, len, bytes))| {
            Ok((name, TensorView::new(*dtype, vec![*len], bytes).map_err(|_| failed())?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(|_| failed())
}

/// The type, the number of elements and the bytes of a field.
fn bytes<T: Real>(field: Field<'_, T>) -> (Dtype, usize, Vec<u8>) {
    match field {
        Field::Numbers(_, x) if size_of::<T>() == 4 => {
            // f32 is exact in f64, so one way leads to the bytes of both.
            (Dtype::F32, x.len(), x.iter().flat_map(|x| (x.to_f64() as f32).to_le_bytes()).collect())
        }
        Field::Numbers(_, x) => (Dtype::F64, x.len(), x.iter().flat_map(|x| x.to_f64().to_le_bytes()).collect()),
        Field::Bound(x) | Field::Amount(x) => (Dtype::F64, 1, x.to_le_bytes().to_vec()),
        Field::Count(x) => (Dtype::U64, 1, x.to_le_bytes().to_vec()),
    }
}

pub(super) fn load<T: Real, S: State<T>>(state: &mut S, bytes: &[u8]) -> Result<(), Error> {
    let no_file = |_| Error::Archive { why: "no safetensors file" };
    let tensors = SafeTensors::deserialize(bytes).map_err(no_file)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    for (key, value, why) in [
        ("format", "ascribe", "not one of ours"),
        ("version", VERSION, "another version of the format"),
        ("kind", S::KIND, "the state of another optimizer"),
        ("precision", T::NAME, "another precision"),
    ] {
        if metadata.get(key).map(String::as_str) != Some(value) {
            return Err(Error::Archive { why });
        }
    }
    let layers = state.layout().layers();
    let known = |l: usize| metadata.get(&format!("layer.{l}"));
    if layers.iter().enumerate().any(|(l, layer)| known(l) != Some(&describe(layer.name(), layer.shape())))
        || known(layers.len()).is_some()
    {
        return Err(Error::Archive { why: "the layers are others" });
    }
    let mut next = state.clone();
    let mut largest = 0.0_f64;
    for (name, field) in next.fields() {
        let tensor = tensors.tensor(&name).map_err(|_| Error::Archive { why: "a tensor is missing" })?;
        match field {
            Field::Numbers(kind, x) => {
                if size_of::<T>() == 4 {
                    let numbers = elements(&tensor, Dtype::F32, x.len(), f32::from_le_bytes)?;
                    x.iter_mut().zip(numbers).for_each(|(x, number)| *x = T::from_f64(number.into()));
                } else {
                    let numbers = elements(&tensor, Dtype::F64, x.len(), f64::from_le_bytes)?;
                    x.iter_mut().zip(numbers).for_each(|(x, number)| *x = T::from_f64(number));
                }
                check_finite("tensor of the file", x)?;
                largest = largest.max(gradient_behind(kind, x)?);
            }
            Field::Bound(x) | Field::Amount(x) => {
                elements(&tensor, Dtype::F64, 1, f64::from_le_bytes)?.for_each(|number| *x = number);
                check_finite("tensor of the file", &[*x])?;
                if *x < 0.0 {
                    return Err(Error::Archive { why: "a bound or weight is negative" });
                }
            }
            Field::Count(x) => elements(&tensor, Dtype::U64, 1, u64::from_le_bytes)?.for_each(|number| *x = number),
        }
    }
    // A file may say less than its moments prove. The bound decides about no bit of a step that succeeds.
    for (_, field) in next.fields() {
        if let Field::Bound(x) = field {
            *x = x.max(largest);
        }
    }
    *state = next;
    Ok(())
}

/// The elements of a tensor of one axis.
fn elements<'a, const N: usize, U: 'a>(
    tensor: &TensorView<'a>,
    dtype: Dtype,
    len: usize,
    decode: impl Fn([u8; N]) -> U + 'a,
) -> Result<impl Iterator<Item = U> + 'a, Error> {
    if tensor.dtype() != dtype || tensor.shape() != [len] {
        return Err(Error::Archive { why: "a tensor has another shape or precision than its field" });
    }
    Ok(tensor.data().as_chunks().0.iter().map(move |bytes| decode(*bytes)))
}

/// How large a gradient must have been for these numbers to come about.
fn gradient_behind<T: Real>(kind: Kind, x: &[T]) -> Result<f64, Error> {
    match kind {
        Kind::Average => Ok(reduce::norm2(x).to_f64()),
        Kind::Covariance => Ok(reduce::norm2(x).to_f64().sqrt()),
        Kind::Squares if x.iter().any(|&x| x < T::ZERO) => Err(Error::Archive { why: "a mean of squares is negative" }),
        Kind::Squares => Ok(reduce::norm2(x).to_f64().sqrt()),
        Kind::Basis if reduce::max_abs(x).to_f64() > 2.0 => Err(Error::Archive { why: "a basis is not orthonormal" }),
        Kind::Basis | Kind::Measured => Ok(0.0),
    }
}

/// What a file remembers a layer by.
fn describe(name: &str, shape: &[usize]) -> String {
    format!("{shape:?} {name}")
}
