//! Images and labels: the digits that come with this example, or a file of the user's.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const DIGITS: &[u8] = include_bytes!("../data/digits.safetensors");

/// Labelled square images.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dataset {
    /// `[n, p]`, row-major, every pixel in 0..=1.
    pub(crate) features: Vec<f32>,
    /// `[n]`, each less than `classes`.
    pub(crate) labels: Vec<usize>,
    /// The number of images.
    pub(crate) n: usize,
    /// The number of pixels of an image.
    pub(crate) p: usize,
    /// One more than the largest label of the file.
    pub(crate) classes: usize,
    /// The width and height of an image: `p = side * side`.
    pub(crate) side: usize,
}

impl Dataset {
    /// The file at `path`, or the built-in digits.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, String> {
        match path {
            None => Self::parse(DIGITS).map_err(|why| format!("the built-in digits: {why}")),
            Some(path) => {
                let file = path.display();
                let bytes =
                    fs::read(path).map_err(|why| format!("cannot read --data {file}: {why}; check the path"))?;
                Self::parse(&bytes).map_err(|why| format!("--data {file}: {why}"))
            }
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|why| {
            format!("not a whole safetensors file ({why}); write it again with a safetensors library")
        })?;
        let images = bytes_of(&file, "images")?;
        let labels = bytes_of(&file, "labels")?;
        let &[n, p] = images.shape() else {
            return Err(format!("tensor `images` has shape {:?}; it must be [n, p], one image a row", images.shape()));
        };
        if labels.shape() != [n] {
            return Err(format!(
                "tensor `labels` has shape {:?}; with {n} images it must be [{n}], one label an image",
                labels.shape()
            ));
        }
        if n == 0 || p == 0 {
            return Err(format!("tensor `images` has shape [{n}, {p}]; at least one image of one pixel is needed"));
        }
        let side = p.isqrt();
        if side * side != p {
            return Err(format!("images of {p} pixels are not square; p must be 64 (8x8), 784 (28x28), ..."));
        }
        let labels: Vec<usize> = labels.data().iter().map(|&label| usize::from(label)).collect();
        let classes = labels.iter().max().map_or(0, |largest| largest + 1);
        if classes < 2 {
            return Err("every label is 0; at least two classes are needed".into());
        }
        let brightest = images.data().iter().copied().max().unwrap_or(0);
        let scale = if brightest <= 16 { 16.0 } else { 255.0 };
        let features = images.data().iter().map(|&pixel| f32::from(pixel) / scale).collect();
        Ok(Self { features, labels, n, p, classes, side })
    }

    /// The first `train` images, and the `queries` images after them.
    pub(crate) fn split(&self, train: usize, queries: usize) -> Result<(Self, Self), String> {
        if train.saturating_add(queries) > self.n {
            return Err(format!(
                "--train {train} and --queries {queries} need {} images, and there are {}; lower one of them",
                train.saturating_add(queries),
                self.n
            ));
        }
        Ok((self.rows(0, train), self.rows(train, queries)))
    }

    fn rows(&self, start: usize, n: usize) -> Self {
        Self {
            features: self.features[start * self.p..(start + n) * self.p].to_vec(),
            labels: self.labels[start..start + n].to_vec(),
            n,
            ..*self
        }
    }

    /// The pixels of image `i`.
    pub(crate) fn image(&self, i: usize) -> &[f32] {
        &self.features[i * self.p..(i + 1) * self.p]
    }

    /// Tells two data sets apart (FNV-1a, 64 bits): what a saved ground truth remembers its data by.
    pub(crate) fn checksum(&self) -> u64 {
        let words = self.features.iter().map(|x| x.to_bits()).chain(self.labels.iter().map(|&label| label as u32));
        words
            .flat_map(u32::to_le_bytes)
            .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
    }
}

