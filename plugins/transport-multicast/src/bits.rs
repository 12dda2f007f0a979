//! A set of block numbers.

use crate::wire::message::{Run, numbers};

/// Numbers below a bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    bound: u32,
    count: u32,
}

impl Bits {
    /// None of the numbers below this.
    pub fn none(bound: u32) -> Self {
        Self { words: vec![0; bound.div_ceil(64) as usize], bound, count: 0 }
    }

    /// Those of runs; what is beyond the bound is left out.
    pub fn of_runs(runs: &[Run], bound: u32) -> Self {
        let mut bits = Self::none(bound);
        for number in numbers(runs, bound) {
            bits.insert(number);
        }
        bits
    }

    /// Whether it is in.
    pub fn has(&self, number: u32) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Puts it in; whether it was not.
    pub fn insert(&mut self, number: u32) -> bool {
        let fresh = number < self.bound && !self.has(number);
        if fresh && let Some(word) = self.words.get_mut((number / 64) as usize) {
            *word |= 1 << (number % 64);
            self.count += 1;
        }
        fresh
    }

    /// Takes it out; whether it was in.
    pub fn remove(&mut self, number: u32) -> bool {
        let was = self.has(number);
        if was && let Some(word) = self.words.get_mut((number / 64) as usize) {
            *word &= !(1 << (number % 64));
            self.count -= 1;
        }
        was
    }

    /// How many are in.
    #[cfg(test)]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether none is in.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Those that are in, sorted.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(index, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u32 * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_and_out() {
        let mut bits = Bits::of_runs(&[(60, 10), (100, 1000)], 130);
        assert_eq!((bits.len(), bits.iter().next(), bits.iter().last()), (40, Some(60), Some(129)));
        assert!(bits.remove(64) && !bits.remove(64) && !bits.has(64) && bits.has(65));
        assert!(!bits.insert(65) && bits.insert(64) && !bits.insert(130) && !bits.insert(u32::MAX));
        assert_eq!(bits.len(), 40);
    }
}
