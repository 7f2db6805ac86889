//! Claims about every certificate that is read for its names.

use listen::Identity;

/// Names are few, none is empty, and none could forge a line of a log.
pub(crate) fn check(certificate: &[u8]) {
    let Some(identity) = Identity::read(certificate) else { return };
    let names = || identity.dns.iter().chain(&identity.uris);
    assert!(names().count() <= 32);
    assert!(names().all(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())));
    assert_eq!(identity.name().is_some(), names().count() > 0);
    assert_eq!(Identity::read(certificate).as_ref(), Some(&identity));
}
