//! Row-major matrix views over plain slices.
//!
//! A block of `k` vectors of length `n` is a `k x n` view. The shape is checked once, when the view is made;
//! after that every row is a slice of exactly `cols` elements.

use crate::error::{Error, check_shape};

/// A read-only row-major view: `rows x cols` over a slice, rows `stride` elements apart.
#[derive(Debug, PartialEq)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// As [`MatRef`], for writing.
#[derive(Debug, PartialEq)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for MatRef<'_, T> {}

/// The number of elements that a strided view spans, from its first to its last.
fn span(rows: usize, cols: usize, stride: usize) -> Result<usize, Error> {
    if rows == 0 || cols == 0 {
        return Ok(0);
    }
    let overflow = Error::Overflow { what: "matrix view" };
    (rows - 1).checked_mul(stride).and_then(|x| x.checked_add(cols)).ok_or(overflow)
}

fn check_view(len: usize, rows: usize, cols: usize, stride: usize) -> Result<usize, Error> {
    if stride < cols && rows > 1 {
        return Err(Error::Length { what: "row stride", needed: cols, got: stride });
    }
    let needed = span(rows, cols, stride)?;
    if len < needed { Err(Error::Length { what: "matrix view", needed, got: len }) } else { Ok(needed) }
}

fn check_block(start: usize, len: usize, of: usize, what: &'static str) -> Result<(), Error> {
    match start.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        _ => Err(Error::Index { what, index: start.saturating_add(len), len: of }),
    }
}

impl<'a, T> MatRef<'a, T> {
    /// The whole slice as a `rows x cols` matrix.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data.len() != rows * cols`, [`Error::Overflow`] when that product does not fit.
    ///
    /// ```
    /// use ascribe_core::MatRef;
    /// let m = MatRef::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
    /// assert_eq!(m.row(1), [4.0, 5.0, 6.0]);
    /// assert!(MatRef::new(&[1.0, 2.0], 2, 3).is_err());
    /// # Ok::<(), ascribe_core::Error>(())
    /// ```
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let len = rows.checked_mul(cols).ok_or(Error::Overflow { what: "matrix view" })?;
        check_shape("matrix elements", len, data.len())?;
        Ok(Self { data, rows, cols, stride: cols })
    }

    /// Rows that are `stride >= cols` elements apart, starting at the first element of `data`.
    ///
    /// # Errors
    /// [`Error::Length`] when `data` or the stride is too short, [`Error::Overflow`] when the span does not fit.
    pub fn with_stride(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Result<Self, Error> {
        let needed = check_view(data.len(), rows, cols, stride)?;
        Ok(Self { data: &data[..needed], rows, cols, stride })
    }

    /// One vector as a matrix of one row.
    pub fn from_row(data: &'a [T]) -> Self {
        Self { data, rows: 1, cols: data.len(), stride: data.len() }
    }

    /// The number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of elements from the start of one row to the start of the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.stride
    }

    /// The elements from the first to the last, gaps between the rows included.
    #[inline]
    pub fn as_span(&self) -> &'a [T] {
        self.data
    }

    /// All elements as one slice, when there are no gaps between the rows.
    #[inline]
    pub fn as_slice(&self) -> Option<&'a [T]> {
        (self.stride == self.cols || self.rows <= 1 || self.cols == 0).then_some(self.data)
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i >= rows`, as indexing a slice does; [`MatRef::get_row`] does not.
    #[inline]
    #[track_caller]
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows, "row {i} of a matrix with {} rows", self.rows);
        if self.cols == 0 { &[] } else { &self.data[i * self.stride..i * self.stride + self.cols] }
    }

    /// Row `i`, if there is one.
    #[inline]
    pub fn get_row(&self, i: usize) -> Option<&'a [T]> {
        (i < self.rows).then(|| self.row(i))
    }

    /// The rows in order.
    #[inline]
    pub fn row_iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> + DoubleEndedIterator + use<'a, T> {
        let this = *self;
        (0..this.rows).map(move |i| this.row(i))
    }

    /// Rows `start..start + rows`.
    ///
    /// # Errors
    /// [`Error::Index`] when the range is not inside the matrix.
    pub fn row_range(&self, start: usize, rows: usize) -> Result<Self, Error> {
        self.block(start, rows, 0, self.cols)
    }

    /// The `rows x cols` block whose first element is at (`row`, `col`).
    ///
    /// # Errors
    /// [`Error::Index`] when the block is not inside the matrix.
    pub fn block(&self, row: usize, rows: usize, col: usize, cols: usize) -> Result<Self, Error> {
        check_block(row, rows, self.rows, "block rows")?;
        check_block(col, cols, self.cols, "block columns")?;
        // A block inside the matrix spans no more than the matrix: the sum cannot overflow.
        let len = span(rows, cols, self.stride)?;
        let data = if len == 0 { &[][..] } else { &self.data[row * self.stride + col..][..len] };
        Ok(Self { data, rows, cols, stride: self.stride })
    }
}

impl<'a, T> MatMut<'a, T> {
    /// The whole slice as a `rows x cols` matrix; as [`MatRef::new`].
    ///
    /// # Errors
    /// [`Error::Shape`] when `data.len() != rows * cols`, [`Error::Overflow`] when that product does not fit.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let len = rows.checked_mul(cols).ok_or(Error::Overflow { what: "matrix view" })?;
        check_shape("matrix elements", len, data.len())?;
        Ok(Self { data, rows, cols, stride: cols })
    }

    /// Rows that are `stride >= cols` elements apart; as [`MatRef::with_stride`].
    ///
    /// # Errors
    /// [`Error::Length`] when `data` or the stride is too short, [`Error::Overflow`] when the span does not fit.
    pub fn with_stride(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Result<Self, Error> {
        let needed = check_view(data.len(), rows, cols, stride)?;
        Ok(Self { data: &mut data[..needed], rows, cols, stride })
    }

    /// One vector as a matrix of one row.
    pub fn from_row(data: &'a mut [T]) -> Self {
        let cols = data.len();
        Self { data, rows: 1, cols, stride: cols }
    }

    /// The number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of elements from the start of one row to the start of the next.
    #[inline]
    pub fn row_stride(&self) -> usize {
        self.stride
    }

    /// The same matrix, read-only.
    #[inline]
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// The same matrix for a shorter time, so that it can be passed on and used again.
    #[inline]
    pub fn rb_mut(&mut self) -> MatMut<'_, T> {
        MatMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// The elements from the first to the last, gaps between the rows included.
    #[inline]
    pub fn into_span(self) -> &'a mut [T] {
        self.data
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i >= rows`, as indexing a slice does.
    #[inline]
    #[track_caller]
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of a matrix with {} rows", self.rows);
        if self.cols == 0 { &mut [] } else { &mut self.data[i * self.stride..i * self.stride + self.cols] }
    }

    /// Calls `f` with the index of each row and the row, in order; with none when the rows have no elements, for then
    /// there may be any number of them.
    #[inline]
    pub fn for_each_row(&mut self, mut f: impl FnMut(usize, &mut [T])) {
        let rows = if self.cols == 0 { 0 } else { self.rows };
        for i in 0..rows {
            f(i, self.row_mut(i));
        }
    }

    /// The rows before `row` and the rows from it on.
    ///
    /// # Errors
    /// [`Error::Index`] when `row > rows`.
    pub fn split_rows(self, row: usize) -> Result<(Self, Self), Error> {
        check_block(row, 0, self.rows, "split row")?;
        // A single row may be longer than its stride; only a view without elements has a stride that overflows.
        let len = self.data.len();
        let cut = if row == self.rows { len } else { row.saturating_mul(self.stride).min(len) };
        let (top, bottom) = self.data.split_at_mut(cut);
        let top_len = span(row, self.cols, self.stride)?;
        Ok((
            Self { data: &mut top[..top_len], rows: row, cols: self.cols, stride: self.stride },
            Self { data: bottom, rows: self.rows - row, cols: self.cols, stride: self.stride },
        ))
    }

    /// The `rows x cols` block whose first element is at (`row`, `col`).
    ///
    /// # Errors
    /// [`Error::Index`] when the block is not inside the matrix.
    pub fn block(self, row: usize, rows: usize, col: usize, cols: usize) -> Result<Self, Error> {
        check_block(row, rows, self.rows, "block rows")?;
        check_block(col, cols, self.cols, "block columns")?;
        let len = span(rows, cols, self.stride)?;
        let data = if len == 0 { &mut [][..] } else { &mut self.data[row * self.stride + col..][..len] };
        Ok(Self { data, rows, cols, stride: self.stride })
    }
}

