//! Texts and frames of the protocol, there and back.

use super::frame::HEAD_BYTES;
use super::*;
use crate::digest::Digest;
use crate::extent::{self, EXTENT_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn decode(extents: u32, chunks: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new(extents);
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(chunk, |frame| frames.push(frame))?;
    }
    assert!(!decoder.is_mid_frame());
    Ok(frames)
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

fn head(kind: u8, length: u32) -> Vec<u8> {
    [&[kind, 0, 0, 0][..], &length.to_le_bytes()].concat()
}

fn bitmap(extents: u32, members: &[u32]) -> Bitmap {
    let mut bitmap = Bitmap::new(extents);
    members.iter().for_each(|&extent| assert!(bitmap.insert(extent)));
    bitmap
}

const EXTENTS: u32 = 77;

fn any_frame() -> impl Strategy<Value = Frame> {
    let list = || vec(0..EXTENTS, 1..20);
    let state = (any::<u8>(), any::<u32>(), any::<u64>(), prop::option::of("[a-z0-9-]{1,40}"));
    prop_oneof![
        vec(any::<bool>(), EXTENTS as usize).prop_map(|bits| {
            let members: Vec<u32> = (0..EXTENTS).zip(bits).filter(|(_, bit)| *bit).map(|(extent, _)| extent).collect();
            Frame::Full(bitmap(EXTENTS, &members))
        }),
        list().prop_map(Frame::Add),
        list().prop_map(Frame::Claim),
        list().prop_map(Frame::Unclaim),
        state.prop_map(|(role, queue, bytes_per_second, zone)| {
            Frame::State(State { role: Role::from_byte(role), queue, bytes_per_second, zone })
        }),
        Just(Frame::Bye),
    ]
}

proptest! {
    #[test]
    fn frames_survive_however_they_are_cut(frames in vec(any_frame(), 0..8), cuts in vec(any::<Index>(), 0..8)) {
        let bytes = encode(&frames);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(EXTENTS, &chunks), Ok(frames));
    }

    #[test]
    fn unknown_kinds_and_fields_of_a_later_release_are_skipped(
        frames in vec(any_frame(), 1..6), kind in 7_u8.., flags: u8, payload in vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = Vec::new();
        for frame in &frames {
            let length = u32::try_from(payload.len()).expect("short");
            bytes.extend([head(kind, length), payload.clone()].concat());
            let start = bytes.len();
            frame.encode(&mut bytes);
            bytes[start + 1] = flags;
            if matches!(frame, Frame::State(_) | Frame::Bye) {
                let longer = u32::try_from(bytes.len() - start - HEAD_BYTES + payload.len()).expect("short");
                bytes[start + 4..start + 8].copy_from_slice(&longer.to_le_bytes());
                bytes.extend_from_slice(&payload);
            }
        }
        prop_assert_eq!(decode(EXTENTS, &[&bytes]), Ok(frames));
    }

    #[test]
    fn paths_survive_their_text(root: [u8; 32], file: u32) {
        for resource in [Resource::Manifest, Resource::Have, Resource::Attested, Resource::File(file)] {
            let path = Path { root: Digest(root), resource };
            prop_assert_eq!(Path::parse(&path.to_string()), Some(path));
        }
    }

    #[test]
    fn ranges_survive_their_text(bytes in 1_u64..40 * EXTENT_BYTES, start in 0_u64..12, count in 1_u64..=4) {
        let extents = start..start + count;
        let fits = extents.end <= extent::count(bytes);
        let range = range_header(extents.clone(), bytes);
        prop_assert_eq!(range.is_some(), fits);
        if let Some(range) = range {
            prop_assert_eq!(parse_range(&range, bytes), Ok(extents.clone()));
            let content = content_range(extents.clone(), bytes).expect("as the range");
            prop_assert_eq!(parse_content_range(&content, bytes), Some(extents));
            prop_assert_eq!(parse_content_range(&content, bytes + 1), None);
        }
    }

    #[test]
    fn layouts_number_every_extent_once(sizes in vec(prop_oneof![Just(0), 1_u64..5 * EXTENT_BYTES], 0..8)) {
        let layout = Layout::new(sizes.iter().copied()).expect("few");
        let mut next = 0;
        for (file, &bytes) in sizes.iter().enumerate() {
            for index in 0..extent::count(bytes) {
                let id = ExtentId { file, index };
                prop_assert_eq!(layout.number(id), Some(next));
                prop_assert_eq!(layout.id(next), Some(id));
                next += 1;
            }
            prop_assert_eq!(layout.number(ExtentId { file, index: extent::count(bytes) }), None);
        }
        prop_assert_eq!(layout.extents(), next);
        prop_assert_eq!(layout.id(next), None);
    }
}

