//! Claims for any bytes that a source answers with.

/// A fleet view, a page of EndpointSlices, or a line of a watch.
pub(crate) fn check(data: &[u8]) {
    for member in discovery::read_view(data).into_iter().chain(discovery::read_slices(data)).flatten() {
        let again = discovery::Member::at(&member.address).expect("an address that can be connected to");
        assert!(!again.host().is_empty());
        for name in [Some(&member.id), Some(&member.name), member.zone.as_ref()].into_iter().flatten() {
            assert!(wire::peers::is_name(name), "{name:?} may stand in a header and in a log");
        }
        assert!(!member.is_near, "nobody knows yet");
    }
}
