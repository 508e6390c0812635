//! What can be asked for on the command line.

use std::ffi::OsString;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;

use ascribe_solvers::network::Activation;
use lexopt::{Arg, Parser};
use serde_json::{Map, Value, json};

use crate::argument::{MAX_COUNT, advice, choice, chosen, count, number, path, text, widths};

const HELP: &str = "\
Which training examples made the model decide as it did, by how much, and how far each method is to be trusted.

Usage: cargo run --release --example attribute -- [OPTIONS]

Data
  --data FILE          safetensors file with `images` u8 [n, p], `labels` u8 [n]  [the UCI digits]
  --train N            the first N images train the model                         [1000]
  --queries N          the next N images are the ones to explain                  [100]

Model
  --model KIND         mlp, by SGD; or logistic, by Newton to its optimum         [mlp]
  --hidden LIST        widths of the hidden layers, such as 512,256,128; or none  [128,64]
  --activation NAME    {activations}  [relu]
  --epochs N           passes over the training set                               [30]
  --steps N            optimiser steps of every run, instead of --epochs
  --batch N            examples a step                                            [64]
  --lr X               learning rate                                              [0.03]
  --momentum X         from 0 to below 1                                          [0.9]
  --weight-decay X     L2 penalty X/2 |w|^2                                       [0; logistic: 0.001]
  --models N           models that differ in their seed; scores are averaged      [1]
  --seed N             where every random number comes from                       [0]

Attribution
  --methods LIST       names from the list below, or all                          [all]
  --damping X          added to the curvature; for an mlp 1 / (rate steps) with
                       rate = lr / (1 - momentum), for logistic the weight decay  [as said]
  --sketch K           numbers that the sketching methods keep of a gradient      [768]
  --lengths LIST       values of K for the second chart; or none                  [64,256,1024,4096]

Ground truth
  --subsets N          random halves of the training set to retrain on            [100]
  --seeds N            retrainings of each half                                   [5; logistic: 1]
  --ground-truth FILE  keep the retraining results here, and use them next time

Running
  --device NAME        cpu; or gpu, which computes the sketches and the scores    [cpu]
  --threads N          retrainings at a time; never changes a result              [all cores]
  --out DIR            where attribution.svg and attribution.json are written     [.]
  --help               this text

Methods
";

const POSITIVE: RangeInclusive<f64> = f64::MIN_POSITIVE..=f64::MAX;

/// Names and meanings of `--model`.
const MODELS: &[(&str, ModelKind)] = &[("mlp", ModelKind::Mlp), ("logistic", ModelKind::Logistic)];

/// The network and how it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelKind {
    /// A multilayer perceptron, by SGD: another seed gives another model.
    Mlp,
    /// Multinomial logistic regression, by Newton's method: the data alone decides the model.
    Logistic,
}

/// Names and meanings of `--device`.
const DEVICES: &[(&str, DeviceKind)] = &[("cpu", DeviceKind::Cpu), ("gpu", DeviceKind::Gpu)];

/// What computes sketches and scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    Cpu,
    Gpu,
}

/// How long a run of SGD is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Epochs(usize),
    Steps(usize),
}

/// A checked command line: every number is in its range, and what was not given has its default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) data: Option<PathBuf>,
    pub(crate) train: usize,
    pub(crate) queries: usize,
    pub(crate) model: ModelKind,
    pub(crate) hidden: Vec<usize>,
    pub(crate) activation: Activation,
    pub(crate) length: Length,
    pub(crate) batch: usize,
    pub(crate) lr: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) models: usize,
    pub(crate) seed: u64,
    pub(crate) methods: Vec<&'static str>,
    pub(crate) damping: f64,
    pub(crate) sketch: usize,
    pub(crate) lengths: Vec<usize>,
    pub(crate) subsets: usize,
    pub(crate) seeds: usize,
    pub(crate) ground_truth: Option<PathBuf>,
    pub(crate) device: DeviceKind,
    pub(crate) threads: usize,
    pub(crate) out: PathBuf,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parsed {
    Run(Box<Options>),
    Help,
}

