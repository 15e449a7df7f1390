//! Traces: the allocations and frees of real work, in order, as plain data.

mod decode;
mod training;

pub use decode::{DecoderShape, decode_step};
pub use training::{TrainingShape, training_step};

/// An event of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Allocates `bytes` bytes into `slot`.
    Take {
        /// The slot, empty before.
        slot: usize,
        /// Its size.
        bytes: usize,
    },
    /// Frees the block in `slot`.
    GiveBack {
        /// The slot.
        slot: usize,
    },
}

/// A repeatable trace: after `events`, the slots hold blocks of the same sizes as before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// The live blocks before the first repetition.
    pub prologue: Vec<Event>,
    /// One repetition.
    pub events: Vec<Event>,
    /// Returns the number of slots.
    pub slots: usize,
}

impl Trace {
    /// Returns the allocations of one repetition.
    pub fn takes(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Take { .. })).count()
    }

    /// Returns the peak of live requested bytes.
    pub fn peak(&self) -> usize {
        let mut sizes = vec![0; self.slots];
        let (mut alive, mut peak) = (0, 0);
        for event in self.prologue.iter().chain(&self.events) {
            match *event {
                Event::Take { slot, bytes } => {
                    sizes[slot] = bytes;
                    alive += bytes;
                }
                Event::GiveBack { slot } => alive -= std::mem::take(&mut sizes[slot]),
            }
            peak = peak.max(alive);
        }
        peak
    }
}

/// A trace builder, which assigns the lowest free slot.
#[derive(Debug, Default)]
struct Writer {
    events: Vec<Event>,
    taken: Vec<bool>,
}

/// A live block of a trace builder.
#[derive(Debug)]
struct Slot(usize);

impl Writer {
    /// Allocates a block of `numbers` numbers of four bytes.
    fn take(&mut self, numbers: usize) -> Slot {
        let slot = self.taken.iter().position(|taken| !taken).unwrap_or(self.taken.len());
        if slot == self.taken.len() {
            self.taken.push(true);
        }
        self.taken[slot] = true;
        self.events.push(Event::Take { slot, bytes: numbers * 4 });
        Slot(slot)
    }

    /// Frees blocks in order.
    fn free<const N: usize>(&mut self, slots: [Slot; N]) {
        for Slot(slot) in slots {
            self.taken[slot] = false;
            self.events.push(Event::GiveBack { slot });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that slots are empty before allocations, full before frees, and unchanged after a repetition.
    fn assert_repeats(trace: &Trace) {
        let mut alive = vec![None; trace.slots];
        let mut replay = |events: &[Event]| {
            for event in events {
                match *event {
                    Event::Take { slot, bytes } => {
                        assert!(bytes > 0);
                        assert_eq!(alive[slot].replace(bytes), None, "slot {slot} was full");
                    }
                    Event::GiveBack { slot } => {
                        assert!(alive[slot].take().is_some(), "slot {slot} was empty");
                    }
                }
            }
            alive.clone()
        };
        let before = replay(&trace.prologue);
        assert_eq!(replay(&trace.events), before);
        assert_eq!(replay(&trace.events), before);
    }

    #[test]
    fn traces_repeat() {
        assert_repeats(&decode_step(&DecoderShape::BITNET_2B));
        assert_repeats(&decode_step(&DecoderShape::STORIES));
        assert_repeats(&training_step(&TrainingShape::STORIES));
    }

    #[test]
    fn sizes_are_those_of_the_shape() {
        let trace = decode_step(&DecoderShape::BITNET_2B);
        let largest = trace.events.iter().map(|event| match event {
            Event::Take { bytes, .. } => *bytes,
            Event::GiveBack { .. } => 0,
        });
        assert_eq!(largest.max(), Some(6912 * 4), "the head is prepared: no logits");
        let trace = training_step(&TrainingShape::STORIES);
        let parameters =
            1024 * 256 + 256 + 4 * (256 * (2 * 256 + 2 * 128 + 3 * 512) + 3 * 256 + 512);
        assert!(trace.events.contains(&Event::Take { slot: 0, bytes: parameters * 4 }));
    }
}
