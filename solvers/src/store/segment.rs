//! One file of a store: a batch of rows, their ids and their checksums.

use std::ops::Range;

use ascribe_core::MatRef;
use bytemuck::AnyBitPattern;
use crc32fast::hash;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use super::{Fault, Format, Header};
use crate::score::{Int8Rows, OneBitRows, StoredRows};

/// Checksums of the ids, the scales and the rows, and then of all bytes before this last one.
const CHECKSUMS: usize = 4;
/// The bytes of a line of cache: rows start at a multiple of them where the sizes allow.
const LINE: usize = 64;

/// Rows of a store in the format that they are stored in.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The examples, one a row.
    pub ids: &'a [u64],
    /// Their rows.
    pub rows: StoredRows<'a>,
}

/// The bytes of a segment up to its scales, which with the rows follow as they are.
pub(super) fn front(header: &Header, ids: &[u64], scales: &[f32], rows: &[u8]) -> Vec<u8> {
    let (dtype, _, codes) = header.format.codes(header.dim);
    let mut text = serde_json::Map::new();
    text.insert("__metadata__".to_owned(), Value::Object(header.metadata()));
    let mut end = 0;
    let mut tensor = |name: &str, dtype: &str, shape: &[usize], bytes: usize| {
        let start = end;
        end += bytes;
        text.insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        start
    };
    tensor("checksums", "U32", &[CHECKSUMS], 4 * CHECKSUMS);
    tensor("ids", "U64", &[ids.len()], size_of_val(ids));
    if let Some(columns) = header.format.scales(header.dim) {
        tensor("scales", "F32", &[ids.len(), columns], size_of_val(scales));
    }
    let before_rows = tensor("rows", dtype, &[ids.len(), codes], rows.len());

    let mut text = Value::Object(text).to_string();
    // Spaces behind the text move the tensors; ids must stay at a multiple of 8.
    let tail = before_rows & !7;
    let padded = (8 + text.len() + tail).next_multiple_of(LINE) - tail - 8;
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    let mut front = (text.len() as u64).to_le_bytes().to_vec();
    front.extend(text.as_bytes());
    for part in [bytemuck::cast_slice(ids), bytemuck::cast_slice(scales), rows] {
        front.extend(hash(part).to_le_bytes());
    }
    front.extend(hash(&front).to_le_bytes());
    front.extend(bytemuck::cast_slice::<_, u8>(ids));
    front
}

/// Where in a segment's bytes what is, found to be of the right kinds and sizes.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) header: Header,
    /// The number of rows.
    pub(super) len: usize,
    checksums: [u32; CHECKSUMS],
    ids: Range<usize>,
    scales: Range<usize>,
    rows: Range<usize>,
}

impl Layout {
    /// Reads a segment up to its ids and checks all of that; of scales and rows it looks at the sizes alone.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let (text, tensors) = SafeTensors::read_metadata(bytes).map_err(|error| Fault::format(error.to_string()))?;
        let data = 8 + text;
        let Some(metadata) = tensors.metadata() else { return Err(Fault::format("it has no metadata")) };
        let header = Header::from_metadata(metadata)?;

