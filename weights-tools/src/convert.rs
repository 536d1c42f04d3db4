//! `weights-tools convert`: converts any supported input to one safetensors file.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use seqstream::architecture::ModelKind;
use seqstream::architecture::config_json;
use seqstream::architecture::layout;
use seqstream::bytes::Bytes;
use seqstream::dtype::DType;
use seqstream::untrusted::Shown;
use seqstream::untrusted::file;
use seqstream::untrusted::shown;
use seqstream::virnucpro::Classifier;
use seqstream::weights::write::{Planned, SafetensorsWriter, file_rank, write_file};
use seqstream::weights::{Checkpoint, Tensor};

use crate::{DTypeArg, Failure, say};

/// Values that are converted at a time: 4 MiB of f32.
const BLOCK: usize = 1 << 20;

/// Convert a model to one safetensors file, with config.json and tokenizer.json beside it.
///
/// Tensors get Hugging Face's names. With --dtype, the error that the rounding introduces is
/// printed. Rotary frequencies stay in f32, in which they are exact: in bf16 they would turn far
/// positions by radians. Known heads for other tasks are kept; tables that the architecture does not
/// read, and tensors of your own beside the model, are left out.
///
/// A classifier of VirNucPro (300_model.pth, 500_model.pth, a state dict or a checkpoint of its
/// training) becomes a safetensors file of its weights. Nothing in such a file is executed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  weights-tools convert esm2_t33_650M_UR50D.pt --out esm2-650m/model.safetensors
  weights-tools convert esm2_t48_15B_UR50D --dtype f16 --out esm2-15b-f16/model.safetensors
  weights-tools convert 500_model.pth --out 500_model.safetensors")]
pub struct Args {
    /// A model folder, a .safetensors, .bin or fair-esm .pt file, an index, or the name of a model
    /// on the Hugging Face Hub
    path: PathBuf,
    /// The file to write; its folder is made if it does not exist
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Replace that file, and config.json and tokenizer.json beside it, if they are there
    #[arg(long)]
    force: bool,
    /// Round the weights to this format [default: keep the stored format]
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
}

/// Converts the model, as the arguments say.
pub fn run(args: Args) -> Result<(), Failure> {
    let path = crate::find(&args.path)?;
    if Classifier::is_at(&path) {
        return convert_classifier(&path, &args);
    }
    let checkpoint = Checkpoint::open(&path)?;
    for warning in checkpoint.warnings() {
        eprintln!("warning: {warning}");
    }
    let out = &args.out;
    check_out(out, args.force, || checkpoint.files())?;
    let folder = make_folder(out)?;

    let plan = plan(&checkpoint, args.dtype.map(DType::from));
    copy_beside(&checkpoint, folder, &plan, args.force)?;
    let planned: Vec<Planned> = plan.iter().map(|(_, planned)| planned.clone()).collect();
    let mut writer = SafetensorsWriter::create(out, &planned)?;
    let mut total = Deviation::default();
    let mut worst_value: (f64, &str) = (0.0, "");
    let mut worst_norm: (f64, &str) = (0.0, "");
    for (tensor, planned) in &plan {
        let deviation = convert(tensor, planned.dtype, &mut writer)?;
        if deviation.largest > worst_value.0 {
            worst_value = (deviation.largest, &planned.name);
        }
        if deviation.relative() > worst_norm.0 {
            worst_norm = (deviation.relative(), &planned.name);
        }
        total.add(&deviation);
    }
    checkpoint.unchanged()?;
    writer.finish()?;
    // The file that was written must open as a model again.
    Checkpoint::open(out)?;

    let bytes: u64 = planned.iter().map(Planned::bytes).sum();
    say!(
        "wrote {}: {} tensors, {}",
        shown::path(out),
        planned.len(),
        Bytes(bytes)
    );
    if total.largest == 0.0 {
        say!("error introduced: none, all values are exact");
    } else {
        say!("error introduced, |converted - original|:");
        say!("  relative norm, all tensors  {:.3e}", total.relative());
        say!(
            "  relative norm, worst tensor {:.3e}  {}",
            worst_norm.0,
            Shown(worst_norm.1)
        );
        say!(
            "  largest of any value        {:.3e}  {}",
            worst_value.0,
            Shown(worst_value.1)
        );
    }
    Ok(())
}

