//! Claims about bytes from peers, searched without coverage.

#[path = "claims/peers.rs"]
mod claims;

use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that look like frames: kinds that exist and do not, short lengths, some of them wrong.
fn like_frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (0_u8..9, 0_u32..24, vec(any::<u8>(), 0..24)).prop_map(|(kind, length, payload)| {
        let length = if length < 20 { u32::try_from(payload.len()).expect("short") } else { length };
        [&[kind, 0, 0, 0][..], &length.to_le_bytes(), &payload].concat()
    });
    vec(frame, 0..6).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_frames_or_an_error(data in vec(any::<u8>(), 0..200)) {
        claims::frames(&data);
    }

    #[test]
    fn almost_frames_are_frames_or_an_error(extents: u8, cut: u8, body in like_frames()) {
        claims::frames(&[&[extents, cut][..], &body].concat());
    }

    #[test]
    fn any_text_is_a_request_or_none(text in r"(/weights/[0-9a-f]{64}/(have|manifest|files/[0-9]{0,11})|bytes[= ][0-9]{0,20}-[0-9]{0,20}(/[0-9]{0,20})?|[a-z:,]{0,40})") {
        claims::texts(text.as_bytes());
    }

    #[test]
    fn ranges_of_whole_extents_are_searched(start in 0_u64..7, count in 0_u64..7, short in 0_u64..3) {
        let extent = wire::EXTENT_BYTES;
        let (first, last) = (start * extent, ((start + count) * extent).saturating_sub(short));
        claims::texts(format!("bytes={first}-{last}").as_bytes());
        claims::texts(format!("bytes {first}-{last}/{}", 5 * extent + 3).as_bytes());
    }
}
