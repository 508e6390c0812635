//! A convolution as a linear layer: its inputs are patches, its positions the output pixels.

use core::ops::Range;

use ascribe_core::record::LayerRecord;
use ascribe_core::{Error as CoreError, MatMut, MatRef, Real};

use super::LayerShape;
use crate::Error;
use crate::error::{check_shape, zeros};

/// Numbers that [`ConvLayer::each_record`] unfolds at once, unless one example alone has more.
const CHUNK: usize = 1 << 22;

/// The geometry of a convolution of images, padded with zeros on both sides:
/// $y_{o,i,j} = b_o + \sum_{c,k,l} w_{o,c,k,l}\, x_{c,\; i s_h + k d_h - p_h,\; j s_w + l d_w - p_w}$ with stride
/// `s`, dilation `d` and padding `p`, `c` over the channels of the group that `o` belongs to. Pairs are
/// (height, width).
///
/// # Examples
/// ```
/// use ascribe_solvers::curvature::Conv2d;
/// let conv = Conv2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1], ..Conv2d::default() };
/// assert_eq!(conv.output_size([32, 31])?, [16, 16]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Pixels of the kernel; default 1.
    pub kernel: [usize; 2],
    /// Pixels from one patch to the next; default 1.
    pub stride: [usize; 2],
    /// Zeros on each side of the image; default 0.
    pub padding: [usize; 2],
    /// Pixels from one pixel of a patch to the next; default 1.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other; default 1.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { kernel: [1; 2], stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl Conv2d {
    /// The height and width of the output: `floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`.
    ///
    /// # Errors
    /// [`CoreError::Parameter`] for a kernel, stride or dilation of zero, [`Error::Kernel`] for a kernel larger than
    /// the padded image, [`CoreError::Overflow`] when a size does not fit.
    pub fn output_size(&self, image: [usize; 2]) -> Result<[usize; 2], Error> {
        Ok([self.output_length(0, image[0])?, self.output_length(1, image[1])?])
    }

    fn output_length(&self, axis: usize, size: usize) -> Result<usize, Error> {
        let (kernel, stride, dilation) = (self.kernel[axis], self.stride[axis], self.dilation[axis]);
        positive("kernel of the convolution", kernel)?;
        positive("stride of the convolution", stride)?;
        positive("dilation of the convolution", dilation)?;
        let padded = self.padding[axis].checked_mul(2).and_then(|padding| padding.checked_add(size));
        let padded = padded.ok_or(CoreError::Overflow { what: "padded image" })?;
        let extent = dilation.checked_mul(kernel - 1).and_then(|steps| steps.checked_add(1));
        let extent = extent.ok_or(CoreError::Overflow { what: "dilated kernel" })?;
        match padded.checked_sub(extent) {
            Some(room) => Ok(room / stride + 1),
            None => Err(Error::Kernel { extent, padded }),
        }
    }

    /// The convolution of images `[channels, height, width]` to `d_out` channels, with every size checked.
    ///
    /// # Errors
    /// As [`Conv2d::output_size`]; [`CoreError::Parameter`] without a group, or for channels that are no positive
    /// multiple of the groups.
    pub fn layer(&self, image: [usize; 3], d_out: usize, bias: bool) -> Result<ConvLayer, Error> {
        let [channels, height, width] = image;
        positive("groups of the convolution", self.groups)?;
        for (what, channels) in [("input channels", channels), ("output channels", d_out)] {
            if channels == 0 || channels % self.groups != 0 {
                let must_be = "a positive multiple of the groups";
                return Err(CoreError::Parameter { what, value: channels as f64, must_be }.into());
            }
        }
        let output = self.output_size([height, width])?;
        let product = |what: &'static str, factors: [usize; 3]| {
            let product = factors.iter().try_fold(1_usize, |product, &factor| product.checked_mul(factor));
            product.ok_or(CoreError::Overflow { what })
        };
        let d_in = product("patch", [channels / self.groups, self.kernel[0], self.kernel[1]])?;
        let weight_cols = d_in.checked_add(usize::from(bias)).ok_or(CoreError::Overflow { what: "patch" })?;
        Ok(ConvLayer {
            conv: *self,
            image,
            output,
            pixels: product("image", image)?,
            output_pixels: product("output of the convolution", [d_out, output[0], output[1]])?,
            dim: product("weight of the convolution", [d_out, weight_cols, 1])?,
            d_in,
            d_out: d_out / self.groups,
            bias,
        })
    }
}

