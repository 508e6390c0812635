//! Arbitrary arguments for everything that a recorder records: a result of the documented shape or a typed error, never a
//! panic or a lost device.

mod attribution;
mod linear;
mod sketches;

use std::{fmt, slice};

use ascribe_core::{Error as CoreError, MatMut, MatRef};
use ascribe_gpu::{Element, Error, Gpu, Matrix, Recorder};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::{SMALL_BINDING, devices};

/// Around tiles, panels, and the longest row of the small device.
const SMALL: [usize; 19] = [1, 0, 2, 3, 0, 4, 5, 7, 13, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129];
const LONG: [usize; 4] = [255, 257, 1021, 2053];
/// Sizes of nothing that could be allocated, whose products overflow 32 bits, or 64.
const ABSURD: [usize; 6] = [1 << 31, u32::MAX as usize, u32::MAX as usize + 1, 1 << 33, usize::MAX / 4 + 1, usize::MAX];
/// The first half are small integers and simple fractions.
const VALUES: [f32; 16] = [
    1.0,
    0.0,
    -1.5,
    0.25,
    3.0,
    -0.0,
    0.125,
    -7.0,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MIN_POSITIVE / 2.0,
    f32::MAX,
    f32::MIN,
    1e-42,
    1e20,
];

/// Why an operation was left: its arguments could not be made, which is an answer too, or a law does not hold.
enum Stop {
    Arguments(Error),
    Law(TestCaseError),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Arguments(error)
    }
}

impl From<CoreError> for Stop {
    fn from(error: CoreError) -> Self {
        Self::Arguments(error.into())
    }
}

impl From<TestCaseError> for Stop {
    fn from(error: TestCaseError) -> Self {
        Self::Law(error)
    }
}

type Operation = fn(&mut Case<'_>) -> Result<(), Stop>;

/// What is looked at when the device is done.
type Later = Box<dyn FnOnce() -> TestCaseResult>;

/// Arguments drawn from bytes, and what they are given to.
struct Case<'a> {
    gpu: &'static Gpu,
    other: &'static Gpu,
    recorder: Recorder,
    bytes: slice::Iter<'a, u8>,
    /// Whether shapes may fail to fit.
    mismatched: bool,
    drawn: Drawn,
    later: Vec<Later>,
}

/// What is among the arguments of an operation.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    /// The product of all sizes.
    volume: usize,
    /// An absurd size.
    absurd: bool,
    /// A matrix of another device.
    foreign: bool,
}

impl Drawn {
    const NOTHING: Self = Self { volume: 1, absurd: false, foreign: false };
}

