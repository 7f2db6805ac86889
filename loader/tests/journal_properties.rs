//! Claims that hold for every journal, found by random search.

#[path = "claims/journal.rs"]
mod claims;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn damage_is_never_believed(script in vec(any::<u8>(), 0..60), damage in vec(any::<u8>(), 0..40)) {
        claims::check(&script, &damage);
    }
}
