//! Which layers and poolings of an output are exported.

use super::{ExportError, ExportOptions, Format};
use crate::output::Finished;

/// What is exported of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One row per record, by this pooling.
    Pooled(String),
    /// The states of every token.
    States,
}

/// A part of each record: a layer, pooled or with the states of every token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The layer.
    pub layer: usize,
    /// What is exported of it.
    pub content: Content,
}

/// Returns what is exported.
pub(super) fn parts(
    finished: &Finished,
    options: &ExportOptions,
) -> Result<Vec<Part>, ExportError> {
    let (layout, format) = (finished.layout(), options.format);
    // An output of states alone leaves no choice.
    let states = options.per_token || (layout.pools.is_empty() && options.pool.is_none());
    if states && !layout.per_token {
        return Err(ExportError::NoStates);
    }
    if states && format == Format::Csv {
        return Err(ExportError::OnlyPooled { format });
    }
    let layers = match options.layer {
        Some(layer) => vec![chosen(layer, finished)?],
        None if layout.layers.len() > 1 && format != Format::Pt => {
            return Err(ExportError::Layers {
                format,
                layers: layout.layers.clone(),
            });
        }
        None => layout.layers.clone(),
    };
    let contents = match states {
        true => vec![Content::States],
        false => pools(finished, options)?,
    };
    let of_layer = |layer: usize| {
        let part = move |content: &Content| Part {
            layer,
            content: content.clone(),
        };
        contents.iter().map(part).collect::<Vec<_>>()
    };
    Ok(layers.into_iter().flat_map(of_layer).collect())
}

fn chosen(layer: i64, finished: &Finished) -> Result<usize, ExportError> {
    let layers = &finished.layout().layers;
    let last = finished.head().job.model.config.layers as i64;
    let index = match layer < 0 {
        true => layer.checked_add(last + 1),
        false => Some(layer),
    };
    let index = index.and_then(|i| usize::try_from(i).ok());
    let found = index.filter(|i| layers.contains(i));
    found.ok_or_else(|| ExportError::NoLayer {
        layer,
        layers: layers.clone(),
    })
}

/// Returns the poolings, each as what is exported of a layer.
fn pools(finished: &Finished, options: &ExportOptions) -> Result<Vec<Content>, ExportError> {
    let there = &finished.layout().pools;
    let wanted = match &options.pool {
        Some(pool) if there.contains(pool) => vec![pool.clone()],
        Some(pool) => {
            return Err(ExportError::NoPool {
                pool: pool.clone(),
                pools: there.clone(),
            });
        }
        None if there.len() > 1 && options.format != Format::Pt => {
            return Err(ExportError::Pools {
                format: options.format,
                pools: there.clone(),
            });
        }
        None => there.clone(),
    };
    if options.format == Format::Pt
        && let Some(pool) = wanted.iter().find(|p| *p != "mean" && *p != "cls")
    {
        return Err(ExportError::NoPlaceForPool { pool: pool.clone() });
    }
    Ok(wanted.into_iter().map(Content::Pooled).collect())
}
