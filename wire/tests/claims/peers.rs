//! Claims about any bytes that pretend to come from a peer.

use std::time::Duration;

use wire::extent;
use wire::peers::{
    Decoder, FRAME_BYTES_MAX, Frame, FrameError, OTHERS_MAX, Others, Path, REQUEST_EXTENTS_MAX, agree, content_range,
    is_name, parse_content_range, parse_range, range_header,
};

/// The body of a `have`: the first byte is the number of the model's extents, the second the place of a cut.
///
/// Frames do not depend on where the bytes were cut, name extents of the model alone, and are the same when they are
/// written and read again.
pub(crate) fn frames(data: &[u8]) {
    let &[extents, cut, ref body @ ..] = data else { return };
    let extents = u32::from(extents);
    let (before, after) = body.split_at(usize::from(cut).min(body.len()));
    let whole = read(extents, &[body]);
    assert_eq!(whole, read(extents, &[before, after]));
    let (frames, error) = whole;
    for frame in &frames {
        check(frame, extents);
    }
    let mut again = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut again));
    assert_eq!(read(extents, &[&again]), (frames.into_iter().filter(is_written).collect(), None));
    assert!(error.is_none_or(|error| error.to_string().len() < 200));
}

fn read(extents: u32, chunks: &[&[u8]]) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = Decoder::new(extents);
    let mut frames = Vec::new();
    let error = chunks.iter().find_map(|chunk| decoder.push(chunk, |frame| frames.push(frame)).err());
    (frames, error)
}

fn check(frame: &Frame, extents: u32) {
    match frame {
        Frame::Full(bitmap) => {
            assert_eq!(bitmap.extents(), extents);
            assert!(bitmap.iter().all(|extent| extent < extents));
            assert_eq!(bitmap.iter().count(), bitmap.count() as usize);
        }
        Frame::Add(list) | Frame::Claim(list) | Frame::Unclaim(list) => {
            assert!(list.iter().all(|extent| *extent < extents) && list.len() * 4 <= FRAME_BYTES_MAX);
        }
        Frame::State(state) => assert!(state.zone.as_deref().is_none_or(is_name)),
        Frame::Bye => {}
    }
}

/// An empty list is no frame when it is written.
fn is_written(frame: &Frame) -> bool {
    !matches!(frame, Frame::Add(list) | Frame::Claim(list) | Frame::Unclaim(list) if list.is_empty())
}

/// The texts of a request and its answer: paths, ranges, versions and names. What is accepted has one spelling.
pub(crate) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(path) = Path::parse(text) {
        assert_eq!(path.to_string(), text);
    }
    for file_bytes in [0, 1, extent::EXTENT_BYTES, 5 * extent::EXTENT_BYTES + 3, u64::MAX] {
        let extents = parse_range(text, file_bytes).ok().or_else(|| parse_content_range(text, file_bytes));
        let Some(extents) = extents else { continue };
        assert!((1..=REQUEST_EXTENTS_MAX).contains(&(extents.end - extents.start)));
        assert!(extents.end <= extent::count(file_bytes));
        let range = range_header(extents.clone(), file_bytes).expect("as it was read");
        assert_eq!(parse_range(&range, file_bytes), Ok(extents.clone()));
        let content = content_range(extents.clone(), file_bytes).expect("as it was read");
        assert_eq!(parse_content_range(&content, file_bytes), Some(extents));
    }
    let longest = Duration::from_secs(5);
    let others = Others::read(Some(text), Some(text), longest);
    assert!(others.retry_after <= longest && others.members.len() <= OTHERS_MAX);
    assert_eq!(others.names(), others.members.join(","));
    let _ = agree(Some(text));
}