fn positive(what: &'static str, value: usize) -> Result<(), CoreError> {
    if value == 0 { Err(CoreError::Parameter { what, value: 0.0, must_be: "at least 1" }) } else { Ok(()) }
}

/// A convolution of images of one size; made by [`Conv2d::layer`].
///
/// Each group of channels is a linear layer of its own, `[d_out / groups, channels / groups * kernel]`, whose
/// positions are the output pixels: a curvature has **one block a group**, of the group's own channels. (Where others
/// have one block of inputs averaged over the groups, they have another curvature.)
///
/// An image is a row `[channels, height, width]` of a matrix, an output gradient a row `[d_out, height, width]`. The
/// weight is flattened `[d_out, channels / groups, kernel height, kernel width]`, the bias after each output
/// channel's kernel. The groups' gradients one after the other are the gradient of the whole.
///
/// # Examples
/// ```
/// use ascribe_core::{MatMut, MatRef};
/// use ascribe_solvers::{curvature::*, parallel::Parallelism::Serial};
/// let layer = Conv2d { kernel: [1, 2], ..Conv2d::default() }.layer([1, 1, 3], 1, true)?;
/// let (images, grads) = (MatRef::new(&[1.0, 2.0, 3.0], 1, 3)?, MatRef::new(&[1.0, 10.0], 1, 2)?);
/// let mut gradient = [0.0; 3];
/// layer.gradients(MatMut::from_row(&mut gradient), images, grads)?;
/// assert_eq!(gradient, [1.0 + 20.0, 2.0 + 30.0, 1.0 + 10.0]);
/// // K-FAC's factors, as of any linear layer.
/// let mut covariance = LayerCovariance::<f64, Empirical>::new(layer.shape(), Sharing::Expand, Count::Example, Serial)?;
/// layer.each_record(images, &[grads], |_, _, record, more| covariance.add(record, more))?;
/// assert_eq!(covariance.factor_g()?, [101.0]);
/// # Ok::<(), ascribe_solvers::Error>(())
/// ```
///
/// # References
/// Grosse and Martens, arXiv:1602.01407, section 3; as weight sharing: Eschenhagen et al., arXiv:2311.00636.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvLayer {
    conv: Conv2d,
    image: [usize; 3],
    output: [usize; 2],
    pixels: usize,
    output_pixels: usize,
    dim: usize,
    d_in: usize,
    d_out: usize,
    bias: bool,
}

impl ConvLayer {
    /// The geometry.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The height and width of the output.
    pub fn output_size(&self) -> [usize; 2] {
        self.output
    }

    /// The number of output pixels of one channel.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The linear layer that one group is: from a patch to the group's output channels.
    pub fn shape(&self) -> LayerShape {
        LayerShape { d_in: self.d_in, d_out: self.d_out, bias: self.bias }
    }

