//! Seeded random numbers: SplitMix64.

/// The increment of the state at each step: 2⁶⁴ divided by the golden ratio, made odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64: a seed determines the sequence, on every machine and in every version. Its state has 64 bits and period
/// 2⁶⁴ (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014, in Vigna's form). Not for secrets.
///
/// ```
/// use bitnet_core::rng::SplitMix64;
///
/// let mut random = SplitMix64::new(1234567);
/// assert_eq!(random.next_u64(), 6457827717110365317);
/// assert!((0.0..1.0).contains(&random.unit()));
/// assert!(random.below(6) < 6);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator of a seed; all seeds are equally good.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// Skips the next `count` numbers of any kind, in constant time.
    ///
    /// ```
    /// use bitnet_core::rng::SplitMix64;
    ///
    /// let (mut one, mut other) = (SplitMix64::new(7), SplitMix64::new(7));
    /// one.skip(2);
    /// let third = [(); 3].map(|()| other.next_u64())[2];
    /// assert_eq!(one.next_u64(), third);
    /// ```
    #[inline]
    pub const fn skip(&mut self, count: u64) {
        self.0 = self.0.wrapping_add(STEP.wrapping_mul(count));
    }

    /// A uniform number in `[0, 1)`, of 53 random bits.
    #[inline]
    pub const fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A uniform number in `0..bound`; 0 if `bound` is 0. Probabilities differ by at most `bound / 2⁶⁴`, relatively.
    #[inline]
    pub const fn below(&mut self, bound: usize) -> usize {
        ((self.next_u64() as u128 * bound as u128) >> 64) as usize
    }

    /// Two independent numbers of the standard normal distribution (Box and Muller), the same wherever `ln`, `sin` and
    /// `cos` of f64 are.
    pub fn normal_pair(&mut self) -> [f64; 2] {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
        [radius * cos, radius * sin]
    }

    /// Shuffles `items` uniformly.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The bits of `x` mixed so that each depends on all: a bijection that maps 0 to 0.
#[inline]
const fn mixed(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        let mut random = SplitMix64::new(1234567);
        let expected = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ];
        assert_eq!(expected.map(|_| random.next_u64()), expected);
        assert_eq!(SplitMix64::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_below_a_bound_are_below_it_and_equally_likely() {
        let mut random = SplitMix64::new(1);
        assert_eq!((random.below(0), random.below(1)), (0, 0));
        assert!((0..100).all(|_| random.below(usize::MAX) < usize::MAX));
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7)] += 1;
        }
        // Four standard deviations of a count are 370.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 370), "{counts:?}");
    }

    #[test]
    fn units_and_normals_have_their_moments() {
        let mut random = SplitMix64::new(2);
        let units: Vec<f64> = (0..40_000).map(|_| random.unit()).collect();
        assert!(units.iter().all(|unit| (0.0..1.0).contains(unit)));
        let mean = units.iter().sum::<f64>() / units.len() as f64;
        assert!((mean - 0.5).abs() < 0.006, "{mean}");
        let normals: Vec<f64> = (0..20_000).flat_map(|_| random.normal_pair()).collect();
        let moment = |power| normals.iter().map(|z: &f64| z.powi(power)).sum::<f64>() / 40_000.0;
        assert!(moment(1).abs() < 0.02, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        let products = normals.chunks(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / 20_000.0;
        assert!(products.abs() < 0.03, "{products}");
    }

    #[test]
    fn shuffling_keeps_every_item_and_reaches_every_order() {
        let mut random = SplitMix64::new(3);
        let mut orders = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            random.shuffle(&mut items);
            *orders.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(orders.len(), 6);
        // Four standard deviations of a count are 116.
        assert!(orders.values().all(|count| count.abs_diff(1000) < 116), "{orders:?}");
    }
}