impl Case<'_> {
    fn byte(&mut self) -> usize {
        self.bytes.next().copied().unwrap_or(0).into()
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.byte() % of.len()]
    }

    fn value(&mut self) -> f32 {
        self.one_of(&VALUES)
    }

    /// Sizes whose product is no longer small are followed by small ones: the small device would need half a million
    /// dispatches, and half a minute. Beside an absurd one most are 0, or there would be no matrix.
    fn size(&mut self) -> usize {
        let size = match self.byte() {
            byte if self.drawn.absurd && byte % 4 != 0 => 0,
            byte @ 0..220 => SMALL[byte % SMALL.len()],
            byte @ 242.. if self.mismatched => {
                self.drawn.absurd = true;
                ABSURD[byte % ABSURD.len()]
            }
            byte => LONG[byte % LONG.len()],
        };
        let volume = self.drawn.volume.saturating_mul(size.max(1));
        let size = if volume > 1 << 20 && size < 1 << 31 { size % 6 } else { size };
        self.drawn.volume = self.drawn.volume.saturating_mul(size.max(1));
        size
    }

    /// A size for what grows with its square, and on the small device with that of its rows.
    fn short(&mut self) -> usize {
        let size = self.size();
        if size < 1 << 31 { size % 67 } else { size }
    }

    /// That size, or any other.
    fn fit(&mut self, size: usize) -> usize {
        if self.mismatched && self.byte() % 4 == 3 { self.size() } else { size }
    }

    /// Mostly the device of the recorder.
    fn place(&mut self) -> &'static Gpu {
        let foreign = self.mismatched && self.byte() > 230;
        self.drawn.foreign |= foreign;
        if foreign { self.other } else { self.gpu }
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        let (first, step) = (self.byte(), 2 * self.byte() + 1);
        // Half of the draws have nothing special.
        let of = if self.flag() { &VALUES[..] } else { &VALUES[..8] };
        (0..len).map(|i| of[(first + i * step) % of.len()]).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Result<Matrix<f32>, Error> {
        self.matrix_of(rows, cols, |x| x)
    }

    /// Uploaded from rows that may be apart; nothing is uploaded where no memory could hold it.
    fn matrix_of<T: Element>(&mut self, rows: usize, cols: usize, of: fn(f32) -> T) -> Result<Matrix<T>, Error> {
        let (gpu, gap) = (self.place(), self.byte() % 3);
        match rows.checked_mul(cols.saturating_add(gap)) {
            Some(len) if len <= 1 << 20 => {
                let values: Vec<T> = self.values(len).into_iter().map(of).collect();
                gpu.upload(MatRef::with_stride(&values, rows, cols, cols + gap)?)
            }
            _ => gpu.record().zeros(rows, cols),
        }
    }

    /// What core says to arguments of the same shapes, where it would not take for ever; matrices of another device are
    /// refused whatever their shapes.
    fn core(&self, twin: impl FnOnce() -> Result<(), CoreError>) -> Option<bool> {
        let small = || (!self.drawn.absurd).then(|| twin().is_ok());
        if self.drawn.foreign { Some(false) } else { small() }
    }

    /// Whether nothing that was drawn needs more room than there is.
    fn roomy(&self) -> bool {
        !self.drawn.absurd && self.gpu.capabilities().max_binding_bytes > SMALL_BINDING
    }

    /// An operation is recorded, or refused for a reason and leaves nothing behind.
    fn attempt<R>(
        &mut self,
        core: Option<bool>,
        operation: impl FnOnce(&mut Recorder) -> Result<R, Error>,
    ) -> Result<R, Stop> {
        let recorded = |recorder: &Recorder| (recorder.counters(), recorder.cost(), recorder.plan().steps.len());
        let had = recorded(&self.recorder);
        let result = operation(&mut self.recorder);
        judge(&result, core)?;
        let Err(error) = result else { return Ok(result?) };
        let has = recorded(&self.recorder);
        let accepted = core == Some(true) && self.roomy();
        let refused = || -> TestCaseResult {
            prop_assert!(!accepted, "there is room, and core accepts it: {error}");
            prop_assert_eq!(had, has, "{} left something behind", error);
            Ok(())
        };
        refused()?;
        Err(error.into())
    }

    /// A result has the shape that is documented, and comes.
    fn made<T: Element>(
        &mut self,
        [rows, cols]: [usize; 2],
        core: Option<bool>,
        operation: impl FnOnce(&mut Recorder) -> Result<Matrix<T>, Error>,
    ) -> Result<(), Stop> {
        let made = self.attempt(core, operation)?;
        equal(&[made.rows(), made.cols()], &[rows, cols])?;
        self.arrives(&made, rows * cols)
    }

    fn arrives<T: Element>(&mut self, made: &Matrix<T>, len: usize) -> Result<(), Stop> {
        let pending = self.recorder.download(made)?;
        self.later.push(Box::new(move || equal(&pending.wait().map(|x| x.len()), &Ok(len))));
        Ok(())
    }

    /// An operation that adds to `out` changes it, or is refused and does not.
    fn onto(
        &mut self,
        mut out: Matrix<f32>,
        core: Option<bool>,
        operation: impl FnOnce(&mut Recorder, &mut Matrix<f32>) -> Result<(), Error>,
    ) -> Result<(), Stop> {
        let Ok(before) = self.recorder.download(&out) else {
            return self.attempt(Some(false), |recorder| operation(recorder, &mut out));
        };
        let result = self.attempt(core, |recorder| operation(recorder, &mut out));
        if let Err(Stop::Law(_)) = result {
            return result;
        }
        let after = self.recorder.download(&out)?;
        self.later.push(Box::new(move || {
            let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let [before, after] = [before, after].map(|x| x.wait().map(bits));
            equal(&before.as_ref().map(Vec::len), &after.as_ref().map(Vec::len))?;
            if result.is_err() { equal(&before, &after) } else { Ok(()) }
        }));
        Ok(())
    }

    /// A product that is known, on the same recorder.
    fn known(&mut self) -> Result<(), Stop> {
        let x = self.gpu.upload(MatRef::new(&[1.0, 2.0, 3.0, 4.0], 2, 2)?)?;
        let gram = self.recorder.gemm(1.0, x.t(), &x)?;
        let gram = self.recorder.download(&gram)?;
        self.later.push(Box::new(move || {
            prop_assert_eq!(gram.wait(), Ok(vec![10.0, 14.0, 14.0, 20.0]));
            Ok(())
        }));
        Ok(())
    }
}

