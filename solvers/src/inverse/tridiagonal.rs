//! A symmetric tridiagonal matrix that grows by a row and a column at a time: its QR factorisation by rotations, which
//! turns a Lanczos run into a least-squares solution, and its smallest eigenvalue.

/// A column of `R^-1` longer than `1 / (SINGULAR eps |T|)` is the rounding of a singular matrix.
const SINGULAR: f64 = 100.0;

/// The matrix since the last start, and where its factorisation stands.
pub(super) struct Tridiagonal {
    diagonal: Vec<f64>,
    off_diagonal: Vec<f64>,
    /// The last rotation.
    cos: f64,
    sin: f64,
    /// What the rotations so far leave of the next diagonal and off-diagonal entries.
    bar: f64,
    epsilon: f64,
    /// What they leave of the right-hand side: the norm of the residual.
    residual: f64,
    /// Lengths of the last two columns of `R^-1` and their inner product, in units of `scale` so that the squares stay
    /// finite.
    columns: [f64; 2],
    inner: f64,
    /// The norm of the first row since the start, and of the largest one ever: at most that of the matrix.
    scale: f64,
    largest: f64,
}

/// What a new row and column make of the solution.
pub(super) struct Step {
    /// The diagonal entry of `R`, which the new direction is divided by.
    pub gamma: f64,
    /// How far the solution moves along it.
    pub length: f64,
    /// Whether what follows the row is rounding: the run is complete.
    pub last: bool,
}

impl Tridiagonal {
    pub(super) fn new() -> Self {
        Self {
            diagonal: Vec::new(),
            off_diagonal: Vec::new(),
            cos: -1.0,
            sin: 0.0,
            bar: 0.0,
            epsilon: 0.0,
            residual: 0.0,
            columns: [0.0; 2],
            inner: 0.0,
            scale: 0.0,
            largest: 0.0,
        }
    }

    /// No rows, and a right-hand side of this norm.
    pub(super) fn restart(&mut self, residual: f64) {
        *self = Self { residual, largest: self.largest, ..Self::new() };
    }

    /// The smallest norm of the residual over the Krylov space so far.
    pub(super) fn residual(&self) -> f64 {
        self.residual
    }

    /// The last off-diagonal entry, if there is a row.
    pub(super) fn last(&self) -> Option<f64> {
        self.off_diagonal.last().copied()
    }

    /// How much of the directions before the last one and of the last one the next has to lose, for a diagonal entry
    /// `alpha`.
    pub(super) fn fill_in(&self, alpha: f64) -> [f64; 2] {
        [self.epsilon, self.cos * self.bar + self.sin * alpha]
    }

    /// Appends a row with `alpha` on the diagonal and `beta` after it, both finite; `eps` is the rounding of the numbers
    /// that they come from. `None` when the matrix is singular, and no step reduces the residual.
    pub(super) fn append(&mut self, alpha: f64, beta: f64, eps: f64) -> Option<Step> {
        let [epsilon, delta] = self.fill_in(alpha);
        let row = alpha.hypot(beta).hypot(self.last().unwrap_or(0.0));
        if self.diagonal.is_empty() {
            self.scale = row;
        }
        self.largest = self.largest.max(row);
        self.diagonal.push(alpha);
        self.off_diagonal.push(beta);
        let noise = eps * self.largest;
        let rest = self.sin * self.bar - self.cos * alpha;
        let gamma = rest.hypot(beta);
        // The new column of R^-1: e_k less the last two, over gamma. Its own place is empty in those.
        let ([last, older], inner) = (self.columns, self.inner);
        let [e, d, g] = [epsilon, delta, gamma].map(|x| x / self.scale);
        let column = (1.0 + (e * older).powi(2) + (d * last).powi(2) + 2.0 * e * d * inner).sqrt() / g;
        // 0 / 0 is no direction either.
        if column.is_nan() || SINGULAR * noise * column >= self.scale {
            return None;
        }
        let length = rest / gamma * self.residual;
        self.epsilon = self.sin * beta;
        self.bar = -self.cos * beta;
        (self.cos, self.sin) = (rest / gamma, beta / gamma);
        self.residual *= self.sin;
        self.columns = [column, last];
        self.inner = -(e * inner + d * last * last) / g;
        Some(Step { gamma, length, last: beta <= noise })
    }

    /// The smallest eigenvalue, by bisection with Sturm sequences; infinite without rows.
    pub(super) fn smallest_eigenvalue(&self) -> f64 {
        let entries = self.diagonal.iter().chain(&self.off_diagonal);
        let size = entries.fold(0.0_f64, |size, x| size.max(x.abs()));
        if self.diagonal.is_empty() {
            return f64::INFINITY;
        }
        if size == 0.0 {
            return 0.0;
        }
        let some_below = |x: f64| {
            let (mut pivot, mut before) = (1.0_f64, 0.0);
            self.diagonal.iter().zip(&self.off_diagonal).any(|(&alpha, &beta)| {
                pivot = alpha / size - x - before * before / pivot;
                before = beta / size;
                // Nudged off 0, as by a rounding of alpha.
                pivot = if pivot == 0.0 { f64::MIN_POSITIVE } else { pivot };
                pivot < 0.0
            })
        };
        // By Gershgorin no eigenvalue is outside of three times the largest entry.
        let (mut low, mut high) = (-3.0, 3.0);
        for _ in 0..f64::MANTISSA_DIGITS + 2 {
            let middle = f64::midpoint(low, high);
            if some_below(middle) { high = middle } else { low = middle }
        }
        size * high
    }
}
