//! What a handler sees of a case (its inputs and parameters) and what it returns.
//!
//! [`Inputs`] has no way to the expected outputs: they are read by the comparison alone.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ascribe_core::random::philox4x32;
use ascribe_core::{MatRef, Real};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use crate::Failure;
use crate::failure::fail;

/// A dense array in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T> {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<T>,
}

impl<T> Tensor<T> {
    /// The lengths of exactly `N` axes.
    ///
    /// # Errors
    /// When the tensor has another number of axes.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N], Failure> {
        <[usize; N]>::try_from(self.shape.as_slice())
            .or_else(|_| fail(format!("a tensor of shape {:?} where {N} axes are needed", self.shape)))
    }

    /// A tensor of two axes as a matrix.
    ///
    /// # Errors
    /// When the tensor has another number of axes.
    pub fn matrix(&self) -> Result<MatRef<'_, T>, Failure> {
        let [rows, cols] = self.dims()?;
        Ok(MatRef::new(&self.data, rows, cols)?)
    }

    fn map<U>(self, f: impl FnMut(T) -> Result<U, Failure>) -> Result<Tensor<U>, Failure> {
        Ok(Tensor { shape: self.shape, data: self.data.into_iter().map(f).collect::<Result<_, _>>()? })
    }
}

/// The numbers of a stored tensor: floats of either width as f64, integers of either width as i64, both exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// From `F64` or `F32`.
    Float(Vec<f64>),
    /// From `I64` or `U32`.
    Integer(Vec<i64>),
}

/// Reads a tensor of one of the four types that cases use.
///
/// # Errors
/// When the tensor is missing or of another type.
pub fn read(tensors: &SafeTensors<'_>, name: &str) -> Result<(Vec<usize>, Values), Failure> {
    let Ok(view) = tensors.tensor(name) else { return fail(format!("the case has no tensor {name}")) };
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F64 => Values::Float(elements(data, f64::from_le_bytes)),
        Dtype::F32 => Values::Float(elements(data, |b| f64::from(f32::from_le_bytes(b)))),
        Dtype::I64 => Values::Integer(elements(data, i64::from_le_bytes)),
        Dtype::U32 => Values::Integer(elements(data, |b| i64::from(u32::from_le_bytes(b)))),
        other => return fail(format!("{name} has type {other:?}; cases hold F64, F32, I64 and U32")),
    };
    Ok((view.shape().to_vec(), values))
}

/// The size of [`Inputs::disturbed`]: far above the roundings of f64, and so small that an orthonormal basis still
/// counts as one.
pub(super) const DISTURBANCE: f64 = 1.0 / (1_u64 << 36) as f64;

fn disturb(x: f64, seed: u32) -> f64 {
    let bits = x.abs().to_bits();
    let [word, ..] = philox4x32([bits as u32, (bits >> 32) as u32, 0, 0], [seed, 0]);
    match word & 1 {
        _ if x.fract() == 0.0 => x,
        0 => x * (1.0 - DISTURBANCE),
        _ => x * (1.0 + DISTURBANCE),
    }
}

fn elements<const N: usize, U>(data: &[u8], decode: impl Fn([u8; N]) -> U) -> Vec<U> {
    data.as_chunks().0.iter().map(|bytes| decode(*bytes)).collect()
}

/// The inputs and parameters of a case, with a record of the parameters that were read.
#[derive(Debug)]
pub struct Inputs<'a> {
    tensors: &'a SafeTensors<'a>,
    params: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
    rounded: RefCell<BTreeSet<String>>,
    disturbance: Option<(BTreeSet<String>, u32)>,
}

impl<'a> Inputs<'a> {
    /// Those of a case.
    pub fn new(tensors: &'a SafeTensors<'a>, params: Map<String, Value>) -> Self {
        Self { tensors, params, read: RefCell::default(), rounded: RefCell::default(), disturbance: None }
    }

    /// The same case where those inputs that were rounded to f32 are a relative [`DISTURBANCE`] off, up or down as `seed`
    /// has it. Equal numbers are moved alike, so that what is symmetric stays it, and whole numbers are left alone: they
    /// are masks and labels.
    pub(super) fn disturbed(&self, seed: u32) -> Self {
        let disturbance = Some((self.rounded.borrow().clone(), seed));
        Self { disturbance, ..Self::new(self.tensors, self.params.clone()) }
    }

