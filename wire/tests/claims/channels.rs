//! Claims about any answer, whoever made it up: used by the property tests and by the fuzzer.

use bytes::Bytes;
use wire::openai::channels::{Answer, Edits, Envelope, Found, Whole, all_texts, error_message, read_event, read_whole};
use wire::openai::endpoint::Answers;
use wire::sse::{Event, Framer};

/// Bytes as the body of a whole answer, and as the data of an event.
pub(crate) fn answer(data: &[u8]) {
    _ = all_texts(data);
    _ = error_message(data);
    let whole = read_whole(data, Answers::Choices);
    _ = read_whole(data, Answers::Vectors);
    let Ok(json) = std::str::from_utf8(data) else {
        assert!(whole.is_err(), "an answer is text");
        return;
    };
    let event = Event { event: String::new(), data: json.to_owned() };
    let found = read_event(&event);
    if let Ok(Found::Answer(answer)) = &found {
        chunk(answer, json);
    }
    if let Ok(Whole::Answer(answer)) = whole {
        assert_eq!(found, Ok(Found::Answer(answer)), "a whole answer is read as a chunk is");
    }
}

fn chunk(answer: &Answer, json: &str) {
    assert_eq!(Edits::default().apply(json), json);
    let read = |json: &str| {
        let event = Event { event: String::new(), data: json.to_owned() };
        match read_event(&event) {
            Ok(Found::Answer(answer)) => answer,
            other => panic!("{json} became {other:?}"),
        }
    };
    let texts = |answer: &Answer, json: &str| -> Vec<_> {
        let texts = answer.choices.iter().flat_map(|choice| choice.texts.iter().map(move |text| (choice.index, text)));
        texts.map(|(index, text)| (index, text.channel.clone(), text.read(json).into_owned())).collect()
    };
    // Every text by itself, every aside gone, every choice ended.
    let mut edits = Edits::default();
    for choice in &answer.choices {
        choice.texts.iter().for_each(|text| edits.replace_text(text, &text.read(json)));
        choice.asides.iter().for_each(|aside| edits.remove_value(*aside));
        edits.finish(choice, "content_filter");
    }
    let edited = edits.apply(json);
    let again = read(&edited);
    assert_eq!(texts(&again, &edited), texts(answer, json), "{json} became {edited}");
    for choice in &again.choices {
        assert!(choice.asides.is_empty() && choice.finish_reason.as_deref() == Some("content_filter"), "{edited}");
    }
    let mut edits = Edits::default();
    for choice in &answer.choices {
        choice.texts.iter().for_each(|text| edits.replace_text(text, "gone"));
        edits.empty(choice, "content_filter");
    }
    let edited = edits.apply(json);
    assert!(!read(&edited).has_text(), "{json} became {edited}");
    // Some choices gone.
    for kept in 0..3 {
        let is_kept: Vec<bool> = (0..answer.choices.len()).map(|place| place % 3 == kept).collect();
        let mut edits = Edits::default();
        edits.keep(answer, &is_kept);
        let edited = edits.apply(json);
        let count = is_kept.iter().filter(|is_kept| **is_kept).count();
        assert_eq!(read(&edited).choices.len(), count, "{json} became {edited}");
    }
    // A chunk of our own is read back.
    let envelope = Envelope::of(answer, json);
    for (index, channel, text) in texts(answer, json).into_iter().take(8) {
        let ours = envelope.chunk(index, &channel, &text, Some("stop"));
        let read = read(&ours);
        assert!(read.asides.is_empty() && read.usage.is_none(), "{ours}");
        // The place of a string in a list of strings is not kept: there is one.
        let back: Vec<_> =
            texts(&read, &ours).into_iter().map(|(index, back, text)| (index, back.kind, text)).collect();
        assert_eq!(back, [(index, channel.kind, text)], "{ours}");
    }
}

/// Bytes as a stream, whole and in two pieces.
pub(crate) fn stream(data: &[u8]) {
    let frames = |pieces: &[&[u8]]| {
        let mut framer = Framer::new(1 << 10);
        let mut frames = Vec::new();
        let failed = pieces.iter().find_map(|piece| framer.push(Bytes::copy_from_slice(piece), &mut frames).err());
        let failed = failed.or_else(|| framer.finish().map(|last| frames.extend(last)).err());
        (frames, failed)
    };
    let (whole, failed) = frames(&[data]);
    let joined: Vec<u8> = whole.iter().flat_map(|frame| frame.raw.to_vec()).collect();
    assert!(data.starts_with(&joined), "frames keep every byte");
    let cut = usize::from(data.first().copied().unwrap_or(0)).min(data.len());
    let (cut, cut_failed) = frames(&[&data[..cut], &data[cut..]]);
    let events =
        |frames: &[wire::sse::Frame]| frames.iter().filter_map(|frame| frame.event.clone()).collect::<Vec<_>>();
    assert_eq!((events(&cut), cut_failed.is_some()), (events(&whole), failed.is_some()));
    for event in events(&whole) {
        _ = read_event(&event);
    }
}
