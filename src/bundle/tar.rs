//! A tar archive of a few small files, as POSIX.1-1988 (ustar) has it.

/// Everything is in blocks of this size.
const BLOCK: usize = 512;

/// An archive being made in memory: all files are in one folder.
#[derive(Debug)]
pub(super) struct Tar {
    folder: String,
    unix_s: u64,
    bytes: Vec<u8>,
}

impl Tar {
    /// An empty archive whose files will be in `folder` and as old as `unix_s`.
    pub(super) fn new(folder: String, unix_s: u64) -> Self {
        Self { folder, unix_s, bytes: Vec::new() }
    }

    /// Adds a file. Hidden contract: folder and name together have at most 99 bytes.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        let mut header = [0_u8; BLOCK];
        let path = format!("{}/{name}", self.folder);
        put(&mut header, 0, path.as_bytes());
        put(&mut header, 100, b"0000644\0");
        put(&mut header, 108, b"0000000\0");
        put(&mut header, 116, b"0000000\0");
        put(&mut header, 124, format!("{:011o}\0", content.len()).as_bytes());
        put(&mut header, 136, format!("{:011o}\0", self.unix_s).as_bytes());
        // The sum counts its own field as spaces.
        put(&mut header, 148, b"        ");
        header[156] = b'0';
        put(&mut header, 257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// The archive's bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn put(header: &mut [u8; BLOCK], at: usize, text: &[u8]) {
    header[at..at + text.len()].copy_from_slice(text);
}
