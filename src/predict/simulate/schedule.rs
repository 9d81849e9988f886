//! Which tokens a step holds, and how long it takes.

use super::{super::Work, Engine, Event, Happening, Mixing, engine::Sequence};

/// Chunks of prompts, as new and cached tokens, and sequences that decode.
type Pass<'a> = (Vec<(f64, f64)>, &'a [&'a Sequence]);

impl Engine {
    /// Gives every running sequence its share of the next step, and admits from the queue.
    pub(super) fn plan(&mut self, events: &mut Vec<Event>) {
        let budget = self.config.max_batched_tokens.unwrap_or(u64::MAX);
        match self.config.mixing {
            Mixing::PrefillFirst => {
                let left = self.go_on_with_prompts(budget);
                if self.admit(left, events) < budget {
                    return;
                }
                self.decode(budget, events);
            }
            Mixing::DecodeFirst | Mixing::Slots { .. } => {
                let before = self.n_preempted;
                let left = self.decode(budget, events);
                let left = self.go_on_with_prompts(left);
                // Whoever was thrown out stands first in the queue: admitting now could only throw out again.
                if self.n_preempted == before {
                    self.admit(left, events);
                }
            }
        }
    }

    fn free_blocks(&self) -> u64 {
        self.config.kv_blocks.map_or(u64::MAX, |all| all - self.blocks_used)
    }

    /// One token of every decoding sequence, oldest first. Where blocks run out the youngest sequence makes room, the one that asks
    /// at the latest. Returns what is left of the step.
    fn decode(&mut self, mut budget: u64, events: &mut Vec<Event>) -> u64 {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            if sequence.decodes() && budget > 0 {
                let needs = self.config.blocks_of(sequence.attended()) - sequence.blocks;
                while self.free_blocks() < needs && self.running.len() > index {
                    self.preempt_youngest(events);
                }
                let Some(sequence) = self.running.get_mut(index) else { break };
                sequence.blocks += needs;
                sequence.share = 1;
                self.blocks_used += needs;
                budget -= 1;
            }
            index += 1;
        }
        budget
    }

    /// Running sequences stand in the order of arrival, and so does the queue: the youngest running one is older than all of it.
    fn preempt_youngest(&mut self, events: &mut Vec<Event>) {
        let Some(mut victim) = self.running.pop() else { return };
        self.blocks_used -= victim.blocks;
        self.n_preempted += 1;
        events.push(Event {
            at_ns: self.now_ns,
            id: victim.request.id,
            what: Happening::Preempted,
        });
        victim.target = victim.request.prompt_tokens + victim.generated;
        victim.computed = 0;
        victim.blocks = 0;
        victim.share = 0;
        self.waiting.push_front(victim);
    }

    /// Further chunks of prompts that were begun.
    fn go_on_with_prompts(&mut self, mut budget: u64) -> u64 {
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.decodes()) {
            sequence.share = sequence.left().min(budget);
            budget -= sequence.share;
        }
        budget
    }

    /// Takes from the head of the queue what fits: a place, tokens of the step, blocks for all of its prompt. Nobody overtakes.
    fn admit(&mut self, mut budget: u64, events: &mut Vec<Event>) -> u64 {
        while let Some(first) = self.waiting.front()
            && first.arrived_ns <= self.now_ns
            && self.running.len() < self.config.max_num_seqs
            && budget > 0
        {
            let fits = first.left() <= budget;
            let blocks = self.config.blocks_of_prompt(first.target);
            if !(fits || self.config.chunked_prefill) || blocks > self.free_blocks() {
                break;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            sequence.share = sequence.left().min(budget);
            sequence.blocks = blocks;
            budget -= sequence.share;
            self.blocks_used += blocks;
            let id = sequence.request.id;
            events.push(Event { at_ns: self.now_ns, id, what: Happening::Admitted });
            self.running.push(sequence);
        }
        budget
    }

    /// Seconds of the step that was planned.
    pub(super) fn duration_s(&self) -> f64 {
        match self.config.mixing {
            Mixing::Slots { ubatch_tokens } => self.passes_s(ubatch_tokens),
            Mixing::DecodeFirst | Mixing::PrefillFirst => {
                let chunks = self.in_step(false).map(|s| (s.share as f64, s.computed as f64));
                self.pass_s(&Work::prefill(chunks), &self.decode_work(self.in_step(true)))
            }
        }
    }

    fn in_step(&self, decodes: bool) -> impl Iterator<Item = &Sequence> {
        self.running.iter().filter(move |s| s.share > 0 && s.decodes() == decodes)
    }

    fn decode_work<'a>(&self, sequences: impl Iterator<Item = &'a Sequence>) -> Work {
        let budget = self.config.kv_budget.map(|most| most as f64);
        Work::decode(sequences.map(|s| s.attended() as f64), budget)
    }

    fn pass_s(&self, prefill: &Work, decode: &Work) -> f64 {
        // Of a pass in tiles, the work of decoding may hold what prompts attend to and no sequence.
        let there = |work: &Work| work.batch > 0.0 || work.attended > 0.0;
        self.times.step_s(Some(prefill).filter(|w| there(w)), Some(decode).filter(|w| there(w)))
    }

    /// The step's tokens in order (decoded ones first), cut into passes.
    fn passes_s(&self, ubatch_tokens: u64) -> f64 {
        let decoding: Vec<&Sequence> = self.in_step(true).collect();
        let width = usize::try_from(ubatch_tokens).unwrap_or(usize::MAX);
        let mut passes: Vec<Pass<'_>> =
            decoding.chunks(width).map(|part| (Vec::new(), part)).collect();
        let last = passes.last().map_or(0, |(_, part)| part.len() as u64);
        let mut room = if passes.is_empty() { 0 } else { ubatch_tokens - last };
        for sequence in self.in_step(false) {
            let (mut left, mut there) = (sequence.share, sequence.computed);
            while left > 0 {
                if room == 0 {
                    passes.push((Vec::new(), &[]));
                    room = ubatch_tokens;
                }
                let chunk = left.min(room);
                if let Some((chunks, _)) = passes.last_mut() {
                    chunks.push((chunk as f64, there as f64));
                }
                (left, there, room) = (left - chunk, there + chunk, room - chunk);
            }
        }
        let pass = |(chunks, part): Pass<'_>| {
            if let Some(tiles) = self.config.tiles {
                let kept = |s: &&Sequence| self.config.kept(s.attended()) as f64;
                let decoding: Vec<f64> = part.iter().map(kept).collect();
                let (prefill, decode) = tiles.pass(&decoding, &chunks);
                return self.pass_s(&prefill, &decode);
            }
            self.pass_s(&Work::prefill(chunks), &self.decode_work(part.iter().copied()))
        };
        passes.into_iter().map(pass).sum()
    }
}
