//! The forward pass of ESM-2 (Lin et al. 2023), as fair-esm and Hugging Face compute it.

use super::{Collector, ModelError, Parameters, Workspace, norm};
use crate::architecture::ModelConfig;
use crate::backend::{
    Activation, AttentionSpec, Backend, BackendError, Builder, LinearKind, LinearPart, Norm, Pass,
    Position, Role,
};
use crate::batch::PackedBatch;

/// The factor by which token dropout scales the embedding, at inference too: 1 minus the share of
/// tokens that training replaced by `<mask>`. Training masked 15 % of the tokens, and wrote 80 % of
/// the masked tokens as `<mask>`. The factor is rounded to f32, as in code that multiplies f32
/// values by it; the rounding changes it by one part in 2·10^8.
const TRAINED_KEPT_RATIO: f32 = (1.0 - 0.15 * 0.8) as f32;

pub(super) struct Esm2<B: Backend> {
    config: ModelConfig,
    /// The embeddings of the token ids, `[vocab, hidden]`.
    embedding: B::Vector,
    attention: B::Attention,
    layers: Vec<Layer<B>>,
    norm: Norm<B::Vector>,
}

struct Layer<B: Backend> {
    attention_norm: Norm<B::Vector>,
    qkv: B::Linear,
    out: B::Linear,
    mlp_norm: Norm<B::Vector>,
    fc1: B::Linear,
    fc2: B::Linear,
}

impl<B: Backend> Esm2<B> {
    pub(super) fn load(
        b: &mut impl Builder<Backend = B>,
        config: &ModelConfig,
        p: &impl Parameters,
    ) -> Result<Self, ModelError> {
        let (d, ffn) = (config.hidden, config.intermediate);
        let eps = config.layer_norm_eps as f32;
        let part = |name: String| -> Result<LinearPart, ModelError> {
            let weight = p.get(&format!("{name}.weight"))?;
            let bias = Some(p.get(&format!("{name}.bias"))?);
            Ok(LinearPart { weight, bias })
        };
        // The frequencies act as weights: published checkpoints hold values that went through fp16.
        // They are the same in every layer.
        let inv_freq = p
            .find("encoder.layer.0.attention.self.rotary_embeddings.inv_freq")
            .map_or_else(
                || computed_inv_freq(config.head_dim()),
                |f| f.to_f32().to_vec(),
            );
        let attention = b.attention_weights(AttentionSpec {
            heads: config.heads,
            head_dim: config.head_dim(),
            position: Position::Rotary(inv_freq),
        })?;
        let embedding = b.vector(p.get("embeddings.word_embeddings.weight")?)?;
        let layers = (0..config.layers)
            .map(|i| {
                b.next_layer();
                let at = format!("encoder.layer.{i}");
                let heads = ["query", "key", "value"];
                let heads = heads.map(|n| part(format!("{at}.attention.self.{n}")));
                Ok(Layer {
                    attention_norm: norm(b, p, &format!("{at}.attention.LayerNorm"), eps)?,
                    qkv: b.linear_weights(
                        heads.into_iter().collect::<Result<_, _>>()?,
                        d,
                        LinearKind::Store,
                    )?,
                    out: b.linear_weights(
                        vec![part(format!("{at}.attention.output.dense"))?],
                        d,
                        LinearKind::Add,
                    )?,
                    mlp_norm: norm(b, p, &format!("{at}.LayerNorm"), eps)?,
                    fc1: b.linear_weights(
                        vec![part(format!("{at}.intermediate.dense"))?],
                        d,
                        LinearKind::Store,
                    )?,
                    fc2: b.linear_weights(
                        vec![part(format!("{at}.output.dense"))?],
                        ffn,
                        LinearKind::Add,
                    )?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        b.next_layer();
        Ok(Self {
            embedding,
            attention,
            layers,
            norm: norm(b, p, "encoder.emb_layer_norm_after", eps)?,
            config: config.clone(),
        })
    }

    pub(super) fn workspace(
        b: &mut impl Builder<Backend = B>,
        config: &ModelConfig,
    ) -> Result<Workspace<B>, BackendError> {
        let d = config.hidden;
        Ok(Workspace {
            x: b.matrix(Role::Residual, d)?,
            h: b.matrix(Role::Activation, d)?,
            qkv: b.matrix(Role::Activation, 3 * d)?,
            wide: b.matrix(Role::Activation, config.intermediate)?,
        })
    }

    pub(super) fn forward(
        &self,
        pass: &mut B::Pass<'_>,
        ws: &mut Workspace<B>,
        batch: &PackedBatch,
        collector: &mut Collector<'_, B>,
    ) -> Result<(), ModelError> {
        let Workspace { x, h, qkv, wide } = ws;
        let scale = self.embedding_scale(batch);
        pass.wait_for_weights(0)?;
        pass.embed(&scale, &self.embedding, None, x)?;
        if self.layers.is_empty() {
            pass.wait_for_weights(1)?;
            return Ok(collector.take(pass, 0, x, Some(&self.norm))?);
        }
        collector.take(pass, 0, x, None)?;
        for (i, layer) in self.layers.iter().enumerate().take(collector.last()) {
            pass.wait_for_weights(i + 1)?;
            pass.layer_norm(x, &layer.attention_norm, h)?;
            pass.linear_qkv(h, &layer.qkv, &self.attention, qkv)?;
            pass.attention(qkv, &self.attention, h)?;
            pass.linear_add(h, &layer.out, x)?;

            pass.layer_norm(x, &layer.mlp_norm, h)?;
            pass.linear(h, &layer.fc1, Activation::Gelu, wide)?;
            pass.linear_add(wide, &layer.fc2, x)?;

            let last = i + 1 == self.layers.len();
            if last {
                pass.wait_for_weights(i + 2)?;
            }
            collector.take(pass, i + 1, x, last.then_some(&self.norm))?;
        }
        Ok(())
    }

    /// The factor of each token's embedding, `[total tokens]`: 0 for `<mask>`, and `0.88 / (1 -
    /// share)` for other tokens, where `share` is the share of `<mask>` among the sequence's
    /// tokens, cls and eos counted. Without token dropout, every factor is 1.
    fn embedding_scale(&self, batch: &PackedBatch) -> Vec<f64> {
        if !self.config.token_dropout {
            return vec![1.0; batch.total()];
        }
        let mut scale = Vec::with_capacity(batch.total());
        for i in 0..batch.len() {
            let tokens = &batch.tokens()[batch.range(i)];
            let masks = tokens
                .iter()
                .filter(|t| **t == self.config.mask_token)
                .count();
            let share = masks as f64 / tokens.len() as f64;
            let kept = TRAINED_KEPT_RATIO as f64 / (1.0 - share);
            scale.extend(tokens.iter().map(|t| {
                if *t == self.config.mask_token {
                    0.0
                } else {
                    kept
                }
            }));
        }
        scale
    }
}

/// The rotary frequencies `1 / 10000^(2i / head_dim)` in f32, `[head_dim / 2]`, as Hugging Face
/// computes them if a file lacks them.
fn computed_inv_freq(head_dim: usize) -> Vec<f32> {
    (0..head_dim)
        .step_by(2)
        .map(|i| 1.0 / 10_000f32.powf(i as f32 / head_dim as f32))
        .collect()
}