#[test]
fn the_bytes_of_frames_are_what_is_documented() {
    let state = State { role: Role::Serving, queue: 3, bytes_per_second: 0x0102, zone: Some("z1".into()) };
    let frames = [Frame::Full(bitmap(10, &[0, 9])), Frame::Add(vec![1, 258]), Frame::State(state), Frame::Bye];
    let expected: Vec<u8> = [
        &[1, 0, 0, 0, 2, 0, 0, 0, 0b0000_0001, 0b0000_0010][..],
        &[2, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0],
        &[5, 0, 0, 0, 19, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 2, b'z', b'1'],
        &[6, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    assert_eq!(encode(&frames), expected);
}

#[test]
fn frames_that_are_too_long_or_of_another_model_end_the_stream() {
    let over = u32::try_from(FRAME_BYTES_MAX + 1).expect("small");
    for (bytes, what) in [
        (head(1, 3), "bits of another model"),
        ([head(1, 2), vec![0, 0b100]].concat(), "a bit beyond the last extent"),
        ([head(1, 1), vec![0]].concat(), "too few bits"),
        ([head(2, 4), vec![10, 0, 0, 0]].concat(), "an extent beyond the last"),
        ([head(2, 3), vec![1, 0, 0]].concat(), "half a number"),
        (head(2, 44), "more extents than there are"),
        (head(5, 5 << 10), "a long state"),
        ([head(5, 16), vec![0; 16]].concat(), "a short state"),
        ([head(5, 17), vec![0; 16], vec![1]].concat(), "a zone that is cut"),
        ([head(5, 18), vec![0; 16], vec![1, b'\n']].concat(), "a zone that would forge a line"),
        (head(9, over), "an unknown kind without end"),
    ] {
        assert!(decode(10, &[&bytes]).is_err(), "{what}");
    }
    assert_eq!(decode(10, &[&head(9, 0), &head(6, 0)]), Ok(vec![Frame::Bye]));
}

#[test]
fn long_lists_are_several_frames() {
    let extents: Vec<u32> = (0..300_000).collect();
    let bytes = encode(&[Frame::Add(extents.clone())]);
    let frames = decode(300_000, &[&bytes]).expect("good frames");
    assert_eq!(frames.len(), 2);
    let read: Vec<u32> = frames
        .into_iter()
        .flat_map(|frame| match frame {
            Frame::Add(extents) => extents,
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(read, extents);
}

#[test]
fn nothing_but_one_spelling_is_a_path_or_a_range() {
    let root = Digest([1; 32]).to_hex();
    let upper = root.replace("01", "0A");
    for rest in ["", "files", "files/", "files/01", "files/+1", "files/4294967296", "files/1/", "Manifest", "have/"] {
        assert_eq!(Path::parse(&format!("/weights/{root}/{rest}")), None, "{rest}");
    }
    for path in ["/weights", "/weights/", &format!("/weights/{upper}/have"), &format!("/weights/blake3:{root}/have")] {
        assert_eq!(Path::parse(path), None, "{path}");
    }
    let bytes = 9 * EXTENT_BYTES + 5;
    for range in [
        "",
        "bytes=",
        "bytes=0-",
        "bytes=-5",
        "bytes=0-4194302",
        "bytes=1-4194303",
        "bytes=0-4194304",
        "bytes=0-4194303,4194304-8388607",
        "bytes=+0-4194303",
        "bytes=0-20971519",
        "bytes=37748736-37748741",
        "bytes=37748736-41943039",
        "bytes=5-4",
        "bytes=0-18446744073709551615",
        "items=0-4194303",
    ] {
        assert_eq!(parse_range(range, bytes), Err(RangeError), "{range}");
    }
    assert_eq!(parse_range("bytes=37748736-37748740", bytes), Ok(9..10));
    assert_eq!(parse_range("bytes=0-16777215", bytes), Ok(0..4));
}

#[test]
fn versions_agree_on_the_newest_that_both_speak() {
    assert_eq!(agree(Some(&VERSION.to_string())), Some(VERSION));
    assert_eq!(agree(Some(&(VERSION + 1).to_string())), Some(VERSION));
    for wrong in ["", "+1", " 1", "1 ", "65536", "one", "0"] {
        assert_eq!(agree(Some(wrong)), None, "{wrong:?}");
    }
}

#[test]
fn a_refusal_says_when_and_where_within_bounds() {
    let members = ["a:8082", "b,c", "", "d:8082"].map(str::to_owned).to_vec();
    let others = Others { retry_after: Duration::from_millis(1_001), members };
    assert_eq!((others.retry_after_s(), others.names().as_str()), (2, "a:8082,d:8082"));
    let longest = Duration::from_secs(5);
    let read = Others::read(Some("1001"), Some("a:8082, d:8082,"), longest);
    assert_eq!((read.retry_after, read.members), (others.retry_after, vec!["a:8082".into(), "d:8082".into()]));
    for wrong in [None, Some("-1"), Some("+1"), Some("99999999999999999999"), Some("6000"), Some("")] {
        assert_eq!(Others::read(wrong, None, longest).retry_after, longest, "{wrong:?}");
    }
    let many = vec!["x"; 1_000].join(",");
    assert_eq!(Others::read(None, Some(&many), longest).members.len(), OTHERS_MAX);
}