impl<T: Copy> MatMut<'_, T> {
    /// Sets every element.
    pub fn fill(&mut self, value: T) {
        self.for_each_row(|_, row| row.fill(value));
    }

    /// Copies a matrix of the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the shapes differ.
    pub fn copy_from(&mut self, other: MatRef<'_, T>) -> Result<(), Error> {
        check_shape("rows", self.rows, other.rows)?;
        check_shape("columns", self.cols, other.cols)?;
        self.for_each_row(|i, row| row.copy_from_slice(other.row(i)));
        Ok(())
    }
}

/// A matrix as a product uses it: as it is, or transposed. Made by `From` or by [`MatRef::t`].
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a, T> {
    /// The matrix as it is stored.
    pub mat: MatRef<'a, T>,
    /// Whether the product uses its transpose.
    pub transposed: bool,
}

impl<'a, T> From<MatRef<'a, T>> for Operand<'a, T> {
    fn from(mat: MatRef<'a, T>) -> Self {
        Self { mat, transposed: false }
    }
}

impl<'a, T> MatRef<'a, T> {
    /// The transpose, for a product; nothing is moved.
    #[inline]
    pub fn t(self) -> Operand<'a, T> {
        Operand { mat: self, transposed: true }
    }
}

impl<T> Operand<'_, T> {
    /// The number of rows of the operand (columns of the stored matrix when transposed).
    #[inline]
    pub fn rows(&self) -> usize {
        if self.transposed { self.mat.cols } else { self.mat.rows }
    }

    /// The number of columns of the operand.
    #[inline]
    pub fn cols(&self) -> usize {
        if self.transposed { self.mat.rows } else { self.mat.cols }
    }

    /// The distance in elements between neighbours in a column and in a row of the operand.
    #[inline]
    pub fn strides(&self) -> (usize, usize) {
        if self.transposed { (1, self.mat.stride) } else { (self.mat.stride, 1) }
    }
}
