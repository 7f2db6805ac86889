//! The claims about heads of answers, searched at random; `fuzz/` searches them by coverage.

#[path = "claims/response.rs"]
mod claims;

use proptest::prelude::*;

/// Pieces that heads are made of, and some that they are not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 206 x\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: ",
        b"Content-Length: 5\r\n",
        b"Content-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Connection: keep-alive, close\r\n",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: ",
        b"Connection: close",
        b"bytes 1-2/3",
        b"bytes */9",
        b"18446744073709551615",
        b"18446744073709551616",
        b"ffffffffffffffff",
        b"<Code>",
        b"</Code>",
        b"SlowDown",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b": ",
        b"0",
        b"7",
        b"-",
        b"/",
        b" ",
    ];
    prop_oneof![
        8 => proptest::sample::select(pieces).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_head_is_read_in_one_way_or_not_at_all(pieces in proptest::collection::vec(piece(), 0..12)) {
        claims::check(&pieces.concat());
    }
}