    /// The same case, not looked at yet.
    pub(super) fn afresh(&self) -> Self {
        Self::new(self.tensors, self.params.clone())
    }

    /// Whether the case has this input: for optional ones.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(&format!("in.{name}")).is_ok()
    }

    /// An input of floats, rounded to `T`.
    ///
    /// # Errors
    /// When the input is missing or holds integers.
    pub fn floats<T: Real>(&self, name: &str) -> Result<Tensor<T>, Failure> {
        match read(self.tensors, &format!("in.{name}"))? {
            (shape, Values::Float(data)) => {
                if T::EPSILON.to_f64() > f64::EPSILON {
                    self.rounded.borrow_mut().insert(name.to_owned());
                }
                let seed = self.disturbance.as_ref().and_then(|(names, seed)| names.contains(name).then_some(*seed));
                let value = |x| T::from_f64(seed.map_or(x, |seed| disturb(x, seed)));
                Ok(Tensor { shape, data: data.into_iter().map(value).collect() })
            }
            (_, Values::Integer(_)) => fail(format!("in.{name} holds integers where floats are needed")),
        }
    }

    /// An input of integers.
    ///
    /// # Errors
    /// When the input is missing or holds floats.
    pub fn integers(&self, name: &str) -> Result<Tensor<i64>, Failure> {
        match read(self.tensors, &format!("in.{name}"))? {
            (shape, Values::Integer(data)) => Ok(Tensor { shape, data }),
            (_, Values::Float(_)) => fail(format!("in.{name} holds floats where integers are needed")),
        }
    }

    /// An input of 32-bit words.
    ///
    /// # Errors
    /// As [`Inputs::integers`]; when an element is outside the range.
    pub fn words(&self, name: &str) -> Result<Tensor<u32>, Failure> {
        self.integers(name)?.map(|x| Ok(u32::try_from(x)?))
    }

    /// An input of counts, labels or indices.
    ///
    /// # Errors
    /// As [`Inputs::integers`]; when an element is negative.
    pub fn indices(&self, name: &str) -> Result<Tensor<usize>, Failure> {
        self.integers(name)?.map(|x| Ok(usize::try_from(x)?))
    }

    /// An input of 0 and 1.
    ///
    /// # Errors
    /// As [`Inputs::integers`]; when an element is neither.
    pub fn flags(&self, name: &str) -> Result<Tensor<bool>, Failure> {
        self.integers(name)?.map(|x| match x {
            0 => Ok(false),
            1 => Ok(true),
            _ => fail(format!("in.{name} holds {x} where 0 or 1 is needed")),
        })
    }

    /// Whether the case has this parameter: for optional ones.
    pub fn has_param(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    /// A count.
    ///
    /// # Errors
    /// When the parameter is missing or no count.
    pub fn count(&self, name: &str) -> Result<usize, Failure> {
        // A writer may know no integers: 5.0 is a count too.
        let whole = |x: f64| (x.fract() == 0.0 && (0.0..9.0e15).contains(&x)).then_some(x as u64);
        self.param(name, "a count", |v| {
            v.as_u64().or_else(|| v.as_f64().and_then(whole)).and_then(|n| n.try_into().ok())
        })
    }

    /// A number.
    ///
    /// # Errors
    /// When the parameter is missing or no number.
    pub fn number(&self, name: &str) -> Result<f64, Failure> {
        self.param(name, "a number", Value::as_f64)
    }

    /// A switch: a boolean, or 0 and 1.
    ///
    /// # Errors
    /// When the parameter is missing or neither.
    pub fn switch(&self, name: &str) -> Result<bool, Failure> {
        self.param(name, "a switch", |v| match (v.as_bool(), v.as_u64()) {
            (Some(on), _) => Some(on),
            (None, Some(n)) if n <= 1 => Some(n == 1),
            _ => None,
        })
    }

    /// One of the given words, turned into what it stands for.
    ///
    /// # Errors
    /// When the parameter is missing or none of the words.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T, Failure> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        self.param(name, &format!("one of {words:?}"), |v| {
            choices.iter().find(|(word, _)| v.as_str() == Some(word)).map(|(_, meaning)| *meaning)
        })
    }

    /// Any text.
    ///
    /// # Errors
    /// When the parameter is missing or no text.
    pub fn text(&self, name: &str) -> Result<String, Failure> {
        self.param(name, "a text", |v| v.as_str().map(str::to_owned))
    }

    fn param<T>(&self, name: &str, what: &str, get: impl Fn(&Value) -> Option<T>) -> Result<T, Failure> {
        self.read.borrow_mut().insert(name.to_owned());
        match self.params.get(name) {
            None => fail(format!("the case has no parameter {name}")),
            Some(value) => get(value).map_or_else(|| fail(format!("parameter {name} = {value} is not {what}")), Ok),
        }
    }

    /// The parameters that the handler did not look at: it does not know what they mean.
    pub(super) fn unknown_params(&self) -> Vec<&str> {
        let read = self.read.borrow();
        self.params.keys().map(String::as_str).filter(|name| !read.contains(*name)).collect()
    }

    /// The number of elements of the largest input: no sum in the computation of a case is longer.
    pub fn longest_sum(&self) -> usize {
        let inputs = self.tensors.iter().filter(|(name, _)| name.starts_with("in."));
        inputs.map(|(_, view)| view.shape().iter().product()).max().unwrap_or(0)
    }
}

