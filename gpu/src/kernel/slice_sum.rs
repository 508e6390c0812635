//! Products whose inner dimension is cut into slices: how deep these are, and the end, `shaders/slice_sum.wgsl`.

use super::product::{fitting, groups, workgroup_bytes};
use super::{Access, Kernel};
use crate::capabilities::Capabilities;
use crate::error::Error;
use crate::matrix::Binding;
use crate::recorder::{Dispatch, Recorder};

pub(super) static KERNEL: Kernel = Kernel {
    name: "slice_sum",
    source: include_str!("../../shaders/slice_sum.wgsl"),
    bindings: &[Access::Read, Access::Write],
    variants: &[&[]],
    constants: &[&[]],
};

const LANES: usize = 64;

/// The least depth of a slice of the inner dimension.
const SLICE: usize = 512;

/// The depth of the deepest panel, a multiple of that of the others.
const DEEPEST: usize = 16;

/// How deep the slices of an `m x k` by `k x n` product are, for at least `enough` workgroups: with the largest tile
/// that comes to so many, or with the smallest. All of `k` is one slice. Bits depend on it, hence on the sizes and the
/// device's limits alone.
pub(super) fn slice_depth(device: &Capabilities, [m, n, k]: [usize; 3], enough: usize) -> Result<usize, Error> {
    // The sums of all slices have to lie in one piece.
    let most = (k / SLICE).min((device.max_binding_bytes / (4 * m as u64 * n as u64)) as usize);
    let mut depth = k;
    for tile in fitting(workgroup_bytes, device)? {
        let tiles = groups(tile, [n, m, 1]).iter().product::<u64>() as usize;
        let wanted = enough.div_ceil(tiles).min(most).max(1);
        // A panel never reaches into the next slice.
        depth = if wanted == 1 { k } else { k.div_ceil(wanted).next_multiple_of(DEEPEST) };
        if tiles * k.div_ceil(depth) >= enough {
            break;
        }
    }
    Ok(depth)
}

/// The results of slices, `[slices, rows, cols]`, and where their sum goes: its first element, and the distance of its rows.
pub(super) struct SliceSum {
    pub(super) slices: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) first: usize,
    pub(super) stride: usize,
}

impl Recorder {
    /// `C = beta C + alpha (P_0 + P_1 + ..)`, in order. One dispatch.
    pub(super) fn slice_sum(
        &mut self,
        c: Binding<'_>,
        [beta, alpha]: [f32; 2],
        partial: Binding<'_>,
        SliceSum { slices, rows, cols, first, stride }: SliceSum,
    ) -> Result<(), Error> {
        let [m, n, slices, first, stride] = [rows, cols, slices, first, stride].map(|size| size as u32);
        self.dispatch(&Dispatch {
            kernel: &KERNEL,
            flags: &[],
            constants: &[],
            params: &[m, n, slices, first, stride, alpha.to_bits(), beta.to_bits()],
            bindings: [partial, c],
            groups: [cols.div_ceil(LANES) as u64, rows as u64, 1],
        })
    }
}