impl Options {
    /// Reads the arguments after the program's name; `methods` are the names that `--methods` may use.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>, methods: &[&'static str]) -> Result<Parsed, String> {
        let mut options = Self {
            data: None,
            train: 1000,
            queries: 100,
            model: ModelKind::Mlp,
            hidden: vec![128, 64],
            activation: Activation::Relu,
            length: Length::Epochs(30),
            batch: 64,
            lr: 0.03,
            momentum: 0.9,
            weight_decay: 0.0,
            models: 1,
            seed: 0,
            methods: methods.to_vec(),
            damping: 0.0,
            sketch: 768,
            lengths: vec![64, 256, 1024, 4096],
            subsets: 100,
            seeds: 1,
            ground_truth: None,
            device: DeviceKind::Cpu,
            threads: thread::available_parallelism().map_or(1, usize::from),
            out: PathBuf::from("."),
        };
        let (mut seeds, mut weight_decay, mut damping) = (None, None, None);
        let mut given = Vec::new();

        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(|why| advice(&why))? {
            let name = match arg {
                Arg::Short('h') => return Ok(Parsed::Help),
                Arg::Long(name) => name.to_owned(),
                other => return Err(advice(&other.unexpected())),
            };
            let value = &mut parser;
            match name.as_str() {
                "help" => return Ok(Parsed::Help),
                "data" => options.data = Some(path(value)?),
                "train" => options.train = count(value, &name, 2)?,
                "queries" => options.queries = count(value, &name, 1)?,
                "model" => options.model = choice(value, &name, MODELS)?,
                "hidden" => options.hidden = widths(&name, &text(value)?)?,
                "activation" => options.activation = choice(value, &name, &Activation::NAMES)?,
                "epochs" => options.length = Length::Epochs(count(value, &name, 1)?),
                "steps" => options.length = Length::Steps(count(value, &name, 1)?),
                "batch" => options.batch = count(value, &name, 1)?,
                "lr" => options.lr = number(value, &name, POSITIVE, "a number above 0")?,
                "momentum" => options.momentum = number(value, &name, 0.0..1.0, "a number from 0 to below 1")?,
                "weight-decay" => weight_decay = Some(number(value, &name, 0.0..=f64::MAX, "a number, 0 or more")?),
                "models" => options.models = count(value, &name, 1)?,
                "seed" => options.seed = number(value, &name, .., "a whole number from 0 to 2^64 - 1")?,
                "methods" => options.methods = chosen(&text(value)?, methods)?,
                "damping" => damping = Some(number(value, &name, POSITIVE, "a number above 0")?),
                "sketch" => options.sketch = count(value, &name, 1)?,
                "lengths" => options.lengths = widths(&name, &text(value)?)?,
                "subsets" => options.subsets = count(value, &name, 2)?,
                "seeds" => seeds = Some(count(value, &name, 1)?),
                "ground-truth" => options.ground_truth = Some(path(value)?),
                "device" => options.device = choice(value, &name, DEVICES)?,
                "threads" => options.threads = number(value, &name, 1..=1024, "a whole number from 1 to 1024")?,
                "out" => options.out = path(value)?,
                _ => return Err(format!("there is no option --{name}; --help lists them all")),
            }
            given.push(name);
        }