        let find = |name, dtype, shape: &[usize]| find(&tensors, data, name, dtype, shape);
        let place = find("checksums", "U32", &[CHECKSUMS])?;
        let checksums = bytemuck::pod_read_unaligned::<[u32; CHECKSUMS]>(&bytes[place.clone()]);
        let [.., of_front] = checksums;
        if place.start != data || hash(&bytes[..place.end - 4]) != of_front {
            return Err(Fault::Damaged { part: "header" });
        }
        let len = tensors.info("ids").and_then(|ids| ids.shape.first().copied()).unwrap_or(0);
        let ids = find("ids", "U64", &[len])?;
        let scales = match header.format.scales(header.dim) {
            Some(columns) => find("scales", "F32", &[len, columns])?,
            None => ids.end..ids.end,
        };
        let (dtype, _, codes) = header.format.codes(header.dim);
        let rows = find("rows", dtype, &[len, codes])?;
        let tensors_of_ours = 3 + usize::from(header.format.scales(header.dim).is_some());
        if tensors.offset_keys().len() != tensors_of_ours {
            return Err(Fault::format("it has tensors that no segment has"));
        }
        let layout = Self { header, len, checksums, ids, scales, rows };
        if hash(&bytes[layout.ids.clone()]) != checksums[0] {
            return Err(Fault::Damaged { part: "ids" });
        }
        layout.block(bytes, 0, len)?;
        Ok(layout)
    }

    /// Reads everything and compares the checksums.
    pub(super) fn verify(&self, bytes: &[u8]) -> Result<(), Fault> {
        let parts = [("ids", &self.ids), ("scales", &self.scales), ("rows", &self.rows)];
        for ((part, place), checksum) in parts.into_iter().zip(self.checksums) {
            if hash(&bytes[place.clone()]) != checksum {
                return Err(Fault::Damaged { part });
            }
        }
        Ok(())
    }

    /// Where the codes of the rows `first..first + rows` are, which are inside.
    pub(super) fn row_bytes(&self, first: usize, rows: usize) -> Range<usize> {
        let start = self.rows.start + first * self.header.row_bytes();
        start..start + rows * self.header.row_bytes()
    }

    /// Where their scales are.
    pub(super) fn scale_bytes(&self, first: usize, rows: usize) -> Range<usize> {
        let start = self.scales.start + 4 * first * self.header.row_scales();
        start..start + 4 * rows * self.header.row_scales()
    }

    /// The ids, without a copy.
    pub(super) fn ids<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u64], Fault> {
        cast(&bytes[self.ids.clone()])
    }

    /// The rows `first..first + rows`, which are inside.
    pub(super) fn block<'a>(&self, bytes: &'a [u8], first: usize, rows: usize) -> Result<Block<'a>, Fault> {
        let (dim, ids) = (self.header.dim, &self.ids(bytes)?[first..first + rows]);
        let (codes, scales) = (&bytes[self.row_bytes(first, rows)], &bytes[self.scale_bytes(first, rows)]);
        let no_block = |_| Fault::format("its sizes do not fit");
        let rows = match self.header.format {
            Format::F32 => MatRef::new(cast(codes)?, rows, dim).map(StoredRows::F32),
            Format::F16 => MatRef::new(cast(codes)?, rows, dim).map(StoredRows::F16),
            Format::Bf16 => MatRef::new(cast(codes)?, rows, dim).map(StoredRows::Bf16),
            Format::Int8 { block } => {
                let scales = MatRef::new(cast(scales)?, rows, self.header.row_scales()).map_err(no_block)?;
                let codes = MatRef::new(cast(codes)?, rows, dim).map_err(no_block)?;
                Int8Rows::new(codes, scales, block).map(StoredRows::Int8)
            }
            Format::OneBit => {
                let bits = MatRef::new(codes, rows, self.header.row_bytes()).map_err(no_block)?;
                OneBitRows::new(bits, cast(scales)?, dim).map(StoredRows::OneBit)
            }
        };
        Ok(Block { ids, rows: rows.map_err(no_block)? })
    }
}

/// Where a tensor of this type and shape is.
fn find(tensors: &Metadata, data: usize, name: &str, dtype: &str, shape: &[usize]) -> Result<Range<usize>, Fault> {
    let Some(TensorInfo { dtype: found, shape: found_shape, data_offsets: (start, end) }) = tensors.info(name) else {
        return Err(Fault::format(format!("it has no tensor \"{name}\"")));
    };
    if found.to_string() != dtype || found_shape != shape {
        let why = format!("tensor \"{name}\" is {found} {found_shape:?}, not {dtype} {shape:?}");
        return Err(Fault::Format { why });
    }
    Ok(data + start..data + end)
}

/// The same bytes as numbers.
pub(super) fn cast<T: AnyBitPattern>(bytes: &[u8]) -> Result<&[T], Fault> {
    bytemuck::try_cast_slice(bytes)
        .map_err(|_| Fault::format("a tensor does not start at a multiple of its type's size"))
}
