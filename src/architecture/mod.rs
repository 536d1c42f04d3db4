//! Describes what a model is: its architecture and its sizes.

pub mod config_json;
pub mod foreign;
pub mod layout;
pub mod names;

/// The two architectures that are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// ESM-2 (Lin et al. 2023): pre-LN, rotary positions, token dropout scaling.
    Esm2,
    /// DNABERT-S and DNABERT-2: post-LN, symmetric ALiBi, gated MLP.
    Dnabert,
}

impl ModelKind {
    /// The architecture's usual name.
    pub fn title(self) -> &'static str {
        match self {
            ModelKind::Esm2 => "ESM-2",
            ModelKind::Dnabert => "DNABERT",
        }
    }
}

impl std::fmt::Display for ModelKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.title())
    }
}

/// The architecture and sizes of one model. For a checkpoint they are checked against its tensors.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelConfig {
    /// The architecture.
    pub kind: ModelKind,
    /// Number of transformer layers.
    pub layers: usize,
    /// Model width d.
    pub hidden: usize,
    /// Number of attention heads; `hidden` is a multiple of it.
    pub heads: usize,
    /// Width of the feed-forward block; for DNABERT, the width of one half of its gated matrix.
    pub intermediate: usize,
    /// Number of rows of the embedding table.
    pub vocab: usize,
    /// LayerNorm epsilon: 1e-5 for ESM-2, 1e-12 for DNABERT.
    pub layer_norm_eps: f64,
    /// ESM-2 only: whether the embedding is scaled as token dropout scaled it in training.
    pub token_dropout: bool,
    /// ESM-2 only: the id of `<mask>`. Token dropout zeroes the embeddings of these tokens.
    pub mask_token: u32,
}

/// The most layers that a model may have; the deepest published ESM-2 has 48. A list of all tensors
/// is made from this number alone, so the limit keeps a config.json of a few bytes from making the
/// list long.
const MOST_LAYERS: usize = 1 << 10;
/// The largest width, and the most attention heads; the widest published ESM-2 has a width of 5120.
const WIDEST: usize = 1 << 16;
/// The most rows of a table or a matrix. It is beyond every published model by a wide margin, and
/// keeps products of sizes far from overflow.
const LARGEST: usize = 1 << 20;
/// The largest LayerNorm epsilon. Published ones are 1e-5 and 1e-12. An epsilon that is large
/// compared with the variance turns every row into the bias.
const LARGEST_EPSILON: f64 = 1.0;

impl ModelConfig {
    /// The names of the published sizes, as [`ModelConfig::preset`] takes them.
    pub const PRESETS: [&'static str; 7] = ["8M", "35M", "150M", "650M", "3B", "15B", "dnabert-s"];

    /// An ESM-2 of these sizes, whose feed-forward block is four times as wide as the model.
    pub fn esm2(layers: usize, hidden: usize, heads: usize) -> Self {
        Self {
            kind: ModelKind::Esm2,
            layers,
            hidden,
            heads,
            intermediate: hidden.saturating_mul(4),
            vocab: 33,
            layer_norm_eps: 1e-5,
            token_dropout: true,
            mask_token: 32,
        }
    }

    /// A DNABERT of these sizes, whose feed-forward block is four times as wide as the model.
    pub fn dnabert(layers: usize, hidden: usize, heads: usize) -> Self {
        Self {
            kind: ModelKind::Dnabert,
            layers,
            hidden,
            heads,
            intermediate: hidden.saturating_mul(4),
            vocab: 4096,
            layer_norm_eps: 1e-12,
            token_dropout: false,
            mask_token: 4,
        }
    }

    /// The published model of this name, which is one of [`ModelConfig::PRESETS`] in upper or lower
    /// case. Returns `None` for any other name.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "8m" => Self::esm2(6, 320, 20),
            "35m" => Self::esm2(12, 480, 20),
            "150m" => Self::esm2(30, 640, 20),
            "650m" => Self::esm2(33, 1280, 20),
            "3b" => Self::esm2(36, 2560, 40),
            "15b" => Self::esm2(48, 5120, 40),
            "dnabert-s" => Self::dnabert(12, 768, 12),
            _ => return None,
        })
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Checks that the sizes make a model that can be computed at all.
    ///
    /// # Errors
    /// The error is a clause that says which size is wrong, without the name of the file that gave
    /// it.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("the number of layers", self.layers, MOST_LAYERS),
            ("the hidden size", self.hidden, WIDEST),
            ("the number of attention heads", self.heads, WIDEST),
            ("the intermediate size", self.intermediate, LARGEST),
            ("the vocabulary size", self.vocab, LARGEST),
        ];
        for (what, size, most) in sizes {
            if size == 0 || size > most {
                return Err(format!("{what} is {size}, outside 1 to {most}"));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(format!(
                "the hidden size {} is no multiple of the {} attention heads",
                self.hidden, self.heads
            ));
        }
        if self.kind == ModelKind::Esm2 && !self.head_dim().is_multiple_of(2) {
            return Err(format!(
                "the width of an attention head is {}, and rotary positions need an even one",
                self.head_dim()
            ));
        }
        // No range contains NaN, so NaN is refused too.
        if !(0.0..=LARGEST_EPSILON).contains(&self.layer_norm_eps) {
            return Err(format!(
                "the LayerNorm epsilon is {:e}, outside 0 to {LARGEST_EPSILON}",
                self.layer_norm_eps
            ));
        }
        if self.kind == ModelKind::Esm2 && self.mask_token as usize >= self.vocab {
            return Err(format!(
                "the id of the mask token is {}, outside the vocabulary of {}",
                self.mask_token, self.vocab
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_head_widths() {
        let widths: Vec<usize> = ModelConfig::PRESETS
            .iter()
            .map(|n| ModelConfig::preset(n).unwrap().head_dim())
            .collect();
        assert_eq!(widths, [16, 24, 32, 64, 64, 128, 64]);
        for name in ModelConfig::PRESETS {
            assert_eq!(ModelConfig::preset(name).unwrap().validate(), Ok(()));
        }
        assert_eq!(ModelConfig::preset("7B"), None);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let with = |f: fn(&mut ModelConfig)| {
            let mut c = ModelConfig::esm2(2, 32, 4);
            f(&mut c);
            c.validate().unwrap_err()
        };
        assert!(with(|c| c.heads = 0).contains("attention heads"));
        assert!(with(|c| c.heads = 5).contains("no multiple"));
        assert!(with(|c| c.heads = 32).contains("even"));
        assert!(with(|c| c.layers = 1 << 40).contains("layers"));
        assert!(with(|c| c.layers = 1025).contains("outside 1 to 1024"));
        assert!(with(|c| c.hidden = 1 << 17).contains("hidden size"));
        assert!(with(|c| c.intermediate = usize::MAX).contains("intermediate"));
        assert!(with(|c| c.vocab = 0).contains("vocabulary"));
        for eps in [
            f64::NAN,
            f64::INFINITY,
            1e308, // finite in f64, infinite in f32
            1.5,
            -1e-5,
        ] {
            let mut c = ModelConfig::esm2(2, 32, 4);
            c.layer_norm_eps = eps;
            assert!(c.validate().unwrap_err().contains("epsilon"), "{eps}");
        }
        assert!(with(|c| c.mask_token = 33).contains("mask token"));
        assert!(
            ModelConfig::dnabert(1, 33, 11).validate().is_ok(),
            "ALiBi takes an odd head width"
        );
    }
}
