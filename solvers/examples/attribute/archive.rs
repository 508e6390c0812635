//! The retraining results as a file, which is used again only by a run that would have made the same.

use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

use crate::file;
use crate::ground_truth::{GroundTruth, Settings, check_margins};

/// Writes `subsets` u32 [subsets, half], `margins` f64 [subsets, seeds, queries], and the settings as JSON.
pub(crate) fn save(path: &Path, truth: &GroundTruth, settings: &Settings) -> Result<(), String> {
    file::write(path, &to_bytes(truth, settings).map_err(|why| why.to_string())?)
}

/// Reads what [`save`] wrote, if it was for the same settings.
pub(crate) fn load(path: &Path, settings: &Settings) -> Result<GroundTruth, String> {
    let name = path.display();
    let bytes = fs::read(path).map_err(|why| format!("cannot read --ground-truth {name}: {why}"))?;
    from_bytes(&bytes, settings).map_err(|why| {
        format!("--ground-truth {name} {why}; the file is left as it is: give the settings it has, or another file")
    })
}

fn to_bytes(truth: &GroundTruth, settings: &Settings) -> Result<Vec<u8>, SafeTensorError> {
    let rows: Vec<u8> = truth.subsets.iter().flatten().flat_map(|&row| (row as u32).to_le_bytes()).collect();
    let margins: Vec<u8> = truth.margins.iter().flat_map(|margin| margin.to_le_bytes()).collect();
    let &Settings { subsets, seeds, train, queries, .. } = settings;
    let tensors = [
        ("subsets", TensorView::new(Dtype::U32, vec![subsets, train / 2], &rows)?),
        ("margins", TensorView::new(Dtype::F64, vec![subsets, seeds, queries], &margins)?),
    ];
    safetensors::serialize(tensors, Some([("settings".into(), text(settings))].into()))
}

fn from_bytes(bytes: &[u8], settings: &Settings) -> Result<GroundTruth, String> {
    let stored = Stored::parse(bytes).ok_or("is not a ground truth that this program wrote")?;
    let differences = differences(&stored.settings, settings);
    if !differences.is_empty() {
        return Err(format!("was made with other settings ({})", differences.join("; ")));
    }
    let subsets = settings.draw_subsets().map_err(|why| why.to_string())?;
    let &Settings { seeds, queries, .. } = settings;
    let fits = stored.rows == subsets.concat() && stored.margins.len() == subsets.len() * seeds * queries;
    match check_margins(stored.margins) {
        Ok(margins) if fits => Ok(GroundTruth { subsets, margins, seeds, queries }),
        _ => Err("is damaged: its numbers do not fit its settings".into()),
    }
}

/// The content of a ground truth file, of whatever settings.
struct Stored {
    settings: Map<String, Value>,
    rows: Vec<usize>,
    margins: Vec<f64>,
}

impl Stored {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        let settings = serde_json::from_str(header.metadata().as_ref()?.get("settings")?).ok()?;
        let file = SafeTensors::deserialize(bytes).ok()?;
        let data = |name, dtype| file.tensor(name).ok().filter(|tensor| tensor.dtype() == dtype).map(|t| t.data());
        let rows = data("subsets", Dtype::U32)?.as_chunks().0;
        let margins = data("margins", Dtype::F64)?.as_chunks().0;
        Some(Self {
            settings,
            rows: rows.iter().map(|&bytes| u32::from_le_bytes(bytes) as usize).collect(),
            margins: margins.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect(),
        })
    }
}

fn text(settings: &Settings) -> String {
    Value::from(settings.named.clone()).to_string()
}

