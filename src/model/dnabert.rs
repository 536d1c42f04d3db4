//! The forward pass of DNABERT-S and DNABERT-2 (Zhou et al. 2023, 2024): the encoder of MosaicBERT,
//! as its plain code path computes it.

use super::{Collector, ModelError, Parameters, Workspace, norm};
use crate::architecture::ModelConfig;
use crate::backend::{
    AttentionSpec, Backend, BackendError, Builder, LinearKind, LinearPart, Norm, Pass, Position,
    Role,
};
use crate::batch::PackedBatch;
use crate::weights::{F32Data, Weight};

pub(super) struct Dnabert<B: Backend> {
    /// The embeddings of the token ids, `[vocab, hidden]`.
    words: B::Vector,
    /// The embedding of token type 0, `[hidden]`.
    token_type: B::Vector,
    norm: Norm<B::Vector>,
    attention: B::Attention,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    qkv: B::Linear,
    out: B::Linear,
    attention_norm: Norm<B::Vector>,
    /// The gate matrix above the up matrix, `[2·intermediate, hidden]`, without bias.
    gated: B::Linear,
    down: B::Linear,
    mlp_norm: Norm<B::Vector>,
}

impl<B: Backend> Dnabert<B> {
    pub(super) fn load(
        b: &mut impl Builder<Backend = B>,
        config: &ModelConfig,
        p: &impl Parameters,
    ) -> Result<Self, ModelError> {
        let (d, ffn) = (config.hidden, config.intermediate);
        let eps = config.layer_norm_eps as f32;
        let part = |name: String, bias: bool| -> Result<LinearPart, ModelError> {
            let weight = p.get(&format!("{name}.weight"))?;
            let bias = match bias {
                true => Some(p.get(&format!("{name}.bias"))?),
                false => None,
            };
            Ok(LinearPart { weight, bias })
        };
        let attention = b.attention_weights(AttentionSpec {
            heads: config.heads,
            head_dim: config.head_dim(),
            position: Position::Alibi(alibi_slopes(config.heads)),
        })?;
        let words = b.vector(p.get("embeddings.word_embeddings.weight")?)?;
        let types = p.get("embeddings.token_type_embeddings.weight")?.to_f32();
        let token_type = b.vector(Weight::F32(F32Data::Owned(types[..d].to_vec())))?;
        let embedding_norm = norm(b, p, "embeddings.LayerNorm", eps)?;
        let layers = (0..config.layers)
            .map(|i| {
                b.next_layer();
                let at = format!("encoder.layer.{i}");
                let after_attention = format!("{at}.attention.output.LayerNorm");
                Ok(Layer {
                    qkv: b.linear_weights(
                        vec![part(format!("{at}.attention.self.Wqkv"), true)?],
                        d,
                        LinearKind::Store,
                    )?,
                    out: b.linear_weights(
                        vec![part(format!("{at}.attention.output.dense"), true)?],
                        d,
                        LinearKind::Add,
                    )?,
                    attention_norm: norm(b, p, &after_attention, eps)?,
                    gated: b.linear_weights(
                        vec![part(format!("{at}.mlp.gated_layers"), false)?],
                        d,
                        LinearKind::Gated,
                    )?,
                    down: b.linear_weights(
                        vec![part(format!("{at}.mlp.wo"), true)?],
                        ffn,
                        LinearKind::Add,
                    )?,
                    mlp_norm: norm(b, p, &format!("{at}.mlp.layernorm"), eps)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self {
            words,
            token_type,
            norm: embedding_norm,
            attention,
            layers,
        })
    }

    pub(super) fn workspace(
        b: &mut impl Builder<Backend = B>,
        config: &ModelConfig,
    ) -> Result<Workspace<B>, BackendError> {
        let d = config.hidden;
        Ok(Workspace {
            x: b.matrix(Role::Both, d)?,
            h: b.matrix(Role::Both, d)?,
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
        // The residual stream alternates between `sum` and `h`: attention is added onto `sum` and
        // the MLP onto `h`, and each LayerNorm writes to the other matrix.
        let Workspace {
            x: sum,
            h,
            qkv,
            wide,
        } = ws;
        let ones = vec![1.0; batch.total()];
        pass.wait_for_weights(0)?;
        pass.embed(&ones, &self.words, Some(&self.token_type), h)?;
        pass.layer_norm(h, &self.norm, sum)?;
        collector.take(pass, 0, sum, None)?;
        for (i, layer) in self.layers.iter().enumerate().take(collector.last()) {
            pass.wait_for_weights(i + 1)?;
            pass.linear_qkv(sum, &layer.qkv, &self.attention, qkv)?;
            pass.attention(qkv, &self.attention, h)?;
            pass.linear_add(h, &layer.out, sum)?;
            pass.layer_norm(sum, &layer.attention_norm, h)?;

            pass.linear_gated(h, &layer.gated, wide)?;
            pass.linear_add(wide, &layer.down, h)?;
            pass.layer_norm(h, &layer.mlp_norm, sum)?;
            collector.take(pass, i + 1, sum, None)?;
        }
        Ok(())
    }
}

/// The slopes of ALiBi (Press et al. 2022), `[heads]`. For n heads, n a power of two, they are the
/// powers of 2^(-8/n). For any other number of heads, they are the slopes of the next lower power
/// of two, followed by every second slope of the next higher power.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let powers = |n: usize| (1..=n).map(move |i| 2f64.powf(-8.0 * i as f64 / n as f64) as f32);
    let below = if heads.is_power_of_two() {
        heads
    } else {
        heads.next_power_of_two() / 2
    };
    powers(below)
        .chain(powers(2 * below).step_by(2))
        .take(heads)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::alibi_slopes;

    #[test]
    fn twelve_heads_have_the_published_slopes() {
        let want: Vec<f64> = (1..=8)
            .map(|i| -(i as f64))
            .chain([-0.5, -1.5, -2.5, -3.5])
            .collect();
        let got: Vec<f64> = alibi_slopes(12)
            .iter()
            .map(|s| (*s as f64).log2())
            .collect();
        assert!(
            got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-6),
            "{got:?}"
        );
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
    }
}
