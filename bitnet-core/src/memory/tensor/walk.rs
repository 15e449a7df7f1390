//! The order in which strided operands are visited, with adjacent dimensions joined where possible.

use super::metadata::Dims;

/// `N` operands of one shape, visited together in row-major order, as runs along the last dimension after dimensions of
/// one element are dropped and adjacent ones that are evenly strided in every operand are joined.
#[derive(Debug)]
pub(crate) struct Walk<const N: usize> {
    shape: Dims<usize>,
    steps: Dims<[isize; N]>,
    starts: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// `strides` has one list for each operand, as long as `shape`;
    /// `starts` is the index of each operand's first element.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; N], starts: [usize; N]) -> Self {
        let mut joined = Self { shape: Dims::new(), steps: Dims::new(), starts };
        for (dim, &extent) in shape.iter().enumerate() {
            if extent != 1 {
                joined.push(extent, std::array::from_fn(|operand| strides[operand][dim]));
            }
        }
        if joined.shape.is_empty() {
            joined.push(1, [1; N]);
        }
        joined
    }

    /// Adds a dimension inside the others: joined with the last one if a step of that is this one's whole length.
    fn push(&mut self, extent: usize, step: [isize; N]) {
        if let (Some(outer), Some(outer_step)) = (self.shape.last_mut(), self.steps.last_mut())
            && outer_step.iter().zip(&step).all(|(&outer, &inner)| {
                isize::try_from(extent).ok().and_then(|extent| inner.checked_mul(extent))
                    == Some(outer)
            })
            && let Some(together) = outer.checked_mul(extent)
        {
            *outer = together;
            *outer_step = step;
            return;
        }
        self.shape.push(extent);
        self.steps.push(step);
    }

    /// The length of a run and the step of each operand from one of its elements to the next.
    #[inline(always)]
    pub(crate) fn run(&self) -> (usize, [isize; N]) {
        let last = self.shape.len() - 1;
        (self.shape[last], self.steps[last])
    }

    /// Where each operand's run begins, run after run.
    #[inline(always)]
    pub(crate) fn cursor(&self) -> Cursor<'_, N> {
        let outer = self.shape.len() - 1;
        Cursor {
            walk: self,
            index: Dims::from_elem(0usize, outer),
            at: self.starts,
            done: self.shape.contains(&0),
        }
    }
}

impl Walk<1> {
    /// The position of every element.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        let (len, [step]) = self.run();
        let run = move |[start]: [usize; 1]| {
            (0..len as isize).map(move |i| start.wrapping_add_signed(step.wrapping_mul(i)))
        };
        self.cursor().flat_map(run)
    }
}

/// Copies the elements from `start` on that are `step` apart.
#[inline]
pub(crate) fn copy_run(all: &[f32], start: usize, step: isize, out: &mut [f32]) {
    match step {
        1 => out.copy_from_slice(&all[start..start + out.len()]),
        0 => out.fill(all[start]),
        _ => {
            let mut at = start;
            for out in out {
                *out = all[at];
                at = at.wrapping_add_signed(step);
            }
        }
    }
}

/// A place in a [`Walk`]. Kernels write `for` loops over it: the body of a closure would not be compiled for the
/// instruction set of the loop around it.
#[derive(Debug)]
pub(crate) struct Cursor<'a, const N: usize> {
    walk: &'a Walk<N>,
    index: Dims<usize>,
    at: [usize; N],
    done: bool,
}

impl<const N: usize> Iterator for Cursor<'_, N> {
    type Item = [usize; N];

    #[inline(always)]
    fn next(&mut self) -> Option<[usize; N]> {
        if self.done {
            return None;
        }
        let at = self.at;
        self.step();
        Some(at)
    }
}

impl<const N: usize> Cursor<'_, N> {
    fn step(&mut self) {
        for (dim, index) in self.index.iter_mut().enumerate().rev() {
            let (extent, steps) = (self.walk.shape[dim], &self.walk.steps[dim]);
            *index += 1;
            if *index < extent {
                advance(&mut self.at, steps, 1);
                return;
            }
            advance(&mut self.at, steps, 1 - extent as isize);
            *index = 0;
        }
        self.done = true;
    }
}

/// Moves every operand by `times` of its steps. Positions remain inside their storages, so nothing wraps.
fn advance<const N: usize>(at: &mut [usize; N], steps: &[isize; N], times: isize) {
    for (at, step) in at.iter_mut().zip(steps) {
        *at = at.wrapping_add_signed(step.wrapping_mul(times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited(shape: &[usize], strides: &[isize], start: usize) -> (usize, Vec<usize>) {
        let walk = Walk::new(shape, [strides], [start]);
        let (len, [step]) = walk.run();
        let mut all = Vec::new();
        let mut runs = 0;
        for [at] in walk.cursor() {
            runs += 1;
            all.extend((0..len as isize).map(|i| at.wrapping_add_signed(i * step)));
        }
        (runs, all)
    }

    #[test]
    fn evenly_spaced_elements_are_one_run() {
        assert_eq!(visited(&[2, 1, 3], &[3, 99, 1], 5), (1, (5..11).collect()));
        assert_eq!(visited(&[2, 3], &[1, 2], 0), (2, vec![0, 2, 4, 1, 3, 5]));
        assert_eq!(visited(&[2, 2, 2], &[-4, -2, -1], 7), (1, (0..8).rev().collect()));
        assert_eq!(visited(&[3, 2], &[0, 1], 0), (3, vec![0, 1, 0, 1, 0, 1]));
        assert_eq!(visited(&[], &[], 4), (1, vec![4]));
        assert_eq!(visited(&[3, 0], &[1, 1], 0), (0, vec![]));
    }
}