fn equal<T: PartialEq + fmt::Debug>(got: &T, expected: &T) -> TestCaseResult {
    prop_assert_eq!(got, expected);
    Ok(())
}

/// Zeros as a twin's argument.
fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

/// Whether core multiplies matrices of these shapes.
fn product(a: [usize; 2], b: [usize; 2], out: [usize; 2]) -> Result<(), CoreError> {
    let [x, y, mut z] = [a, b, out].map(|[rows, cols]| zeros(rows * cols));
    let (x, y) = (MatRef::new(&x, a[0], a[1])?, MatRef::new(&y, b[0], b[1])?);
    ascribe_core::matmul::matmul(MatMut::new(&mut z, out[0], out[1])?, 0.0, 1.0, x, y)
}

/// Every operation, by name.
fn operations() -> Vec<(&'static str, Operation)> {
    [linear::OPERATIONS, sketches::OPERATIONS, attribution::OPERATIONS].concat()
}

/// An error is one that arguments can cause. What core accepts is refused for want of room alone, and what it refuses
/// is refused.
fn judge<T>(result: &Result<T, Error>, core: Option<bool>) -> TestCaseResult {
    let Err(error) = result else {
        prop_assert!(core != Some(false), "accepted what has to be refused");
        return Ok(());
    };
    let no_room = matches!(error, Error::Limit { .. } | Error::OutOfMemory { .. });
    prop_assert!(no_room || matches!(error, Error::Core(_) | Error::Foreign), "{error}");
    prop_assert!(no_room || core != Some(true), "core accepts it: {error}");
    Ok(())
}

fn run(gpu: usize, mismatched: bool, program: &[(&'static str, Operation)], bytes: &[u8]) -> TestCaseResult {
    let [.., gpu, other] = [gpu, gpu + 1].map(|i| &devices()[i % devices().len()]);
    let bytes = bytes.iter();
    let recorder = gpu.record();
    let later = Vec::new();
    let mut case = Case { gpu, other, recorder, bytes, mismatched, drawn: Drawn::NOTHING, later };
    for &(name, operation) in program {
        case.drawn = Drawn::NOTHING;
        match operation(&mut case) {
            Err(Stop::Law(error)) => return Err(TestCaseError::fail(format!("{name}: {error}"))),
            Err(Stop::Arguments(error)) => judge::<()>(&Err(error), None)?,
            Ok(()) => {}
        }
    }
    let known = case.known();
    prop_assert!(known.is_ok());
    let Case { recorder, later, .. } = case;
    let submitted = recorder.submit();
    prop_assert!(submitted.is_ok(), "{submitted:?}");
    later.into_iter().try_for_each(|check| check())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_result_or_an_error(
        gpu in 0_usize..3,
        mismatched in any::<bool>(),
        program in prop::collection::vec(prop::sample::select(operations()), 1..4),
        bytes in prop::collection::vec(any::<u8>(), 160),
    ) {
        if !devices().is_empty() {
            run(gpu, mismatched, &program, &bytes)?;
        }
    }
}