/// Each setting that is stored with another value than it has now.
fn differences(stored: &Map<String, Value>, settings: &Settings) -> Vec<String> {
    // Printed and parsed as the stored ones were, which may cost a number its last bit.
    let asked: Map<String, Value> = serde_json::from_str(&text(settings)).unwrap_or_default();
    let names = asked.keys().chain(stored.keys().filter(|&name| !asked.contains_key(name)));
    let show = |value: Option<&Value>| value.map_or("none".into(), Value::to_string);
    names
        .filter(|&name| stored.get(name) != asked.get(name))
        .map(|name| format!("{name}: {} there, {} now", show(stored.get(name)), show(asked.get(name))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use crate::options::{Options, Parsed};

    fn settings(line: &str) -> Settings {
        let args = ["--train=9", "--queries=3", "--subsets=2", "--seeds=2"].into_iter().chain(line.split_whitespace());
        let Ok(Parsed::Run(options)) = Options::parse(args.map(Into::into), &[]) else { panic!("{line}") };
        Settings::new(&options, &Dataset::load(None).unwrap())
    }

    fn truth(settings: &Settings) -> GroundTruth {
        // The first of them needs all its 17 digits.
        let margins = (0..12).map(|i| 0.1 + 0.2 + f64::from(i)).collect();
        GroundTruth { subsets: settings.draw_subsets().unwrap(), margins, seeds: 2, queries: 3 }
    }

    #[test]
    fn what_was_saved_is_loaded_and_the_file_is_whole_or_absent() {
        let folder = std::env::temp_dir().join(format!("attribute-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("truth.safetensors");
        let settings = settings("--lr 0.30000000000000004");
        save(&path, &truth(&settings), &settings).unwrap();
        assert_eq!(load(&path, &settings), Ok(truth(&settings)));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no partial file stays behind");

        let before = fs::read(&path).unwrap();
        let message = load(&path, &self::settings("--lr 0.5 --hidden none")).unwrap_err();
        assert!(
            message.contains("hidden: [128,64] there, [] now; lr: 0.30000000000000004 there, 0.5 now"),
            "{message}"
        );
        assert!(message.contains("left as it is"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::remove_dir_all(&folder).unwrap();
        assert!(save(&path, &truth(&settings), &settings).unwrap_err().contains("choose a folder that exists"));
    }

    #[test]
    fn every_setting_that_matters_is_compared() {
        let original = settings("");
        let bytes = to_bytes(&truth(&original), &original).unwrap();
        let changes = [
            "--train 10",
            "--queries 4",
            "--subsets 3",
            "--seeds 3",
            "--seed 1",
            "--hidden 128",
            "--activation tanh",
            "--epochs 31",
            "--steps 30",
            "--batch 65",
            "--lr 0.02",
            "--momentum 0.8",
            "--weight-decay 0.1",
        ];
        for change in changes {
            let name = change[2..].split(' ').next().unwrap().replace('-', "_");
            let message = from_bytes(&bytes, &settings(change)).unwrap_err();
            assert!(message.contains(&format!("{name}: ")), "{change}: {message}");
        }
        let mut other_data = original.clone();
        other_data.named["data"] = "another".into();
        assert!(from_bytes(&bytes, &other_data).unwrap_err().contains("data: "));
        for same in ["--threads 7", "--device gpu", "--damping 3", "--models 2", "--out elsewhere"] {
            assert!(from_bytes(&bytes, &settings(same)).is_ok(), "{same} changes no retraining");
        }
    }

    #[test]
    fn a_foreign_or_damaged_file_is_refused() {
        let settings = settings("");
        let good = truth(&settings);
        let bytes = to_bytes(&good, &settings).unwrap();
        for foreign in
            [&b""[..], b"attribution", &bytes[..bytes.len() - 1], &include_bytes!("../data/digits.safetensors")[..]]
        {
            assert!(from_bytes(foreign, &settings).unwrap_err().contains("not a ground truth"));
        }
        let mut nan = good.clone();
        nan.margins[3] = f64::NAN;
        let mut moved = good.clone();
        moved.subsets.reverse();
        for damaged in [nan, moved] {
            let message = from_bytes(&to_bytes(&damaged, &settings).unwrap(), &settings).unwrap_err();
            assert!(message.contains("damaged"), "{message}");
        }
    }
}
