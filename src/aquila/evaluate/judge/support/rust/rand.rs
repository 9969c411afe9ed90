//! What samples and tests use of rand 0.4: the same numbers in every run, so that a verdict is the same again.
use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) };
}

/// Sebastiano Vigna's splitmix64.
fn next() -> u64 {
    STATE.with(|state| {
        let value = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(value);
        let mut z = value;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

pub struct ThreadRng;

pub fn thread_rng() -> ThreadRng {
    ThreadRng
}

pub fn random<T: Rand>() -> T {
    T::from_bits(next())
}

pub trait Rand {
    fn from_bits(bits: u64) -> Self;
}

pub trait Between {
    fn between(low: Self, high: Self, bits: u64) -> Self;
}

macro_rules! integers {
    ($($kind:ty),*) => {$(
        impl Rand for $kind {
            fn from_bits(bits: u64) -> Self {
                bits as $kind
            }
        }
        impl Between for $kind {
            fn between(low: Self, high: Self, bits: u64) -> Self {
                assert!(low < high, "gen_range: low must be below high");
                (low as i128 + (bits as i128).rem_euclid(high as i128 - low as i128)) as $kind
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

macro_rules! floats {
    ($($kind:ty),*) => {$(
        impl Rand for $kind {
            fn from_bits(bits: u64) -> Self {
                ((bits >> 11) as f64 / (1u64 << 53) as f64) as $kind
            }
        }
        impl Between for $kind {
            fn between(low: Self, high: Self, bits: u64) -> Self {
                low + (high - low) * <$kind as Rand>::from_bits(bits)
            }
        }
    )*};
}
floats!(f32, f64);

impl Rand for bool {
    fn from_bits(bits: u64) -> Self {
        bits & 1 == 1
    }
}

impl Rand for char {
    fn from_bits(bits: u64) -> Self {
        char::from_u32((bits % 0xD800) as u32).unwrap_or('a')
    }
}

pub trait Rng {
    fn next_u32(&mut self) -> u32 {
        next() as u32
    }
    fn next_u64(&mut self) -> u64 {
        next()
    }
    fn gen<T: Rand>(&mut self) -> T
    where
        Self: Sized,
    {
        random()
    }
    fn gen_range<T: Between>(&mut self, low: T, high: T) -> T
    where
        Self: Sized,
    {
        T::between(low, high, next())
    }
    fn choose<'a, T>(&mut self, values: &'a [T]) -> Option<&'a T>
    where
        Self: Sized,
    {
        if values.is_empty() {
            None
        } else {
            Some(&values[self.gen_range(0, values.len())])
        }
    }
    fn shuffle<T>(&mut self, values: &mut [T])
    where
        Self: Sized,
    {
        for last in (1..values.len()).rev() {
            let other = self.gen_range(0, last + 1);
            values.swap(last, other);
        }
    }
}

impl Rng for ThreadRng {}
