//! The loops of reductions: along rows with sixteen accumulators, or down columns with one for each.

use crate::Result;
use crate::memory::tensor::{BitNetTensor, Dims, Walk};
use crate::simd::{self, IsaLevel, Kernel, joined};

/// Accumulators of a row; element `i` of a run is added to accumulator `i % LANES` with every instruction set.
const LANES: usize = 16;
/// Columns that are reduced together.
const COLUMNS: usize = 128;

pub(super) trait Reducer {
    /// The accumulated state.
    type State: Copy;
    type Output: Copy;

    const START: Self::State;

    /// Adds one number; `about` is the number of this output that the caller passed.
    fn step(state: Self::State, x: f32, about: f64) -> Self::State;

    /// Combines the states of two groups of numbers.
    fn join(a: Self::State, b: Self::State) -> Self::State;

    /// The result for `count` numbers.
    fn finish(state: Self::State, count: usize) -> Self::Output;
}

/// Which elements of a tensor make which output.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) outer: Walk<1>,
    /// Offsets of an output's elements from its first one.
    pub(super) reduced: Walk<1>,
    pub(super) count: usize,
    pub(super) shape: Dims<usize>,
}

impl Plan {
    /// A plan for an f32 tensor; `reduced` returns whether a dimension is reduced.
    pub(super) fn new(
        x: &BitNetTensor,
        reduced: impl Fn(usize) -> bool,
        keep_dims: bool,
    ) -> Result<Self> {
        let (_, start) = x.strided_f32()?;
        let mut shapes = [Dims::<usize>::new(), Dims::new()];
        let mut strides = [Dims::<isize>::new(), Dims::new()];
        let mut shape = Dims::new();
        for (dim, (&extent, &stride)) in x.shape().iter().zip(x.metadata().strides()).enumerate() {
            let is_reduced = reduced(dim);
            shapes[usize::from(is_reduced)].push(extent);
            strides[usize::from(is_reduced)].push(stride);
            if !is_reduced {
                shape.push(extent);
            } else if keep_dims {
                shape.push(1);
            }
        }
        let [outer, inner] = shapes;
        let count = crate::memory::tensor::elements_of(&inner)?;
        Ok(Self {
            outer: Walk::new(&outer, [&strides[0]], [start]),
            reduced: Walk::new(&inner, [&strides[1]], [0]),
            count,
            shape,
        })
    }
}

/// Reduces the elements of an f32 tensor into `out`, one output after the other; `about` has a number for each output
/// or none.
pub(super) fn reduce_into<R: Reducer>(
    level: IsaLevel,
    x: &BitNetTensor,
    plan: &Plan,
    about: &[f64],
    out: &mut [R::Output],
) -> Result<()> {
    let (all, _) = x.strided_f32()?;
    simd::run(level, ReduceKernel::<R> { x: all, plan, about, out });
    Ok(())
}

struct ReduceKernel<'a, R: Reducer> {
    x: &'a [f32],
    plan: &'a Plan,
    about: &'a [f64],
    out: &'a mut [R::Output],
}

impl<R: Reducer> Kernel for ReduceKernel<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, [step]) = self.plan.outer.run();
        let (_, [inner]) = self.plan.reduced.run();
        let mut first = 0;
        let mut runs = self.out.chunks_exact_mut(len.max(1));
        for [start] in self.plan.outer.cursor() {
            let Some(out) = runs.next() else { continue };
            let about = self.about.get(first..first + len).unwrap_or(&[]);
            first += len;
            if step == 1 && inner != 1 && len > 1 {
                for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
                    let at = block * COLUMNS;
                    columns::<R>(
                        self.x,
                        self.plan,
                        start + at,
                        about.get(at..).unwrap_or(&[]),
                        out,
                    );
                }
                continue;
            }
            let mut at = start;
            for (i, out) in out.iter_mut().enumerate() {
                let about = about.get(i).copied().unwrap_or(0.0);
                *out = R::finish(row::<R>(self.x, self.plan, at, about), self.plan.count);
                at = at.wrapping_add_signed(step);
            }
        }
    }
}

/// Reduces the elements of the output whose first one is at `start`.
#[inline(always)]
fn row<R: Reducer>(x: &[f32], plan: &Plan, start: usize, about: f64) -> R::State {
    let mut lanes = [R::START; LANES];
    let (len, [step]) = plan.reduced.run();
    for [offset] in plan.reduced.cursor() {
        let mut at = start.wrapping_add(offset);
        if step == 1 {
            let (chunks, rest) = x[at..at + len].as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = R::step(*lane, x, about);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane = R::step(*lane, x, about);
            }
            continue;
        }
        for i in 0..len {
            lanes[i % LANES] = R::step(lanes[i % LANES], x[at], about);
            at = at.wrapping_add_signed(step);
        }
    }
    joined(lanes, R::join)
}

/// Reduces the elements of outputs whose first ones are contiguous from `start`.
#[inline(always)]
fn columns<R: Reducer>(x: &[f32], plan: &Plan, start: usize, about: &[f64], out: &mut [R::Output]) {
    let mut states = [R::START; COLUMNS];
    let mut numbers = [0f64; COLUMNS];
    for (number, &about) in numbers.iter_mut().zip(about) {
        *number = about;
    }
    let (len, [step]) = plan.reduced.run();
    for [offset] in plan.reduced.cursor() {
        let mut at = start.wrapping_add(offset);
        for _ in 0..len {
            let x = &x[at..at + out.len()];
            for ((state, &x), &about) in states.iter_mut().zip(x).zip(&numbers) {
                *state = R::step(*state, x, about);
            }
            at = at.wrapping_add_signed(step);
        }
    }
    for (out, state) in out.iter_mut().zip(states) {
        *out = R::finish(state, plan.count);
    }
}
