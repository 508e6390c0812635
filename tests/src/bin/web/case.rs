//! A recording with what has to come of it.

use ascribe_core::rank::Ranked;
use ascribe_gpu::{Element, Error, Gpu, Matrix, Recorder, Selection};
use ascribe_tests::Failure;
use ascribe_tests::failure::fail;

/// A recording, and what has to come of it.
pub(crate) struct Case {
    /// Operation and sizes.
    pub(crate) name: String,
    /// Where the work is recorded.
    pub(crate) recorder: Recorder,
    pub(crate) outputs: Vec<Output>,
}

/// A matrix that is copied back.
pub(crate) struct Output {
    pub(crate) name: String,
    /// The name of its type.
    pub(crate) element: &'static str,
    pub(crate) shape: [usize; 2],
    wait: Box<dyn FnOnce() -> Result<Vec<f64>, Error>>,
    pub(crate) expected: Vec<f64>,
    /// How far off each element may be.
    pub(crate) bound: Vec<f64>,
    /// The sizes of the sets of pairs that a row consists of, where it does: they come in any order, and are expected
    /// in that of their second words.
    pub(crate) sets: Vec<usize>,
}

/// What is copied back, as numbers of a page.
pub(crate) trait Number: Element + Into<f64> {
    /// The name of the type in the bundle.
    const NAME: &'static str;
}

impl Number for f32 {
    const NAME: &'static str = "f32";
}

impl Number for u32 {
    const NAME: &'static str = "u32";
}

impl Number for i8 {
    const NAME: &'static str = "i8";
}

impl Number for u16 {
    const NAME: &'static str = "u16";
}

impl Case {
    /// With nothing recorded.
    pub(crate) fn new(gpu: &Gpu, name: impl Into<String>) -> Self {
        Self { name: name.into(), recorder: gpu.record(), outputs: Vec::new() }
    }

    /// Copies `x` back and expects each element within `bound` of `expected`; where that is NaN, NaN. A matrix without
    /// elements is as it has to be.
    pub(crate) fn expect<T: Number>(
        &mut self,
        name: &str,
        x: &Matrix<T>,
        expected: Vec<f64>,
        bound: Vec<f64>,
    ) -> Result<(), Failure> {
        let (len, name) = (x.rows() * x.cols(), name.to_owned());
        if expected.len() != len || bound.len() != len {
            let (expected, bound) = (expected.len(), bound.len());
            return fail(format!("{}: {name} has {len} elements, {expected} expected, {bound} bounds", self.name));
        }
        if len > 0 {
            let pending = self.recorder.download(x)?;
            let wait = Box::new(move || Ok(pending.wait()?.into_iter().map(Into::into).collect()));
            let (shape, sets) = ([x.rows(), x.cols()], Vec::new());
            self.outputs.push(Output { name, element: T::NAME, shape, wait, expected, bound, sets });
        }
        Ok(())
    }

    /// [`expect`](Self::expect) exactly these.
    pub(crate) fn expect_exactly<T: Number>(
        &mut self,
        name: &str,
        x: &Matrix<T>,
        expected: impl IntoIterator<Item: Into<f64>>,
    ) -> Result<(), Failure> {
        let expected: Vec<f64> = expected.into_iter().map(Into::into).collect();
        let bound = vec![0.0; expected.len()];
        self.expect(name, x, expected, bound)
    }

    /// Copies a selection back and expects exactly these proponents and opponents of each query, as many as it keeps.
    pub(crate) fn expect_best(
        &mut self,
        best: &Selection,
        [proponents, opponents]: &[Vec<Vec<Ranked<f32>>>; 2],
    ) -> Result<(), Failure> {
        let expected = pairs(proponents, opponents);
        let bound = vec![0.0; expected.len()];
        let count = |side: &[Vec<Ranked<f32>>]| side.first().map_or(0, Vec::len);
        self.expect_pairs(best, [count(proponents), count(opponents)], expected, bound)
    }

    /// Copies a selection for one query back and expects these proponents and opponents, whatever their scores.
    pub(crate) fn expect_selected(&mut self, best: &Selection, sides: [&[i64]; 2]) -> Result<(), Failure> {
        let mut expected = Vec::new();
        for side in sides {
            let mut side = side.to_vec();
            side.sort_unstable();
            expected.extend(side.into_iter().flat_map(|index| [0.0, index as f64]));
        }
        let bound = [f64::INFINITY, 0.0].repeat(expected.len() / 2);
        self.expect_pairs(best, sides.map(<[_]>::len), expected, bound)
    }

    fn expect_pairs(
        &mut self,
        best: &Selection,
        sets: [usize; 2],
        expected: Vec<f64>,
        bound: Vec<f64>,
    ) -> Result<(), Failure> {
        if expected.is_empty() {
            return Ok(());
        }
        let cols = 2 * (sets[0] + sets[1]);
        let shape = [expected.len() / cols, cols];
        let (name, element, sets) = ("best".to_owned(), u32::NAME, sets.to_vec());
        let pending = self.recorder.download_best(best)?;
        let wait = Box::new(move || {
            let best = pending.wait()?;
            Ok(pairs(&best.proponents, &best.opponents))
        });
        self.outputs.push(Output { name, element, shape, wait, expected, bound, sets });
        Ok(())
    }
}

/// The words of a selection, the bits of a score and its example: by query, by side, and there by example.
fn pairs(proponents: &[Vec<Ranked<f32>>], opponents: &[Vec<Ranked<f32>>]) -> Vec<f64> {
    let mut words = Vec::new();
    for mut set in proponents.iter().zip(opponents).flat_map(|(one, other)| [one.clone(), other.clone()]) {
        set.sort_unstable_by_key(|ranked| ranked.index);
        words.extend(set.iter().flat_map(|ranked| [f64::from(ranked.score.to_bits()), ranked.index as f64]));
    }
    words
}

impl Output {
    /// Whether what the device here computes is within the bounds.
    pub(crate) fn check(self) -> Result<(), Failure> {
        let got = (self.wait)()?;
        let within = |((got, want), bound): ((&f64, &f64), &f64)| {
            got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= *bound
        };
        match got.iter().zip(&self.expected).zip(&self.bound).position(|element| !within(element)) {
            None => Ok(()),
            Some(i) => {
                let (name, got, want, bound) = (&self.name, got[i], self.expected[i], self.bound[i]);
                fail(format!("{name}: element {i} is {got} on the device here, expected {want} within {bound:e}"))
            }
        }
    }
}
