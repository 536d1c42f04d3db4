//! Presents several devices as one: batches are dealt by their cost and collected in order.

use crate::architecture::ModelConfig;
use crate::batch::{Budget, PackedBatch};
use crate::model::{Embedder, LayerOutput, ModelError, Request};
use std::collections::VecDeque;

/// The same model on several devices. A batch goes to the device that was dealt the least total
/// cost so far. The batches that a device holds at the moment would tell less: results are
/// collected in order, so some of these batches may be finished and only waiting.
pub struct Fleet<E> {
    members: Vec<Member<E>>,
    /// The index of the member that has each batch which is submitted and not yet collected, oldest
    /// first.
    order: VecDeque<usize>,
}

struct Member<E> {
    embedder: E,
    /// The total cost of the batches that it was dealt so far.
    dealt: u64,
}

impl<E: Embedder> Fleet<E> {
    /// Makes a fleet of devices that hold the same model. Returns `None` if there are no devices.
    pub fn new(embedders: Vec<E>) -> Option<Self> {
        if embedders.is_empty() {
            return None;
        }
        let members = embedders
            .into_iter()
            .map(|embedder| Member { embedder, dealt: 0 });
        Some(Self {
            members: members.collect(),
            order: VecDeque::new(),
        })
    }

    /// The embedders of the devices, in the order in which they were given.
    pub fn members(&self) -> impl Iterator<Item = &E> {
        self.members.iter().map(|m| &m.embedder)
    }
}

/// The cost of a batch, in units of 4·hidden FLOP per layer. A token's linear layers take
/// 24·hidden² FLOP per layer, and its attention takes 4·hidden·length, so a token costs 6·hidden +
/// length.
fn cost(batch: &PackedBatch, hidden: usize) -> u64 {
    let one = |length: usize| (length * (6 * hidden + length)) as u64;
    (0..batch.len()).map(|i| one(batch.range(i).len())).sum()
}

impl<E: Embedder> Embedder for Fleet<E> {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        let cost = cost(batch, self.config().hidden);
        // A member without a free slot is chosen only if no member has one, since submitting to it
        // waits.
        let free = |m: &Member<E>| (m.embedder.free_slots() == 0, m.dealt);
        let chosen = (0..self.members.len()).min_by_key(|i| free(&self.members[*i]));
        let chosen = chosen.unwrap_or(0);
        let member = &mut self.members[chosen];
        member.embedder.submit(batch, request)?;
        member.dealt += cost;
        self.order.push_back(chosen);
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        let Some(from) = self.order.pop_front() else {
            return Ok(None);
        };
        self.members[from].embedder.collect()
    }

    /// The sum of the free slots of all devices, less one if there are several devices. If all
    /// devices were full, the next batch would have to go to the device whose batch was just
    /// collected, whatever that batch costs.
    fn free_slots(&self) -> usize {
        let all: usize = self.members.iter().map(|m| m.embedder.free_slots()).sum();
        all.saturating_sub(usize::from(self.members.len() > 1))
    }

    fn budget(&self) -> Budget {
        let others = self.members[1..].iter().map(|m| m.embedder.budget());
        others.fold(self.members[0].embedder.budget(), Budget::and)
    }

    fn config(&self) -> &ModelConfig {
        self.members[0].embedder.config()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first token of each batch, and holds at most two batches.
    struct Echo {
        config: ModelConfig,
        held: VecDeque<f32>,
        tokens: usize,
    }

    impl Embedder for Echo {
        fn submit(&mut self, batch: &PackedBatch, _: &Request) -> Result<(), ModelError> {
            assert!(self.held.len() < 2, "no slot was free");
            self.held.push_back(batch.tokens()[0] as f32);
            self.tokens += batch.total();
            Ok(())
        }
        fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
            Ok(self.held.pop_front().map(|first| {
                vec![LayerOutput {
                    layer: 0,
                    pooled: vec![first],
                    states: vec![].into(),
                }]
            }))
        }
        fn free_slots(&self) -> usize {
            2 - self.held.len()
        }
        fn budget(&self) -> Budget {
            Budget {
                first_batches: 1,
                first_tokens: 160,
                tokens: 80,
            }
        }
        fn config(&self) -> &ModelConfig {
            &self.config
        }
    }

    #[test]
    fn batches_come_back_in_order_and_the_work_is_even() {
        let echo = || Echo {
            config: ModelConfig::esm2(1, 32, 4),
            held: VecDeque::new(),
            tokens: 0,
        };
        let mut fleet = Fleet::new(vec![echo(), echo(), echo()]).unwrap();
        let request = Request {
            layers: vec![0],
            pools: vec![],
            per_token: false,
        };
        assert_eq!(fleet.free_slots(), 5);
        assert_eq!(fleet.budget().first_batches, 3);
        let mut back = Vec::new();
        for i in 0..60u32 {
            if fleet.free_slots() == 0 {
                back.push(fleet.collect().unwrap().unwrap()[0].pooled[0]);
            }
            let mut batch = PackedBatch::new();
            // Every third batch is much longer: dealt in turn, one device would get all the long
            // batches.
            batch.push(&vec![i; if i % 3 == 0 { 80 } else { 20 }]);
            fleet.submit(&batch, &request).unwrap();
        }
        while let Some(output) = fleet.collect().unwrap() {
            back.push(output[0].pooled[0]);
        }
        assert_eq!(back, (0..60).map(|i| i as f32).collect::<Vec<_>>());
        let tokens: Vec<usize> = fleet.members().map(|e| e.tokens).collect();
        assert_eq!(tokens.iter().sum::<usize>(), 20 * 80 + 40 * 20);
        assert!(tokens.iter().all(|t| (760..=840).contains(t)), "{tokens:?}");
        assert!(Fleet::<Echo>::new(vec![]).is_none());
    }
}
