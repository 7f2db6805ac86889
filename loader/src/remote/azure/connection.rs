//! Azure's connection strings: `Name=value;Name=value`. Pure.

/// The parts of a connection string that concern blobs.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Connection {
    /// `AccountName`.
    pub(super) account: Option<String>,
    /// `AccountKey`.
    pub(super) key: Option<String>,
    /// `SharedAccessSignature`.
    pub(super) sas: Option<String>,
    /// `UseDevelopmentStorage`: the emulator, whose account and key are known.
    pub(super) development: bool,
    endpoint: Option<String>,
    protocol: Option<String>,
    suffix: Option<String>,
}

impl Connection {
    /// The emulator's.
    pub(super) fn emulator() -> Self {
        Self { development: true, ..Self::default() }
    }

    /// Reads one.
    ///
    /// # Errors
    /// A part is not `Name=value`; the part is not repeated, as it may be a key.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for (number, part) in text.split(';').map(str::trim).enumerate().filter(|(_, part)| !part.is_empty()) {
            let malformed = || format!("AZURE_STORAGE_CONNECTION_STRING: part {} is not Name=value", number + 1);
            let (name, value) = part.split_once('=').ok_or_else(malformed)?;
            let value = Some(value.trim().to_owned());
            match name.trim().to_ascii_lowercase().as_str() {
                "accountname" => found.account = value,
                "accountkey" => found.key = value,
                "sharedaccesssignature" => found.sas = value,
                "blobendpoint" => found.endpoint = value,
                "defaultendpointsprotocol" => found.protocol = value,
                "endpointsuffix" => found.suffix = value,
                "usedevelopmentstorage" => {
                    found.development = value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
                }
                // Queues, tables, files: of no use here.
                _ => {}
            }
        }
        Ok(found)
    }

    /// The endpoint of the account's blobs, if it is given.
    pub(super) fn blob_endpoint(&self, account: &str) -> Option<String> {
        if let Some(endpoint) = &self.endpoint {
            return Some(endpoint.trim_end_matches('/').to_owned());
        }
        let suffix = self.suffix.as_deref()?;
        Some(format!("{}://{account}.blob.{suffix}", self.protocol.as_deref().unwrap_or("https")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_equal_signs_and_unknown_parts_are_passed_over() {
        let text = "AccountName=a; AccountKey=k==;BlobEndpoint=http://h:1/a/;QueueEndpoint=x;SharedAccessSignature=sv=1&sig=2%3D;";
        let Ok(read) = Connection::read(text) else { panic!("it is well formed") };
        assert_eq!((read.key.as_deref(), read.sas.as_deref()), (Some("k=="), Some("sv=1&sig=2%3D")));
        assert_eq!(read.blob_endpoint("a").as_deref(), Some("http://h:1/a"));
    }

    #[test]
    fn what_is_malformed_is_not_repeated() {
        let Err(problem) = Connection::read("AccountName=a;SECRET") else { panic!("it is malformed") };
        assert!(problem.contains("part 2") && !problem.contains("SECRET"), "{problem}");
    }
}
