//! ESM-2 (Lin et al. 2023), as fair-esm and Hugging Face compute it.

use super::{ModelError, Parameters, Taps, Workspace};
use crate::backend::{Activation, AttentionSpec, Backend, LinearPart, Position};
use crate::batch::PackedBatch;
use crate::model::config::ModelConfig;
use crate::weights::F32Data;

/// The share of tokens that training masked (15 %) times the share of those written as `<mask>`
/// (80 %): token dropout scales the embedding by 1 minus it, at inference too.
const TRAINED_MASK_RATIO: f64 = 0.15 * 0.8;

pub(super) struct Esm2<B: Backend> {
    config: ModelConfig,
    /// [vocab, hidden]
    embedding: B::Vector,
    attention: AttentionSpec,
    layers: Vec<Layer<B>>,
    norm: Norm<B>,
}

/// A LayerNorm's gain and bias, [hidden] each.
struct Norm<B: Backend> {
    gain: B::Vector,
    bias: B::Vector,
}

struct Layer<B: Backend> {
    attention_norm: Norm<B>,
    qkv: B::Linear,
    out: B::Linear,
    mlp_norm: Norm<B>,
    fc1: B::Linear,
    fc2: B::Linear,
}

impl<B: Backend> Esm2<B> {
    pub(super) fn load(b: &B, config: &ModelConfig, p: &impl Parameters) -> Result<Self, ModelError> {
        let (d, ffn) = (config.hidden, config.intermediate);
        let part = |name: String| -> Result<LinearPart, ModelError> {
            let weight = p.get(&format!("{name}.weight"))?;
            let bias = Some(p.get(&format!("{name}.bias"))?);
            Ok(LinearPart { weight, bias })
        };
        let norm = |name: String| -> Result<Norm<B>, ModelError> {
            let gain = b.vector(p.get(&format!("{name}.weight"))?)?;
            let bias = b.vector(p.get(&format!("{name}.bias"))?)?;
            Ok(Norm { gain, bias })
        };
        let layers = (0..config.layers)
            .map(|i| {
                let at = format!("encoder.layer.{i}");
                let heads = ["query", "key", "value"];
                let heads = heads.map(|n| part(format!("{at}.attention.self.{n}")));
                Ok(Layer {
                    attention_norm: norm(format!("{at}.attention.LayerNorm"))?,
                    qkv: b.linear_weights(heads.into_iter().collect::<Result<_, _>>()?, d)?,
                    out: b.linear_weights(vec![part(format!("{at}.attention.output.dense"))?], d)?,
                    mlp_norm: norm(format!("{at}.LayerNorm"))?,
                    fc1: b.linear_weights(vec![part(format!("{at}.intermediate.dense"))?], d)?,
                    fc2: b.linear_weights(vec![part(format!("{at}.output.dense"))?], ffn)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        // In effect a weight: published checkpoints hold values that went through fp16. It is
        // the same in every layer.
        let inv_freq = p
            .find("encoder.layer.0.attention.self.rotary_embeddings.inv_freq")
            .map_or_else(|| computed_inv_freq(config.head_dim()), |f: F32Data| f.to_vec());
        Ok(Self {
            embedding: b.vector(p.get("embeddings.word_embeddings.weight")?)?,
            attention: AttentionSpec {
                heads: config.heads,
                head_dim: config.head_dim(),
                position: Position::Rotary(inv_freq),
            },
            layers,
            norm: norm("encoder.emb_layer_norm_after".into())?,
            config: config.clone(),
        })
    }

    pub(super) fn forward(
        &self,
        b: &mut B,
        ws: &mut Workspace<B>,
        batch: &PackedBatch,
        taps: &mut Taps<'_>,
    ) -> Result<(), ModelError> {
        let Workspace { x, h, qkv, wide } = ws;
        let eps = self.config.layer_norm_eps as f32;
        let scale = self.embedding_scale(batch);
        b.embed(batch.tokens(), &scale, &self.embedding, None, self.config.hidden, x)?;
        if self.layers.is_empty() {
            b.layer_norm(x, &self.norm.gain, &self.norm.bias, eps, h)?;
            return Ok(taps.take(b, 0, h)?);
        }
        taps.take(b, 0, x)?;
        for (i, layer) in self.layers.iter().enumerate().take(taps.last()) {
            b.layer_norm(x, &layer.attention_norm.gain, &layer.attention_norm.bias, eps, h)?;
            b.linear(h, &layer.qkv, Activation::None, qkv)?;
            b.attention(qkv, batch.starts(), &self.attention, h)?;
            b.linear_add(h, &layer.out, x)?;

            b.layer_norm(x, &layer.mlp_norm.gain, &layer.mlp_norm.bias, eps, h)?;
            b.linear(h, &layer.fc1, Activation::Gelu, wide)?;
            b.linear_add(wide, &layer.fc2, x)?;

            if i + 1 == self.layers.len() {
                b.layer_norm(x, &self.norm.gain, &self.norm.bias, eps, h)?;
                taps.take(b, i + 1, h)?;
            } else {
                taps.take(b, i + 1, x)?;
            }
        }
        Ok(())
    }

    /// What each token's embedding is multiplied by: 0 for `<mask>`, else
    /// 0.88 / (1 - share of `<mask>` in its sequence, cls and eos counted).
    fn embedding_scale(&self, batch: &PackedBatch) -> Vec<f32> {
        if !self.config.token_dropout {
            return vec![1.0; batch.total()];
        }
        let mut scale = Vec::with_capacity(batch.total());
        for i in 0..batch.len() {
            let tokens = &batch.tokens()[batch.range(i)];
            let masks = tokens.iter().filter(|t| **t == self.config.mask_token).count();
            let share = masks as f64 / tokens.len() as f64;
            let kept = ((1.0 - TRAINED_MASK_RATIO) / (1.0 - share)) as f32;
            scale.extend(tokens.iter().map(|t| if *t == self.config.mask_token { 0.0 } else { kept }));
        }
        scale
    }
}

/// 1 / 10000^(2i / head_dim) in f32, as Hugging Face computes it where a file lacks it.
fn computed_inv_freq(head_dim: usize) -> Vec<f32> {
    (0..head_dim)
        .step_by(2)
        .map(|i| 1.0 / 10_000f32.powf(i as f32 / head_dim as f32))
        .collect()
}
