//! What all rows of a store have in common.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use ascribe_core::quantize::{int8_block, one_bit};

use super::Fault;

/// The version of the layout; files of another one are refused.
const VERSION: &str = "1";

/// How the numbers of a row are stored; the formats are those of [`ascribe_core::quantize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// As they are.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Eight bits each, with a scale for every `block` neighbours.
    Int8 {
        /// The numbers that share a scale.
        block: usize,
    },
    /// The sign, with a scale for each row.
    OneBit,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 { .. } => "int8_block",
            Self::OneBit => "one_bit",
        }
    }

    /// The tensor type of the codes, the bytes of one of them, and their number in a row of `dim`.
    pub(super) fn codes(self, dim: usize) -> (&'static str, usize, usize) {
        match self {
            Self::F32 => ("F32", 4, dim),
            Self::F16 => ("F16", 2, dim),
            Self::Bf16 => ("BF16", 2, dim),
            Self::Int8 { .. } => ("I8", 1, dim),
            Self::OneBit => ("U8", 1, one_bit::packed_len(dim)),
        }
    }

    /// The number of scales of a row of `dim`; `None` for formats that have none.
    pub(super) fn scales(self, dim: usize) -> Option<usize> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Int8 { block } => Some(int8_block::scales_len(dim, block)),
            Self::OneBit => Some(1),
        }
    }
}

/// What all rows of a store have in common: a store holds rows of one header, and files of another are refused.
///
/// # Examples
/// ```
/// use ascribe_solvers::store::{Format, Header};
/// let mut header = Header::new(96, Format::Int8 { block: 64 });
/// header.layers = vec![("fc1".to_owned(), 64), ("fc2".to_owned(), 32)];
/// header.sketch.insert("kind".to_owned(), "sjlt".to_owned());
/// header.sketch.insert("seed".to_owned(), "7".to_owned());
/// header.fingerprint = "resnet9, step 12000".to_owned();
/// assert_eq!(header.layer("fc2"), Some(64..96));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The numbers of a row.
    pub dim: usize,
    /// How they are stored.
    pub format: Format,
    /// The layers whose sketches make up a row, in order: names and numbers of columns, which add up to `dim`. Empty
    /// for rows that are not cut into layers.
    pub layers: Vec<(String, usize)>,
    /// Whatever it takes to make the same sketch again: its kind, sizes, seed.
    pub sketch: BTreeMap<String, String>,
    /// Which model the gradients are of: a digest of its parameters, a name and a step.
    pub fingerprint: String,
}

impl Header {
    /// Rows of `dim` numbers without a word on where they come from.
    pub fn new(dim: usize, format: Format) -> Self {
        Self { dim, format, layers: Vec::new(), sketch: BTreeMap::new(), fingerprint: String::new() }
    }

    /// The columns of the first layer of this name.
    pub fn layer(&self, name: &str) -> Option<Range<usize>> {
        let mut start = 0_usize;
        for (layer, columns) in &self.layers {
            let end = start.checked_add(*columns)?;
            if layer == name {
                return Some(start..end);
            }
            start = end;
        }
        None
    }

    /// The bytes of a row's codes.
    pub(super) fn row_bytes(&self) -> usize {
        let (_, bytes, codes) = self.format.codes(self.dim);
        bytes * codes
    }

    /// The scales of a row.
    pub(super) fn row_scales(&self) -> usize {
        self.format.scales(self.dim).unwrap_or(0)
    }

    /// No contradiction, or the fault that says which; the sizes of a row do not overflow then.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.format == (Format::Int8 { block: 0 }) {
            return Err(Fault::Header { why: "blocks of int8 hold at least one number" });
        }
        if self.dim > isize::MAX as usize / 8 {
            return Err(Fault::Header { why: "no memory can hold a row of so many numbers" });
        }
        let columns = self.layers.iter().try_fold(0_usize, |sum, (_, columns)| sum.checked_add(*columns));
        if !self.layers.is_empty() && columns != Some(self.dim) {
            return Err(Fault::Header { why: "the columns of the layers do not add up to a row" });
        }
        Ok(())
    }

    /// The first thing in which the other header differs.
    pub(super) fn check_same(&self, other: &Self) -> Result<(), Fault> {
        let same = [
            ("number of columns", self.dim == other.dim),
            ("format", self.format == other.format),
            ("list of layers", self.layers == other.layers),
            ("sketch", self.sketch == other.sketch),
            ("model's fingerprint", self.fingerprint == other.fingerprint),
        ];
        same.into_iter().find(|(_, same)| !same).map_or(Ok(()), |(what, _)| Err(Fault::Differs { what }))
    }

    /// The header as the strings of a safetensors file, in the order in which they are written.
    pub(super) fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        let block = if let Format::Int8 { block } = self.format { block } else { 0 };
        let pairs = [
            ("format", "ascribe".to_owned()),
            ("kind", "rows".to_owned()),
            ("version", VERSION.to_owned()),
            ("dim", self.dim.to_string()),
            ("encoding", self.format.name().to_owned()),
            ("block", block.to_string()),
            ("layers", serde_json::json!(self.layers).to_string()),
            ("sketch", serde_json::json!(self.sketch).to_string()),
            ("fingerprint", self.fingerprint.clone()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
    }

    /// The header that these strings say.
    pub(super) fn from_metadata(metadata: &HashMap<String, String>) -> Result<Self, Fault> {
        let text = |key: &str| match metadata.get(key) {
            Some(value) => Ok(value.as_str()),
            None => Err(Fault::format(format!("its metadata has no \"{key}\""))),
        };
        for (key, value) in [("format", "ascribe"), ("kind", "rows"), ("version", VERSION)] {
            let found = text(key)?;
            if found != value {
                return Err(Fault::format(format!("\"{key}\" is \"{found}\", not \"{value}\"")));
            }
        }
        let wrong = |key: &str| Fault::format(format!("\"{key}\" in its metadata makes no sense"));
        let number = |key| text(key)?.parse::<usize>().map_err(|_| wrong(key));
        let int8 = Format::Int8 { block: number("block")? };
        let encoding = text("encoding")?;
        let formats = [Format::F32, Format::F16, Format::Bf16, int8, Format::OneBit];
        let header = Self {
            dim: number("dim")?,
            format: formats.into_iter().find(|f| f.name() == encoding).ok_or_else(|| wrong("encoding"))?,
            layers: serde_json::from_str(text("layers")?).map_err(|_| wrong("layers"))?,
            sketch: serde_json::from_str(text("sketch")?).map_err(|_| wrong("sketch"))?,
            fingerprint: text("fingerprint")?.to_owned(),
        };
        header.check()?;
        Ok(header)
    }
}
