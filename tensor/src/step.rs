//! Generations of weights.

/// One generation of a backend's weights: those it was built with are 0, and every installation counts up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);