    /// The number of weights and biases of all groups.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The patches of a group: `out` `[examples * positions, patch]`, a row an output pixel in row-major order, with
    /// the entries of a patch in the order (channel, kernel row, kernel column) and zeros for the padding. The rows
    /// times the group's weight `[d_out / groups, patch]`, transposed, are the convolution. Exact.
    ///
    /// # Errors
    /// A shape error, [`CoreError::Index`] when there is no such group.
    pub fn unfold<T: Real>(&self, mut out: MatMut<'_, T>, images: MatRef<'_, T>, group: usize) -> Result<(), Error> {
        self.check_group(group)?;
        check_shape("pixels of an image", self.pixels, images.cols())?;
        check_shape("rows of the patches", self.rows(images.rows())?, out.rows())?;
        check_shape("entries of a patch", self.d_in, out.cols())?;
        let [height, width] = self.output;
        for (n, image) in images.row_iter().enumerate() {
            for (i, rows) in (0..height).map(|i| (i, self.inside(0, i))) {
                for (j, cols) in (0..width).map(|j| (j, self.inside(1, j))) {
                    let patch = out.row_mut((n * height + i) * width + j);
                    patch.fill(T::ZERO);
                    if !cols.is_empty() {
                        self.copy_patch(patch, image, group, [i, j], rows.clone(), cols);
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows or columns of the kernel that meet the image at output row or column `at`.
    fn inside(&self, axis: usize, at: usize) -> Range<usize> {
        let (first, padding, dilation) =
            (at * self.conv.stride[axis], self.conv.padding[axis], self.conv.dilation[axis]);
        let end = (self.image[1 + axis] + padding).saturating_sub(first).div_ceil(dilation).min(self.conv.kernel[axis]);
        padding.saturating_sub(first).div_ceil(dilation).min(end)..end
    }

    /// The pixels of a patch that lie inside the image; there is one in each of `rows`.
    fn copy_patch<T: Real>(
        &self,
        patch: &mut [T],
        image: &[T],
        group: usize,
        at: [usize; 2],
        rows: Range<usize>,
        cols: Range<usize>,
    ) {
        let Conv2d { kernel, stride, padding, dilation, groups } = self.conv;
        let [channels, height, width] = self.image;
        let channels = channels / groups;
        let x = at[1] * stride[1] + cols.start * dilation[1] - padding[1];
        for c in 0..channels {
            for k in rows.clone() {
                let y = at[0] * stride[0] + k * dilation[0] - padding[0];
                let pixels = &image[((group * channels + c) * height + y) * width..][x..width];
                let entries = &mut patch[(c * kernel[0] + k) * kernel[1]..][cols.clone()];
                entries.iter_mut().zip(pixels.iter().step_by(dilation[1])).for_each(|(entry, &pixel)| *entry = pixel);
            }
        }
    }

    /// A group's output gradients with a row an output pixel: `out` `[examples * positions, d_out / groups]` from
    /// `grads` `[examples, d_out * positions]`.
    ///
    /// # Errors
    /// As [`ConvLayer::unfold`].
    pub fn output_gradients<T: Real>(
        &self,
        mut out: MatMut<'_, T>,
        grads: MatRef<'_, T>,
        group: usize,
    ) -> Result<(), Error> {
        self.check_group(group)?;
        check_shape("pixels of an output gradient", self.output_pixels, grads.cols())?;
        check_shape("rows of the output gradients", self.rows(grads.rows())?, out.rows())?;
        check_shape("output channels of a group", self.d_out, out.cols())?;
        let positions = self.positions();
        out.for_each_row(|row, pixel| {
            let (n, s) = (row / positions, row % positions);
            let own = &grads.row(n)[group * self.d_out * positions..];
            pixel.iter_mut().zip(own[s..].iter().step_by(positions)).for_each(|(to, &from)| *to = from);
        });
        Ok(())
    }

    fn check_group(&self, group: usize) -> Result<(), CoreError> {
        let groups = self.conv.groups;
        if group < groups { Ok(()) } else { Err(CoreError::Index { what: "group", index: group, len: groups }) }
    }

    fn rows(&self, examples: usize) -> Result<usize, CoreError> {
        examples.checked_mul(self.positions()).ok_or(CoreError::Overflow { what: "patches" })
    }

    /// Calls `visit(group, examples, record, more)` for every group of every chunk of examples. `draws` are the
    /// output gradients `[examples, d_out * positions]`, one matrix a draw; `record` has the first and `more` the
    /// others, as [`LayerCovariance::add`](super::LayerCovariance::add) and
    /// [`EigenvalueCorrection::add`](super::EigenvalueCorrection::add) take them.
    ///
    /// With `e = positions (patch + draws d_out / groups)` numbers an example, a chunk is `max(1, floor(2^22 / e))`
    /// examples: the work space is `max(2^22, e)` numbers at most, however many examples there are.
    ///
    /// # Errors
    /// A shape error, [`CoreError::Empty`] without a draw, [`CoreError::Overflow`] when a chunk does not fit into
    /// memory; nothing is visited then. Those of `visit`.
    pub fn each_record<T: Real>(
        &self,
        images: MatRef<'_, T>,
        draws: &[MatRef<'_, T>],
        mut visit: impl FnMut(usize, Range<usize>, &LayerRecord<'_, T>, &[MatRef<'_, T>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if draws.is_empty() {
            return Err(CoreError::Empty { what: "draws of output gradients" }.into());
        }
        let examples = images.rows();
        check_shape("pixels of an image", self.pixels, images.cols())?;
        for draw in draws {
            check_shape("examples of the output gradients", examples, draw.rows())?;
            check_shape("pixels of an output gradient", self.output_pixels, draw.cols())?;
        }
        let (d_in, d_out) = (self.d_in, self.d_out);
        let numbers = d_out.checked_mul(draws.len()).and_then(|x| x.checked_add(d_in));
        let numbers = numbers.and_then(|x| x.checked_mul(self.positions()));
        let chunk = CHUNK / numbers.ok_or(CoreError::Overflow { what: "patches of an example" })?;
        let chunk = chunk.clamp(1, examples.max(1));
        // The numbers of one example fit, and so do `CHUNK`.
        let rows = chunk * self.positions();
        let mut patches = zeros("patches", Some(rows * d_in))?;
        let mut grads = Vec::new();
        for _ in draws {
            grads.push(zeros("output gradients", Some(rows * d_out))?);
        }
        for first in (0..examples).step_by(chunk) {
            let count = chunk.min(examples - first);
            let rows = count * self.positions();
            for group in 0..self.conv.groups {
                let patches = &mut patches[..rows * d_in];
                self.unfold(MatMut::new(patches, rows, d_in)?, images.row_range(first, count)?, group)?;
                for (grads, draw) in grads.iter_mut().zip(draws) {
                    let out = MatMut::new(&mut grads[..rows * d_out], rows, d_out)?;
                    self.output_gradients(out, draw.row_range(first, count)?, group)?;
                }
                let grads = grads.iter().map(|grads| MatRef::new(&grads[..rows * d_out], rows, d_out));
                let grads = grads.collect::<Result<Vec<_>, _>>()?;
                let record = LayerRecord::new(count, MatRef::new(patches, rows, d_in)?, grads[0], None, self.bias)?;
                visit(group, first..first + count, &record, &grads[1..])?;
            }
        }
        Ok(())
    }

    /// The gradients of all examples, one a row of `out` `[examples, dim]`: the sum over the output pixels of output
    /// gradient times patch, group after group. Cost: `2 positions dim` flops an example, and the unfolding; error
    /// and memory as [`LayerRecord::gradient`] and [`ConvLayer::each_record`] say.
    ///
    /// # Errors
    /// As [`ConvLayer::each_record`]; nothing is written then.
    pub fn gradients<T: Real>(
        &self,
        mut out: MatMut<'_, T>,
        images: MatRef<'_, T>,
        grads: MatRef<'_, T>,
    ) -> Result<(), Error> {
        check_shape("gradient rows", images.rows(), out.rows())?;
        check_shape("gradient columns", self.dim, out.cols())?;
        let len = self.dim / self.conv.groups;
        self.each_record(images, &[grads], |group, examples, record, _| {
            let out = out.rb_mut().block(examples.start, examples.len(), group * len, len)?;
            Ok(record.gradients(out)?)
        })
    }
}