/// An output that a handler computed.
#[derive(Debug)]
pub struct Output {
    /// Its name in the case.
    pub name: String,
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Values,
    /// As [`Outputs::with_condition`] says.
    pub condition: f64,
    /// As [`Outputs::with_magnitude`] says.
    pub magnitude: f64,
    /// Whether a case may leave it out.
    pub optional: bool,
}

/// What a handler computed, in the order in which it is reported.
#[derive(Debug)]
pub struct Outputs {
    /// The outputs.
    pub computed: Vec<Output>,
    /// Outputs that this device has no kernel for, and why.
    pub(super) left_out: Vec<(String, String)>,
    condition: f64,
    magnitude: f64,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { computed: Vec::new(), left_out: Vec::new(), condition: 1.0, magnitude: 0.0 }
    }
}

impl Outputs {
    /// No outputs yet, of a problem with condition number 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much the problem magnifies a relative error of its inputs in the outputs that are added from here on:
    /// `kappa` of the tolerance of `--dtype f32`.
    pub fn with_condition(mut self, condition: f64) -> Self {
        self.condition = condition;
        self
    }

    /// The size of the terms that the outputs from here on are sums or differences of, where these may cancel: the
    /// tolerance of `--dtype f32` is then relative to it.
    pub fn with_magnitude(mut self, magnitude: f64) -> Self {
        self.magnitude = magnitude;
        self
    }

    /// Says that an output is not computed: its comparison is skipped in so many words.
    pub fn without(mut self, name: &str, why: &str) -> Self {
        self.left_out.push((name.to_owned(), why.to_owned()));
        self
    }

    /// Adds an output.
    pub(super) fn with(mut self, name: &str, shape: &[usize], values: Values) -> Self {
        let Self { condition, magnitude, .. } = self;
        self.computed.push(Output {
            name: name.to_owned(),
            shape: shape.to_vec(),
            values,
            condition,
            magnitude,
            optional: false,
        });
        self
    }

    /// Says that a case may leave out the output that was added last.
    pub fn optional(mut self) -> Self {
        self.computed.iter_mut().next_back().into_iter().for_each(|output| output.optional = true);
        self
    }

    /// Adds an output of floats.
    pub fn floats<T: Real>(self, name: &str, shape: &[usize], data: &[T]) -> Self {
        self.with(name, shape, Values::Float(data.iter().map(|x| x.to_f64()).collect()))
    }

    /// Adds an output of one float.
    pub fn float<T: Real>(self, name: &str, value: T) -> Self {
        self.floats(name, &[1], &[value])
    }

    /// Adds an output of integers.
    pub fn integers(self, name: &str, shape: &[usize], data: impl IntoIterator<Item = i64>) -> Self {
        self.with(name, shape, Values::Integer(data.into_iter().collect()))
    }
}
