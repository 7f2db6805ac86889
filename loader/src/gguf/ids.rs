//! The numbers that stand for formats in GGUF files.

use tensor::Format;

/// All that files may hold today (`ggml_type` of ggml.h; the numbers that are missing were withdrawn).
const IDS: [(u32, Format); 31] = [
    (0, Format::F32),
    (1, Format::F16),
    (2, Format::Q4_0),
    (3, Format::Q4_1),
    (6, Format::Q5_0),
    (7, Format::Q5_1),
    (8, Format::Q8_0),
    (9, Format::Q8_1),
    (10, Format::Q2K),
    (11, Format::Q3K),
    (12, Format::Q4K),
    (13, Format::Q5K),
    (14, Format::Q6K),
    (16, Format::Iq2Xxs),
    (17, Format::Iq2Xs),
    (18, Format::Iq3Xxs),
    (19, Format::Iq1S),
    (20, Format::Iq4Nl),
    (21, Format::Iq3S),
    (22, Format::Iq2S),
    (23, Format::Iq4Xs),
    (24, Format::I8),
    (25, Format::I16),
    (26, Format::I32),
    (27, Format::I64),
    (28, Format::F64),
    (29, Format::Iq1M),
    (30, Format::Bf16),
    (34, Format::Tq1_0),
    (35, Format::Tq2_0),
    (39, Format::Mxfp4),
];

/// The format of this number.
pub(super) fn format(id: u32) -> Option<Format> {
    IDS.into_iter().find(|&(of, _)| of == id).map(|(_, format)| format)
}