/// Writes the weights of a classifier.
fn convert_classifier(path: &Path, args: &Args) -> Result<(), Failure> {
    let classifier = Classifier::open(path)?;
    if args.dtype.is_some() {
        return Err(Failure::usage(
            "--dtype: the weights of a classifier stay in f32",
            "leave --dtype out",
        ));
    }
    let out = &args.out;
    check_out(out, args.force, || std::iter::once(path))?;
    make_folder(out)?;
    let planned: Vec<Planned> = classifier
        .tensors()
        .map(|(name, shape, _)| Planned {
            name: name.to_owned(),
            dtype: DType::F32,
            shape,
        })
        .collect();
    let mut writer = SafetensorsWriter::create(out, &planned)?;
    for (_, _, values) in classifier.tensors() {
        let mut bytes = Vec::new();
        DType::F32.encode(values, &mut bytes);
        writer.write(&bytes)?;
    }
    writer.finish()?;
    // The file that was written must open as a classifier again.
    Classifier::open(out)?;
    let bytes: u64 = planned.iter().map(Planned::bytes).sum();
    say!(
        "wrote {}: {} tensors of a classifier of {} values, {}",
        shown::path(out),
        planned.len(),
        classifier.width(),
        Bytes(bytes)
    );
    Ok(())
}

/// Makes the folder of a file, and returns it.
fn make_folder(out: &Path) -> Result<&Path, Failure> {
    let folder = out
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Failure::write(folder, e))?;
    Ok(folder)
}

/// Checks that the file `out` may be written, or replaced if it exists. `sources` are the files that
/// are converted.
fn check_out<'a, I: Iterator<Item = &'a Path>>(
    out: &Path,
    force: bool,
    sources: impl FnOnce() -> I,
) -> Result<(), Failure> {
    if out.extension().is_none_or(|e| e != "safetensors") {
        let what = format!("--out {} does not end in .safetensors", shown::path(out));
        return Err(Failure::usage(
            what,
            "name the file to write, such as model.safetensors",
        ));
    }
    if !file::is_there(out).map_err(|e| Failure::write(out, e))? {
        return Ok(());
    }
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| Failure::read(path, e));
    // A link that leads nowhere is not a file to be converted, and replacing it needs --force.
    if file::metadata(out).is_ok() {
        let target = real(out)?;
        for path in sources() {
            if real(path)? == target {
                let what = format!("--out {} is the file to be converted", shown::path(out));
                return Err(Failure::usage(what, "choose another --out"));
            }
        }
    }
    if force {
        return Ok(());
    }
    Err(Failure::output_exists(
        format!("{} stands there already", shown::path(out)),
        "choose another --out, or add --force to replace it",
    ))
}

/// Lists the tensors to write, each with its new name and format, in the order of the file.
fn plan(checkpoint: &Checkpoint, dtype: Option<DType>) -> Vec<(Tensor, Planned)> {
    let prefix = match checkpoint.config().kind {
        ModelKind::Esm2 => "esm.",
        ModelKind::Dnabert => "",
    };
    let mut names: Vec<String> = layout::expected(checkpoint.config())
        .into_iter()
        .map(|e| e.name)
        .collect();
    let known: HashSet<String> = names.iter().cloned().collect();
    // Each layer gets its own rotary frequencies, where older Hugging Face releases look for them.
    let others = checkpoint.tensors().into_iter().map(|t| t.name);
    names.extend(others.filter(|n| !known.contains(n) && n != layout::SHARED_INV_FREQ));

    let embedding = checkpoint.optional("embeddings.word_embeddings.weight");
    let mut plan = Vec::new();
    for name in names {
        if checkpoint.is_beside(&name) {
            eprintln!("left out: {}, which is no part of the model", Shown(&name));
            continue;
        }
        let Some(tensor) = checkpoint.optional(&name) else {
            if !known.contains(&name) {
                eprintln!(
                    "left out: {}, which holds no floating-point values",
                    Shown(&name)
                );
            }
            continue;
        };
        if name.starts_with("embeddings.position_embeddings.") {
            eprintln!("left out: {}, which the model does not read", Shown(&name));
            continue;
        }
        let tied = embedding
            .as_ref()
            .is_some_and(|e| e.name() != name && e.bytes().as_ptr() == tensor.bytes().as_ptr());
        if tied {
            eprintln!(
                "left out: {}, which is the embedding once more",
                Shown(&name)
            );
            continue;
        }
        let bare = ["lm_head.", "classifier.", "cls."]
            .iter()
            .any(|head| name.starts_with(head));
        let is_frequency = name.ends_with("inv_freq");
        let planned = Planned {
            name: format!("{}{name}", if bare { "" } else { prefix }),
            dtype: match dtype {
                Some(_) if is_frequency => DType::F32,
                Some(dtype) => dtype,
                None => tensor.dtype(),
            },
            shape: tensor.shape().to_vec(),
        };
        plan.push((tensor, planned));
    }
    plan.sort_by_key(|(_, planned)| file_rank(planned));
    plan
}

