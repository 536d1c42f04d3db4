//! What a model is: its kind and its sizes.

/// The two architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// ESM-2 (Lin et al. 2023): pre-LN, rotary positions, token dropout scaling.
    Esm2,
    /// DNABERT-S and DNABERT-2: post-LN, symmetric ALiBi, gated MLP.
    Dnabert,
}

/// The sizes of one model, checked against its tensors.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelConfig {
    /// Which architecture.
    pub kind: ModelKind,
    /// Number of transformer layers.
    pub layers: usize,
    /// Model width d.
    pub hidden: usize,
    /// Attention heads; `hidden` is a multiple of it.
    pub heads: usize,
    /// Width of the feed-forward block (of one half of the gated one, for DNABERT).
    pub intermediate: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// LayerNorm epsilon: 1e-5 for ESM-2, 1e-12 for DNABERT.
    pub layer_norm_eps: f64,
    /// ESM-2: whether the embedding is scaled as if by token dropout.
    pub token_dropout: bool,
    /// ESM-2: the id of `<mask>`, whose rows token dropout zeroes.
    pub mask_token: u32,
}

impl ModelConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}
