//! Lists the tensors that each architecture consists of: their names, shapes and roles.
//!
//! The names are canonical: they are Hugging Face's names without the prefix `esm.` or `bert.`.

use super::{ModelConfig, ModelKind};

/// The role of a tensor in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRole {
    /// A table whose rows are looked up by id.
    Embedding,
    /// The matrix of a linear layer, `[out, in]`.
    Linear,
    /// The vector that a linear layer adds to its product, `[out]`.
    Bias,
    /// The factor of a LayerNorm.
    Gain,
    /// The summand of a LayerNorm.
    Shift,
    /// The rotary frequencies, `[head_dim / 2]`.
    InvFreq,
}

/// Whether a model can do without a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The model cannot do without the tensor.
    Required,
    /// The tensor is used if it is present.
    Optional,
    /// The tensor is known and carried along, but embeddings do not use it.
    Unused,
}

/// One tensor that an architecture expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Canonical name.
    pub name: String,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// The role in the model.
    pub role: TensorRole,
    /// Whether the model needs the tensor.
    pub need: Need,
    /// Whether the stored tensor may have any number of rows from 1 on, because only the first row
    /// is used.
    pub any_rows: bool,
}

impl Expected {
    /// Whether a stored tensor of shape `found` can be this one.
    pub fn fits(&self, found: &[usize]) -> bool {
        if self.any_rows {
            found.len() == self.shape.len()
                && found.first().is_some_and(|&rows| rows >= 1)
                && found[1..] == self.shape[1..]
        } else {
            found == self.shape
        }
    }
}

/// The canonical name of the rotary frequencies of layer `layer`, counted from 0.
pub fn inv_freq_name(layer: usize) -> String {
    format!("encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq")
}

/// The canonical name under which newer Hugging Face releases store the rotary frequencies, once
/// for all layers.
pub const SHARED_INV_FREQ: &str = "rotary_embeddings.inv_freq";

/// Lists every tensor of `config`, in the order of the computation.
///
/// `config` must be valid ([`ModelConfig::validate`]).
pub fn expected(config: &ModelConfig) -> Vec<Expected> {
    let mut list = List(Vec::new());
    match config.kind {
        ModelKind::Esm2 => esm2(config, &mut list),
        ModelKind::Dnabert => dnabert(config, &mut list),
    }
    list.0
}

struct List(Vec<Expected>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], role: TensorRole, need: Need) {
        self.0.push(Expected {
            name,
            shape: shape.to_vec(),
            role,
            need,
            any_rows: false,
        });
    }

    fn weight(&mut self, name: &str, out: usize, input: usize) {
        self.push(
            format!("{name}.weight"),
            &[out, input],
            TensorRole::Linear,
            Need::Required,
        );
    }

    fn linear(&mut self, name: &str, out: usize, input: usize) {
        self.weight(name, out, input);
        self.push(
            format!("{name}.bias"),
            &[out],
            TensorRole::Bias,
            Need::Required,
        );
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.push(
            format!("{name}.weight"),
            &[width],
            TensorRole::Gain,
            Need::Required,
        );
        self.push(
            format!("{name}.bias"),
            &[width],
            TensorRole::Shift,
            Need::Required,
        );
    }

    fn embedding(&mut self, name: &str, rows: usize, width: usize) {
        self.push(
            format!("{name}.weight"),
            &[rows, width],
            TensorRole::Embedding,
            Need::Required,
        );
    }
}

fn esm2(c: &ModelConfig, list: &mut List) {
    let d = c.hidden;
    list.embedding("embeddings.word_embeddings", c.vocab, d);
    for i in 0..c.layers {
        let layer = format!("encoder.layer.{i}");
        list.norm(&format!("{layer}.attention.LayerNorm"), d);
        for part in ["query", "key", "value"] {
            list.linear(&format!("{layer}.attention.self.{part}"), d, d);
        }
        list.push(
            inv_freq_name(i),
            &[c.head_dim() / 2],
            TensorRole::InvFreq,
            Need::Optional,
        );
        list.linear(&format!("{layer}.attention.output.dense"), d, d);
        list.norm(&format!("{layer}.LayerNorm"), d);
        list.linear(&format!("{layer}.intermediate.dense"), c.intermediate, d);
        list.linear(&format!("{layer}.output.dense"), d, c.intermediate);
    }
    list.norm("encoder.emb_layer_norm_after", d);
}

fn dnabert(c: &ModelConfig, list: &mut List) {
    let d = c.hidden;
    list.embedding("embeddings.word_embeddings", c.vocab, d);
    // A sequence has only one segment, so row 0 is the only row that is ever looked up.
    list.embedding("embeddings.token_type_embeddings", 2, d);
    if let Some(last) = list.0.last_mut() {
        last.any_rows = true;
    }
    list.norm("embeddings.LayerNorm", d);
    for i in 0..c.layers {
        let layer = format!("encoder.layer.{i}");
        list.linear(&format!("{layer}.attention.self.Wqkv"), 3 * d, d);
        list.linear(&format!("{layer}.attention.output.dense"), d, d);
        list.norm(&format!("{layer}.attention.output.LayerNorm"), d);
        list.weight(&format!("{layer}.mlp.gated_layers"), 2 * c.intermediate, d);
        list.linear(&format!("{layer}.mlp.wo"), d, c.intermediate);
        list.norm(&format!("{layer}.mlp.layernorm"), d);
    }
    list.push(
        "pooler.dense.weight".into(),
        &[d, d],
        TensorRole::Linear,
        Need::Unused,
    );
    list.push(
        "pooler.dense.bias".into(),
        &[d],
        TensorRole::Bias,
        Need::Unused,
    );
}

/// Whether a file may hold a tensor that is not part of the model: a head for another task, or a
/// table that the architecture does not read.
pub fn is_known_and_ignored(canonical: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "lm_head.",
        "cls.",
        "contact_head.",
        "pooler.",
        "classifier.",
        "embeddings.position_embeddings.",
    ];
    canonical == "embeddings.position_ids" || PREFIXES.iter().any(|p| canonical.starts_with(p))
}

/// The number of parameters of `config`. Unused parameters (the pooler) are included; buffers (the
/// rotary frequencies) are not.
pub fn parameters(config: &ModelConfig) -> u64 {
    expected(config)
        .iter()
        .filter(|e| e.role != TensorRole::InvFreq)
        .map(|e| e.shape.iter().map(|&n| n as u64).product::<u64>())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let count = |name| parameters(&ModelConfig::preset(name).unwrap());
        assert_eq!(count("dnabert-s"), 117_068_544);
        // fair-esm's ESM2 also has a language model head (dense, LayerNorm, output bias) and a
        // contact head with one weight per attention head and one bias.
        let heads = 320 * 320 + 320 + 2 * 320 + 33 + 6 * 20 + 1;
        assert_eq!(count("8M") + heads, 7_512_474);
    }

    #[test]
    fn any_number_of_segment_rows_fits() {
        let list = expected(&ModelConfig::dnabert(1, 8, 2));
        let segments = list.iter().find(|e| e.name.contains("token_type")).unwrap();
        assert!(segments.fits(&[1, 8]) && segments.fits(&[2, 8]));
        assert!(
            !segments.fits(&[0, 8])
                && !segments.fits(&[2, 9])
                && !segments.fits(&[8])
                && !segments.fits(&[])
        );
    }
}
