use ascribe_core::Error as CoreError;

use crate::error::Error;
use crate::matrix::Matrix;
use crate::recorder::Recorder;

/// The largest order: `N^(2^order)` is zero or infinite long before.
const MAX_ORDER: u32 = 16;

impl Recorder {
    /// `B Cay(N)` with `Cay(N) = (I + N)(I - N)^-1` by `order` factors of its product `(I + N)^2 (I + N^2) (I + N^4) ..`:
    /// the rows of `B` `[k, n]`, rotated by a skew `N`. `Cayley::Truncated` of `ascribe-solvers`, which bounds the
    /// distance from the map: `s^(2^order)` for a spectral norm `s < 1` of `N`.
    ///
    /// Numbers that are not finite stay so. `3 order + 1` dispatches where matrices lie in one piece (4 for order 1).
    /// Cost: `2 (order + 1) k n^2 + 2 (order - 1) n^3` flops. Memory: `2 (k n + n^2)` numbers.
    ///
    /// # Errors
    /// [`Error::Core`] for shapes that do not fit or an order outside 1 to 16; otherwise as [`gemm`](Self::gemm).
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let skew = gpu.upload(MatRef::new(&[0.0, -0.5, 0.5, 0.0], 2, 2)?)?;
    /// let b = gpu.upload(MatRef::from_row(&[1.0, 0.0]))?;
    /// let mut recorder = gpu.record();
    /// let turned = recorder.cayley_truncated(&b, &skew, 5)?;
    /// let turned = recorder.download(&turned)?;
    /// recorder.submit()?;
    /// let turned = turned.wait()?;
    /// assert!((turned[0] - 0.6).abs() < 1e-6 && (turned[1] + 0.8).abs() < 1e-6);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cayley_truncated(&mut self, b: &Matrix<f32>, n: &Matrix<f32>, order: u32) -> Result<Matrix<f32>, Error> {
        n.check("columns of a skew matrix", self.gpu(), n.rows())?;
        b.check("columns of the basis", self.gpu(), n.rows())?;
        if !(1..=MAX_ORDER).contains(&order) {
            let must_be = "1 to 16";
            return Err(CoreError::Parameter { what: "order of the series", value: order.into(), must_be }.into());
        }
        self.whole(|recorder| {
            let once = recorder.times_one_plus(b, n)?;
            let mut out = recorder.times_one_plus(&once, n)?;
            let mut power = None;
            for _ in 1..order {
                let last = power.as_ref().unwrap_or(n);
                let square = recorder.gemm(1.0, last, last)?;
                out = recorder.times_one_plus(&out, &square)?;
                power = Some(square);
            }
            Ok(out)
        })
    }

    /// `B (I + N)`.
    fn times_one_plus(&mut self, b: &Matrix<f32>, n: &Matrix<f32>) -> Result<Matrix<f32>, Error> {
        let mut out = self.scaled(1.0, b)?;
        self.gemm_onto(&mut out, 1.0, 1.0, b, n)?;
        Ok(out)
    }
}
