//! The tiles of `shaders/shared/product.wgsl`, and which of them to take.

use crate::capabilities::Capabilities;
use crate::error::Error;

/// Invocations along a row and a column of the output, and the depth of a panel.
pub(super) type Tile = [(&'static str, u32); 3];

pub(super) const fn tile(wide: u32, high: u32, depth: u32) -> Tile {
    [("WIDE", wide), ("HIGH", high), ("DEPTH", depth)]
}

/// From the one that reads least (128 x 64 elements) to the one that fills a device soonest; the last is for devices with
/// hardly any workgroup memory.
pub(super) static TILES: [Tile; 4] = [tile(16, 16, 16), tile(16, 8, 16), tile(8, 4, 16), tile(8, 4, 4)];

/// Workgroups below which a device has too little to do: sums are cut to have so many. Bits depend on it.
pub(super) const ENOUGH: usize = 128;

/// Fours of neighbours are loaded at once.
pub(super) const VEC4: &str = "VEC4";
/// Neighbours in a column of the first operand are neighbours in memory.
pub(super) const A_TRANSPOSED: &str = "A_TRANSPOSED";
/// Neighbours in a column of the second operand are neighbours in memory.
pub(super) const B_TRANSPOSED: &str = "B_TRANSPOSED";

/// Whether subgroups can share what they need of the first operand: all of one size, whose lanes can lie in one row of the
/// tile and are enough for what four steps take.
pub(super) fn subgroups(device: &Capabilities, tile: &Tile) -> bool {
    let fits = |size: u32| size >= 8 && size.is_power_of_two() && tile[0].1.is_multiple_of(size);
    device.subgroups.is_some_and(|(min, max)| min == max && fits(min))
}

/// The workgroup memory that a kernel takes for a tile.
pub(super) type TileBytes = fn(&Tile) -> u32;

/// That of the panels of `shaders/shared/product.wgsl`.
pub(super) fn workgroup_bytes(&[(_, wide), (_, high), (_, depth)]: &Tile) -> u32 {
    16 * depth * (wide + 2 * high)
}

/// The workgroups of products with so many columns and rows, and how many products there are.
pub(super) fn groups(&[(_, wide), (_, high), _]: &Tile, [cols, rows, products]: [usize; 3]) -> [u64; 3] {
    [(cols as u64).div_ceil(u64::from(wide) * 4), (rows as u64).div_ceil(u64::from(high) * 8), products as u64]
}

/// The elements that are computed, with those beyond the edges of the products.
fn covered(tile: &Tile, sizes: [usize; 3]) -> u64 {
    groups(tile, sizes).iter().product::<u64>() * u64::from(32 * tile[0].1 * tile[1].1)
}

/// Whether a device can hold a tile that takes so much workgroup memory.
pub(super) fn fits(device: &Capabilities, bytes: u32, tile: &Tile) -> bool {
    bytes <= device.max_workgroup_bytes && tile[0].1 * tile[1].1 <= device.max_invocations
}

/// The largest tile that the device can hold, that leaves it enough to do, and that computes at most a quarter more than
/// the smallest one would, or that one; `sizes` as in [`groups`]. No bit depends on it.
///
/// There is enough to do with as many workgroups as each has invocations. For the largest tile that is 256, two for each
/// processor of the largest GPUs: one computes while the other waits for its panels, and a last round that is not full
/// costs less. For 64 x 64 it is 128, because the next tile, 32 x 32, reads twice as much.
pub(super) fn select(device: &Capabilities, sizes: [usize; 3]) -> Result<&'static Tile, Error> {
    select_by(workgroup_bytes, device, sizes)
}

/// As [`select`], for panels that take as many bytes as `bytes` says.
pub(super) fn select_by(bytes: TileBytes, device: &Capabilities, sizes: [usize; 3]) -> Result<&'static Tile, Error> {
    let tiles = fitting(bytes, device)?;
    let busy = |tile: &Tile| groups(tile, sizes).iter().product::<u64>() >= u64::from(tile[0].1 * tile[1].1);
    let full = |tile: &Tile| 4 * covered(tile, sizes) <= 5 * covered(&TILES[3], sizes);
    Ok(tiles.iter().find(|tile| busy(tile) && full(tile)).unwrap_or(&tiles[tiles.len() - 1]))
}

/// The tiles that the device can hold, the largest first: at least one. The flat one only for want of memory: its panels
/// are too flat to be fast.
pub(super) fn fitting(bytes: TileBytes, device: &Capabilities) -> Result<&'static [Tile], Error> {
    let flat = TILES.len() - 1;
    let first = TILES.iter().position(|tile| fits(device, bytes(tile), tile));
    first.map(|first| &TILES[first..flat.max(first + 1)]).ok_or_else(|| too_little(device, bytes(&TILES[flat])))
}

/// The device has not enough workgroup memory for any tile.
pub(super) fn too_little(device: &Capabilities, needed: u32) -> Error {
    let limit = device.max_workgroup_bytes.into();
    Error::Limit { what: "bytes of workgroup memory for a product", needed: needed.into(), limit }
}
