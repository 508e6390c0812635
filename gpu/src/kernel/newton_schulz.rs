use crate::error::Error;
use crate::matrix::Matrix;
use crate::recorder::Recorder;

impl Recorder {
    /// The polar factor `U V^T` of `G = U S V^T`, approximated by a polynomial `X <- a X + (b A + c A^2) X` with
    /// `A = X X^T` for each `[a, b, c]`, from `X = G / (|G| + epsilon)` on: `Orthogonalize` of `ascribe-solvers`, which
    /// has the usual polynomials. For more rows than columns `A = X^T X`, on the other side; zero stays zero.
    ///
    /// The norm has to be finite in f32, and so have the results: what a polynomial drives beyond them is infinite or
    /// NaN, which to look for is up to who downloads it. Three dispatches for the norm and five for a polynomial, where
    /// matrices lie in one piece. Cost of a polynomial, `m <= n`: `4 m^2 n + m^3` flops, for tall matrices
    /// `3 m n^2 + n^3`. Memory: twice that of `G`, and `2 min(m, n)^2` numbers.
    ///
    /// # Errors
    /// As [`gemm`](Self::gemm); [`Error::Limit`] when a number for each row is more than a binding of the device.
    ///
    /// # Examples
    /// ```
    /// # use ascribe_core::MatRef;
    /// # use ascribe_gpu::{Error, Gpu};
    /// # let gpu = match Gpu::new() { Err(Error::NoAdapter { why }) => return Ok(println!("skipped: {why}")), gpu => gpu? };
    /// let g = gpu.upload(MatRef::new(&[3.0, 0.0, 0.0, 0.0, -2.0, 0.0], 2, 3)?)?;
    /// let mut recorder = gpu.record();
    /// let cubic = [1.5, -0.5, 0.0];
    /// let q = recorder.newton_schulz(&g, &[cubic; 12], 1e-7)?;
    /// let q = recorder.download(&q)?;
    /// recorder.submit()?;
    /// let q = q.wait()?;
    /// assert!((q[0] - 1.0).abs() < 1e-5 && (q[4] + 1.0).abs() < 1e-5);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # References
    /// Jordan et al., *Muon* (2024); Amsel et al., arXiv:2505.16932.
    pub fn newton_schulz(
        &mut self,
        g: &Matrix<f32>,
        polynomials: &[[f32; 3]],
        epsilon: f32,
    ) -> Result<Matrix<f32>, Error> {
        g.check("columns", self.gpu(), g.cols())?;
        if g.rows() == 0 || g.cols() == 0 {
            return self.zeros(g.rows(), g.cols());
        }
        self.whole(|recorder| {
            // The norm of the norms of the rows, which are written side by side.
            let norms = Matrix::new(recorder.gpu(), 1, g.rows())?;
            recorder.write_norms(&norms.split_rows(1)?, g.into(), 0.0)?;
            let norm = recorder.row_norms(&norms)?;
            let mut x = recorder.divided(g, &norm, epsilon)?;
            let tall = g.rows() > g.cols();
            for &[a, b, c] in polynomials {
                let gram = if tall { recorder.gram(&x)? } else { recorder.gemm(1.0, &x, x.t())? };
                // The square of a symmetric matrix is its Gram matrix.
                let mut mixed = recorder.scaled(1.0, &gram)?;
                recorder.gram_onto(&mut mixed, b, c, &gram, None)?;
                let mut next = recorder.scaled(1.0, &x)?;
                if tall {
                    recorder.gemm_onto(&mut next, a, 1.0, &x, &mixed)?;
                } else {
                    recorder.gemm_onto(&mut next, a, 1.0, &mixed, &x)?;
                }
                x = next;
            }
            Ok(x)
        })
    }
}