fn bytes_of<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, String> {
    let tensor = file.tensor(name).map_err(|_| {
        let mut names = file.names();
        names.sort_unstable();
        format!("there is no tensor `{name}` among {names:?}; `images` u8 [n, p] and `labels` u8 [n] are needed")
    })?;
    if tensor.dtype() == Dtype::U8 {
        Ok(tensor)
    } else {
        Err(format!("tensor `{name}` holds {}; convert it to u8", tensor.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Tensor<'a> = (&'a str, Dtype, Vec<usize>, &'a [u8]);

    fn parse(tensors: &[Tensor<'_>]) -> Result<Dataset, String> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        Dataset::parse(&safetensors::serialize(views, None).unwrap())
    }

    #[test]
    fn the_digits_are_those_of_uci() {
        let digits = Dataset::load(None).unwrap();
        assert_eq!((digits.n, digits.p, digits.classes, digits.side), (1797, 64, 10, 8));
        assert_eq!(digits.labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let ink: f32 = digits.features.iter().sum();
        assert_eq!(f64::from(ink) * 16.0, 561_718.0, "the sum of all pixels; every partial sum is exact in f32");
    }

    #[test]
    fn pixels_are_divided_by_16_or_255() {
        let labels = ("labels", Dtype::U8, vec![2], &[0, 1][..]);
        let small = parse(&[("images", Dtype::U8, vec![2, 1], &[4, 16]), labels.clone()]).unwrap();
        assert_eq!(small.features, [0.25, 1.0]);
        let large = parse(&[("images", Dtype::U8, vec![2, 1], &[51, 17]), labels]).unwrap();
        assert_eq!(large.features, [0.2, 17.0 / 255.0]);
    }

    #[test]
    fn a_split_takes_neighbouring_rows() {
        let digits = Dataset::load(None).unwrap();
        let (train, queries) = digits.split(1000, 797).unwrap();
        assert_eq!((train.n, queries.n, queries.classes), (1000, 797, 10));
        assert_eq!(queries.image(796), digits.image(1796));
        assert_ne!(train.checksum(), queries.checksum());
        for too_many in [(1000, 798), (usize::MAX, usize::MAX)] {
            let message = digits.split(too_many.0, too_many.1).unwrap_err();
            assert!(message.contains("there are 1797"), "{message}");
        }
    }

    #[test]
    fn a_wrong_file_says_what_to_change() {
        let images = ("images", Dtype::U8, vec![2, 4], &[0; 8][..]);
        let labels = ("labels", Dtype::U8, vec![2], &[0, 1][..]);
        let cases: [(&[Tensor<'_>], &str); 9] = [
            (&[], "no tensor `images`"),
            (std::slice::from_ref(&images), "no tensor `labels`"),
            (&[("images", Dtype::F32, vec![2, 1], &[0; 8]), labels.clone()], "convert it to u8"),
            (&[("images", Dtype::U8, vec![8], &[0; 8]), labels.clone()], "must be [n, p]"),
            (&[("images", Dtype::U8, vec![4, 2], &[0; 8]), labels.clone()], "must be [4]"),
            (&[("images", Dtype::U8, vec![2, 3], &[0; 6]), labels.clone()], "not square"),
            (&[("images", Dtype::U8, vec![2, 0], &[]), labels.clone()], "at least one image"),
            (&[("images", Dtype::U8, vec![0, 4], &[]), ("labels", Dtype::U8, vec![0], &[])], "at least one image"),
            (&[images.clone(), ("labels", Dtype::U8, vec![2], &[0, 0])], "two classes"),
        ];
        for (tensors, expected) in cases {
            let message = parse(tensors).unwrap_err();
            assert!(message.contains(expected), "{message:?} should say {expected:?}");
        }
        assert!(Dataset::parse(b"").unwrap_err().contains("safetensors"));
        assert!(Dataset::parse(&DIGITS[..DIGITS.len() - 1]).unwrap_err().contains("safetensors"));
        assert!(Dataset::load(Some(Path::new("/nonexistent"))).unwrap_err().contains("check the path"));
    }
}