        options.check_combinations(&given, seeds)?;
        let logistic = options.model == ModelKind::Logistic;
        options.seeds = seeds.unwrap_or(if logistic { 1 } else { 5 });
        options.weight_decay = weight_decay.unwrap_or(if logistic { 1e-3 } else { 0.0 });
        if logistic && options.weight_decay == 0.0 {
            return Err("--weight-decay must be above 0 with --model logistic: without it there is no optimum".into());
        }
        if options.subsets.saturating_mul(options.seeds) > MAX_COUNT {
            return Err(format!(
                "--subsets {} times --seeds {} is more than {MAX_COUNT} retrainings; lower one of them",
                options.subsets, options.seeds
            ));
        }
        options.damping = damping.unwrap_or_else(|| options.default_damping());
        Ok(Parsed::Run(Box::new(options)))
    }

    /// Refuses options that exclude each other or would be ignored.
    fn check_combinations(&self, given: &[String], seeds: Option<usize>) -> Result<(), String> {
        let has = |name: &str| given.iter().any(|other| other == name);
        if has("epochs") && has("steps") {
            return Err("--epochs and --steps both set the length of training; give one of them".into());
        }
        if self.model == ModelKind::Mlp {
            return Ok(());
        }
        let sgd = ["hidden", "activation", "epochs", "steps", "batch", "lr", "momentum"];
        if let Some(name) = sgd.into_iter().find(|name| has(name)) {
            return Err(format!(
                "--{name} has no effect with --model logistic, which Newton's method takes to its optimum; \
                 leave it out, or use --model mlp --hidden none for a linear model by SGD"
            ));
        }
        for (name, n) in [("seeds", seeds), ("models", Some(self.models))] {
            if let Some(n) = n.filter(|&n| n > 1) {
                return Err(format!("--{name} {n} must be 1 with --model logistic: every seed gives the same model"));
            }
        }
        Ok(())
    }

    /// The steps of the run on the whole training set.
    pub(crate) fn steps(&self) -> usize {
        match self.length {
            Length::Epochs(epochs) => epochs * self.train.div_ceil(self.batch),
            Length::Steps(steps) => steps,
        }
    }

    /// What early stopping amounts to: after K steps of effective rate lr/(1 - momentum), directions of curvature
    /// below 1/(rate K) have hardly been learnt. For logistic regression at its optimum, the true L2.
    fn default_damping(&self) -> f64 {
        match self.model {
            ModelKind::Mlp => (1.0 - self.momentum) / (self.lr * self.steps() as f64),
            ModelKind::Logistic => self.weight_decay,
        }
    }

    /// The name of the device.
    pub(crate) fn device_name(&self) -> &'static str {
        name_of(self.device, DEVICES)
    }

    /// The settings that decide what a training run ends with.
    pub(crate) fn training(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        set("model", json!(name_of(self.model, MODELS)));
        set("train", json!(self.train));
        set("queries", json!(self.queries));
        set("weight_decay", json!(self.weight_decay));
        set("seed", json!(self.seed));
        if self.model == ModelKind::Mlp {
            set("hidden", json!(self.hidden));
            set("activation", json!(name_of(self.activation, &Activation::NAMES)));
            match self.length {
                Length::Epochs(n) => set("epochs", json!(n)),
                Length::Steps(n) => set("steps", json!(n)),
            };
            set("batch", json!(self.batch));
            set("lr", json!(self.lr));
            set("momentum", json!(self.momentum));
        }
        settings
    }
}

/// The text of `--help`, with a line for each method: its name and what it is.
pub(crate) fn help<'a>(methods: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let activations: Vec<_> = Activation::NAMES.iter().map(|&(name, _)| name).collect();
    let mut text = HELP.replace("{activations}", &format!("{:<57}", activations.join(", ")));
    for (name, about) in methods {
        let _ = writeln!(text, "  {name:<20} {about}");
    }
    text.truncate(text.trim_end().len());
    text
}