/// Writes config.json and the files of the tokenizer beside the new weights. Files of other models are replaced
/// only with `force`.
fn copy_beside(
    checkpoint: &Checkpoint,
    folder: &Path,
    plan: &[(Tensor, Planned)],
    force: bool,
) -> Result<(), Failure> {
    let read = |path: &Path| fs::read(path).map_err(|e| Failure::read(path, e));
    let config = match checkpoint.config_path() {
        Some(path) => read(path)?,
        None => {
            let dtype = plan.last().map_or(DType::F32, |(_, planned)| planned.dtype);
            config_json::write(checkpoint.config(), dtype)
        }
    };
    let mut files: Vec<(PathBuf, Vec<u8>)> = vec![("config.json".into(), config)];
    // Beside a file with fair-esm's names, a tokenizer belongs to another model.
    let own = checkpoint.config().kind == ModelKind::Dnabert || checkpoint.config_path().is_some();
    if let Some(path) = checkpoint.tokenizer_path().filter(|_| own) {
        files.push(("tokenizer.json".into(), read(&path)?));
    }
    for path in checkpoint.vocabulary_paths() {
        let name = path.file_name().unwrap_or_default();
        if files.iter().all(|(other, _)| other.as_os_str() != name) {
            files.push((name.into(), read(path)?));
        }
    }
    for (name, bytes) in files {
        let path = folder.join(name);
        // A file that cannot be read may be anything, and is not replaced without `force`.
        if !force && file::is_there(&path).map_err(|e| Failure::read(&path, e))? {
            let same = file::read(&path, bytes.len() as u64);
            if same.map_err(|e| Failure::read(&path, e))? == Ok(bytes) {
                continue;
            }
            let what = format!(
                "{} is already there and belongs to another model",
                shown::path(&path)
            );
            return Err(Failure::output_exists(
                what,
                "choose --out in an empty folder, or add --force to replace it",
            ));
        }
        write_file(&path, &bytes)?;
    }
    Ok(())
}

/// How far the converted values lie from the original values.
#[derive(Default)]
struct Deviation {
    largest: f64,
    squared_error: f64,
    squared: f64,
}

impl Deviation {
    fn relative(&self) -> f64 {
        if self.squared > 0.0 {
            (self.squared_error / self.squared).sqrt()
        } else {
            0.0
        }
    }

    fn add(&mut self, other: &Deviation) {
        self.largest = self.largest.max(other.largest);
        self.squared_error += other.squared_error;
        self.squared += other.squared;
    }
}

fn convert(
    tensor: &Tensor,
    dtype: DType,
    writer: &mut SafetensorsWriter,
) -> Result<Deviation, Failure> {
    let mut deviation = Deviation::default();
    let (mut bytes, mut back) = (Vec::new(), Vec::new());
    tensor.for_each_block(BLOCK, |first, values| {
        bytes.clear();
        back.clear();
        dtype.encode(values, &mut bytes);
        dtype.decode(&bytes, &mut back);
        for (at, (&original, &converted)) in values.iter().zip(&back).enumerate() {
            if original.is_finite() && !converted.is_finite() {
                let what = format!(
                    "{}: value {original:e} at index {} of tensor {} is beyond the range of {dtype}",
                    shown::path(tensor.file()),
                    first + at,
                    Shown(tensor.name())
                );
                return Err(Failure::bad_weights(what, "choose --dtype bf16, which has the range of f32"));
            }
            // A value that is not finite stays as it is; `verify` finds such values.
            let error = if original.is_finite() { f64::from(converted) - f64::from(original) } else { 0.0 };
            deviation.largest = deviation.largest.max(error.abs());
            deviation.squared_error += error * error;
            deviation.squared += if original.is_finite() { f64::from(original).powi(2) } else { 0.0 };
        }
        Ok(writer.write(&bytes)?)
    })?;
    Ok(deviation)
}
