//! A stream of batches through the device.

use std::collections::VecDeque;

use ascribe_core::MatRef;

use crate::device::Gpu;
use crate::error::Error;
use crate::matrix::{Element, Matrix};
use crate::pending::Pending;
use crate::recorder::Recorder;

/// Batches that go through the same kernels, some at a time: while the device computes one, the program prepares the
/// next and reads an earlier result. Each has memory of its own, so that a device that can copies one while it computes
/// another. Results come in the order of the batches. Made by [`Gpu::batches`].
///
/// It waits for results, which a browser cannot: there, await each batch's [`Pending`].
///
/// Memory: that of `depth + 1` batches and their results, whatever their number, and what the kernels need for one.
///
/// # Examples
/// ```
/// # use ascribe_core::MatRef;
/// # use ascribe_gpu::{Error, Gpu, Matrix};
/// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
/// let mut squares = gpu.batches(2, |recorder, x: &Matrix<f32>| recorder.gemm(1.0, x, x.t()));
/// let mut results = Vec::new();
/// for batch in [[1.0], [2.0], [3.0], [4.0]] {
///     results.extend(squares.push(MatRef::from_row(&batch))?);
/// }
/// while let Some(result) = squares.pop()? {
///     results.push(result);
/// }
/// assert_eq!(results.concat(), [1.0, 4.0, 9.0, 16.0]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Batches<T, R, F> {
    gpu: Gpu,
    depth: usize,
    /// Results to come, and what they are computed from.
    under_way: VecDeque<(Pending<R>, Matrix<T>)>,
    kernels: F,
}

impl Gpu {
    /// Batches through `kernels`, which record what is to be done with one; up to `depth` of them are under way at a
    /// time. Two are enough to keep the device busy.
    pub fn batches<T, R, F>(&self, depth: usize, kernels: F) -> Batches<T, R, F>
    where
        F: FnMut(&mut Recorder, &Matrix<T>) -> Result<Matrix<R>, Error>,
    {
        Batches { gpu: self.clone(), depth, under_way: VecDeque::new(), kernels }
    }
}

impl<T: Element, R: Element, F> Batches<T, R, F>
where
    F: FnMut(&mut Recorder, &Matrix<T>) -> Result<Matrix<R>, Error>,
{
    /// Sends a batch on its way, and waits for the oldest result if more than `depth` are then under way.
    ///
    /// # Errors
    /// What uploading, the kernels or waiting return; the batch, or the result waited for, is then lost, and the others
    /// are not.
    pub fn push(&mut self, batch: MatRef<'_, T>) -> Result<Option<Vec<R>>, Error> {
        let batch = self.gpu.upload(batch)?;
        let mut recorder = self.gpu.record();
        let result = (self.kernels)(&mut recorder, &batch)?;
        let result = recorder.download(&result)?;
        recorder.submit()?;
        self.under_way.push_back((result, batch));
        if self.under_way.len() > self.depth { self.pop() } else { Ok(None) }
    }

    /// Waits for the oldest result; `None` when nothing is under way.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn pop(&mut self) -> Result<Option<Vec<R>>, Error> {
        self.under_way.pop_front().map(|(result, _)| result.wait()).transpose()
    }
}
