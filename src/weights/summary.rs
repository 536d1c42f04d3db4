//! Gathers what `inspect` shows of a checkpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::Checkpoint;
use super::TensorInfo;
use crate::architecture::ModelConfig;
use crate::architecture::ModelKind;
use crate::architecture::layout;
use crate::untrusted::Shown;
use crate::untrusted::shown;

/// A checkpoint's architecture, tensors, formats and size. It is displayed as a table, and can be
/// serialised.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    /// The architecture.
    pub config: ModelConfig,
    /// Width of an attention head.
    pub head_dim: usize,
    /// Number of parameters of the architecture, without rotary frequencies and the heads of other
    /// tasks.
    pub parameters: u64,
    /// Size in bytes of the files that hold tensors.
    pub bytes: u64,
    /// The files that hold tensors.
    #[serde(serialize_with = "shown::serialize_paths")]
    pub files: Vec<PathBuf>,
    /// How many of the used tensors are stored in each number format.
    pub dtypes: BTreeMap<String, usize>,
    /// Messages for the user about problems that do not stop the use of the weights.
    pub warnings: Vec<String>,
    /// All tensors, unused ones included.
    pub tensors: Vec<TensorInfo>,
}

impl Summary {
    /// Gathers the summary of a checkpoint, without reading any tensor's values.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config().clone();
        let tensors = checkpoint.tensors();
        let mut dtypes = BTreeMap::new();
        for t in tensors.iter().filter(|t| t.used) {
            *dtypes.entry(t.dtype.clone()).or_insert(0) += 1;
        }
        Self {
            head_dim: config.head_dim(),
            parameters: layout::parameters(&config),
            config,
            bytes: checkpoint.total_bytes(),
            files: checkpoint.files().map(Into::into).collect(),
            dtypes,
            warnings: checkpoint.warnings().to_vec(),
            tensors,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        writeln!(
            f,
            "{}: {} layers, width {}, {} heads of {}, feed-forward {}, vocabulary {}",
            c.kind, c.layers, c.hidden, c.heads, self.head_dim, c.intermediate, c.vocab
        )?;
        let dtypes: Vec<String> = self
            .dtypes
            .iter()
            .map(|(dtype, n)| format!("{n} in {dtype}"))
            .collect();
        writeln!(
            f,
            "{} parameters; tensors: {}; {} bytes in {} file(s)",
            self.parameters,
            dtypes.join(", "),
            self.bytes,
            self.files.len()
        )?;
        write!(f, "LayerNorm epsilon {:e}", c.layer_norm_eps)?;
        match c.kind {
            ModelKind::Esm2 => {
                let scaling = if c.token_dropout { "yes" } else { "no" };
                writeln!(f, "; token dropout scaling: {scaling}")?;
            }
            ModelKind::Dnabert => writeln!(f)?,
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        // Names and shapes come from the file, whose text must not act on the terminal.
        let shown_names = self.tensors.iter().map(|t| Shown(&t.name).to_string());
        let names: Vec<String> = shown_names.collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        writeln!(f)?;
        for (t, name) in self.tensors.iter().zip(&names) {
            let shape = shown::shape(&t.shape);
            let file = shown::path(t.file.file_name().unwrap_or_default());
            let unused = if t.used { "" } else { "  (not used)" };
            writeln!(f, "{name:width$}  {:5} {shape:14} {file}{unused}", t.dtype)?;
        }
        Ok(())
    }
}
