//! Kernels that want to know the format of a matrix, and the one table of formats; numbers widened to f32.
//!
//! Only what reads stored numbers is compiled for every format: [`widen`], and in `dots` the filling of panels and the product
//! with a single row. All else is compiled for plain numbers, and takes blocks unpacked.

use std::marker::PhantomData;

use super::blocks::{In, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::kernel::Kernel;
use super::lanes::{Bf16, F16, F32, LANES, Lanes};
use super::stored::{Stored, row_bytes};
use super::tier::Instructions;
use tensor::Format;

/// A kernel that also wants to know a format.
pub(super) trait OfElement {
    /// # Safety
    /// As for [`Kernel::run`].
    unsafe fn run<V: Lanes, E: Stored>(self);
}

struct WithElement<K, E>(K, PhantomData<E>);

impl<K: OfElement, E: Stored> Kernel for WithElement<K, E> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: passed on.
        unsafe { self.0.run::<V, E>() }
    }
}

/// Runs a kernel over numbers of a format that a matrix may have.
pub(super) fn run_with<K: OfElement>(on: Instructions, format: Format, kernel: K) {
    macro_rules! with {
        ($($name:ident => $stored:ty,)*) => {
            match format {
                $(Format::$name => on.run(WithElement::<K, $stored>(kernel, PhantomData)),)*
                other => unreachable!("binding, and `Matrix::new`, refuse what no kernel reads: {other}"),
            }
        };
    }
    with! {
        F32 => F32,
        F16 => F16,
        Bf16 => Bf16,
        Q8_0 => In<Q8_0>,
        Q4_0 => In<Q4_0>,
        Q4_1 => In<Q4_1>,
        Q5_0 => In<Q5_0>,
        Q5_1 => In<Q5_1>,
        Q2K => In<Q2K>,
        Q3K => In<Q3K>,
        Q4K => In<Q4K>,
        Q5K => In<Q5K>,
        Q6K => In<Q6K>,
        Iq4Nl => In<Iq4Nl>,
        Iq4Xs => In<Iq4Xs>,
    }
}

/// Widens stored numbers into f32.
///
/// # Panics
/// The lengths differ.
pub(crate) fn widen(on: Instructions, bytes: &[u8], format: Format, out: &mut [f32]) {
    assert_eq!(bytes.len(), row_bytes(format, out.len()), "as many numbers as room for them");
    run_with(on, format, Widen { bytes, out });
}

struct Widen<'a> {
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl OfElement for Widen<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes, E: Stored>(self) {
        let (count, from, to) = (self.out.len(), self.bytes.as_ptr(), self.out.as_mut_ptr());
        let (mut at, mut scales) = (0, E::Scales::default());
        // SAFETY: `widen` has checked that both hold `count` numbers.
        unsafe {
            while at + LANES <= count {
                if at.is_multiple_of(E::GROUP) {
                    scales = E::scales::<V>(from, at);
                }
                E::read::<V>(from, at, &scales).store(to.add(at));
                at += LANES;
            }
            if at < count {
                E::read_some::<V>(from, at, count - at, &scales).store_some(to.add(at), count - at);
            }
        }
    }
}