fn name_of<T: Copy + PartialEq>(value: T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, choice)| *choice == value).map_or("", |&(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[&str] = &["dot", "cosine", "cg"];

    fn parse(line: &str) -> Result<Parsed, String> {
        Options::parse(line.split_whitespace().map(OsString::from), METHODS)
    }

    fn options(line: &str) -> Options {
        match parse(line) {
            Ok(Parsed::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_setting_d_relu() {
        let options = options("");
        assert_eq!((options.train, options.queries, options.subsets, options.seeds), (1000, 100, 100, 5));
        assert_eq!((options.hidden.as_slice(), options.steps()), (&[128, 64][..], 480));
        assert_eq!((options.lr, options.momentum, options.weight_decay), (0.03, 0.9, 0.0));
        assert!((options.damping - 1.0 / 144.0).abs() < 1e-15, "1 / (0.3 * 480)");
        assert_eq!(options.methods, METHODS);
    }

    #[test]
    fn defaults_of_logistic_regression() {
        let options = options("--model logistic");
        assert_eq!((options.seeds, options.weight_decay, options.damping), (1, 1e-3, 1e-3));
        assert!(!options.training().contains_key("lr"));
    }

    #[test]
    fn every_option_is_read() {
        let options = options(
            "--data a.safetensors --train 7 --queries 3 --model mlp --hidden 5,4 --activation tanh --steps 9 --batch 2 \
             --lr 0.5 --momentum 0 --weight-decay 0.25 --models 2 --seed 18446744073709551615 --methods cg,dot \
             --damping 0.125 --sketch 32 --lengths 8,16 --subsets 4 --seeds 6 --ground-truth g --device gpu --threads 3 --out=o",
        );
        let expected = Options {
            data: Some("a.safetensors".into()),
            train: 7,
            queries: 3,
            model: ModelKind::Mlp,
            hidden: vec![5, 4],
            activation: Activation::Tanh,
            length: Length::Steps(9),
            batch: 2,
            lr: 0.5,
            momentum: 0.0,
            weight_decay: 0.25,
            models: 2,
            seed: u64::MAX,
            methods: vec!["dot", "cg"],
            damping: 0.125,
            sketch: 32,
            lengths: vec![8, 16],
            subsets: 4,
            seeds: 6,
            ground_truth: Some("g".into()),
            device: DeviceKind::Gpu,
            threads: 3,
            out: "o".into(),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn no_hidden_layer_and_help() {
        assert!(options("--hidden none").hidden.is_empty());
        assert_eq!(parse("--train x -h"), parse("--train x"), "errors come first");
        assert_eq!((parse("-h"), parse("--lr 1 --help")), (Ok(Parsed::Help), Ok(Parsed::Help)));
    }

    #[test]
    fn help_explains_every_option_and_method() {
        let text = help([("dot", "inner product"), ("cg", "conjugate gradients")]);
        let source = include_str!("options.rs");
        let arms = source.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" => "));
        let names: Vec<_> = arms.map(|(name, _)| name).collect();
        assert_eq!(names.len(), 25, "{names:?}");
        for name in names {
            assert!(text.contains(&format!("--{name} ")), "--{name}");
        }
        assert!(text.contains("cg                   conjugate gradients") && text.contains("relu, tanh"), "{text}");
    }

    #[test]
    fn a_wrong_option_is_named_with_its_value_and_what_is_allowed() {
        let cases = [
            ("--lr 0", "--lr must be a number above 0, got `0`"),
            ("--lr NaN", "got `NaN`"),
            ("--lr inf", "got `inf`"),
            ("--lr fast", "got `fast`"),
            ("--lr", "missing argument for option '--lr'; --help"),
            ("--momentum 1", "from 0 to below 1, got `1`"),
            ("--weight-decay -1", "0 or more"),
            ("--damping 0", "above 0"),
            ("--train 1", "--train must be a whole number from 2 to 1000000, got `1`"),
            ("--queries 0", "from 1"),
            ("--queries 99999999999999999999999", "from 1"),
            ("--subsets 1", "from 2"),
            ("--subsets 2000 --seeds 2000", "more than 1000000 retrainings"),
            ("--seeds -1", "--seeds must"),
            ("--seed -1", "2^64"),
            ("--threads 0", "from 1 to 1024"),
            ("--models 0", "--models must"),
            ("--model svm", "one of mlp, logistic, got `svm`"),
            ("--device tpu", "--device must be one of cpu, gpu, got `tpu`"),
            ("--activation step", "one of identity, relu, tanh"),
            ("--hidden 3,0", "got `3,0`"),
            ("--hidden ,", "--hidden must"),
            ("--methods dot,magic", "dot, cosine, cg; got `magic`"),
            ("--methods=", "got ``"),
            ("--steps 3 --epochs 3", "give one of them"),
            ("--model logistic --lr 1", "--lr has no effect"),
            ("--model logistic --seeds 2", "--seeds 2 must be 1"),
            ("--models 2 --model logistic", "--models 2 must be 1"),
            ("--model logistic --weight-decay 0", "above 0 with --model logistic"),
            ("--fast", "there is no option --fast"),
            ("-x", "invalid option '-x'"),
            ("digits", "unexpected argument"),
        ];
        for (line, expected) in cases {
            let message = parse(line).expect_err(line);
            assert!(message.contains(expected), "{line}: {message:?} should say {expected:?}");
        }
    }
}
